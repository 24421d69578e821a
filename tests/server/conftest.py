"""Servers for tests: one of the default model for most of them, and others as they are asked for."""

import json
from dataclasses import replace

import pytest

from checkpoints import edit_config
from cli.conftest import make_tiny_llama
from encoders import ENCODERS, save_modules, save_words

from .running import Server

MODEL = "tiny-assistant"
CLASSIFIERS = {"labels": ["bad", "so so", "good"], "pairs": ["LABEL_0"]}  # of `pooling_server`, and their labels
TEXT, SPEECH = "assistant", "openai/whisper-tiny.en"


@pytest.fixture(scope="session")
def server(real_model, tmp_path_factory):
    """The default model on one thread, with a context of 2048 tokens."""
    folder = tmp_path_factory.mktemp("server")
    running = Server(
        folder / "log",
        *("--data-dir", folder / "data", "--max-file-bytes", "1M"),
        *(real_model, "--served-model-name", MODEL, "assistant", "--max-model-len", "2048", "--max-num-seqs", "16"),
        environment={"OCTAVO_NUM_THREADS": "1"},
    )
    try:
        yield running.wait()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def audio_server(real_model, whisper_model, tmp_path_factory):
    """The default model and Whisper tiny.en in one process; it takes files of 8 MiB."""
    folder = tmp_path_factory.mktemp("audio-server")
    models = [
        {"model": str(real_model), "served-model-name": TEXT, "max-model-len": 2048, "max-num-seqs": 16},
        {"model": str(whisper_model), "served-model-name": SPEECH, "max-num-seqs": 16},
    ]
    (folder / "serve.yaml").write_text(json.dumps({"models": models, "max-audio-bytes": "8M"}))
    running = Server(folder / "log", "--config", folder / "serve.yaml", environment={"OCTAVO_NUM_THREADS": "1"})
    try:
        yield running.wait()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def pooling_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pooling-server")


@pytest.fixture(scope="session")
def words_model(pooling_folder):
    """transformers' model, of what `pooling_server` has as "words"."""
    path = pooling_folder / "words"
    model = ENCODERS["BERT"].save(path)
    save_words(path)
    save_modules(path, prompts={"prompts": {"query": "query : ", "passage": "passage : "}})
    edit_config(path, matryoshka_dimensions=[16, 32])
    return model


@pytest.fixture(scope="session")
def pooling_server(pooling_folder, words_model):
    """Models that embed, chat, classify and score pairs, on one thread; requests have up to 50 prompts."""
    make_tiny_llama(pooling_folder / "chat")
    for name, labels in CLASSIFIERS.items():
        sizes = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
        replace(ENCODERS["BERT"], suffix="ForSequenceClassification", sizes=sizes).save(pooling_folder / name)
        save_words(pooling_folder / name)
    models = [
        {"model": str(pooling_folder / name), "served-model-name": name, "dtype": "float32", "max-num-seqs": 8}
        for name in ("words", "chat", *CLASSIFIERS)
    ]
    (pooling_folder / "serve.yaml").write_text(json.dumps({"models": models, "max-prompts": 50}))
    running = Server(
        *(pooling_folder / "log", "--config", pooling_folder / "serve.yaml"),
        environment={"OCTAVO_NUM_THREADS": "1"},
    )
    try:
        yield running.wait()
    finally:
        running.stop()


@pytest.fixture
def http(server):
    with server.client() as client:
        yield client


@pytest.fixture
def ai(server):
    with server.openai() as client:
        yield client


@pytest.fixture
def start(tmp_path):
    """Starts further servers, which end with the test."""
    running = []

    def start(*arguments, wait="ready: ", **options):
        server = Server(tmp_path / f"log-{len(running)}", *arguments, **options)
        running.append(server)
        return server.wait(wait) if wait else server

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A random model with a long context, for what needs no sense."""
    folder = tmp_path_factory.mktemp("models")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)  # other users may read it
    return make_tiny_llama(folder / "tiny", max_position_embeddings=8192)
