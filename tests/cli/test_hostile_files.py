"""A model's files that are wrong end a command with one line and the exit code 2, whatever is wrong with them."""

import json

import pytest

from octavo.cli.main import main

from .conftest import make_tiny_llama


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    from speech.tiny_whisper import make_tiny_whisper

    return make_tiny_whisper(tmp_path_factory.mktemp("models") / "whisper")


def refused(capfd, *argv):
    """The one line on the screen."""
    assert main([*map(str, argv)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("octavo: ")
    assert len(line) < 1500
    return line


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", '{"a":' + "[" * 100_000, "nested too deeply"),
        ("config.json", json.dumps({"architectures": "x" * 100_000}), "is not known here; the nearest that are"),
        ("generation_config.json", "[" * 100_000, "nested too deeply"),
        ("generation_config.json", '{"eos_token_id": -1}', "eos_token_id: must be an integer in 0..257, got -1"),
        ("generation_config.json", '{"eos_token_id": 258}', "eos_token_id: must be an integer in 0..257, got 258"),
        ("generation_config.json", '{"eos_token_id": [1, 258]}', "must be a list of integers in 0..257"),
        ("generation_config.json", '{"eos_token_id": "1"}', "eos_token_id: must be an integer"),
        ("generation_config.json", '{"temperature": "hot"}', "temperature"),
        ("tokenizer_config.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_text_model(capfd, tmp_path, name, content, reason):
    (make_tiny_llama(tmp_path / "m") / name).write_text(content)
    assert reason in refused(capfd, "run", tmp_path / "m", "hi")


def test_a_regex_that_never_ends(capfd, tmp_path):
    file = make_tiny_llama(tmp_path / "m") / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$b"}, "behavior": "Isolated", "invert": False}
    file.write_text(json.dumps({**json.loads(file.read_text()), "pre_tokenizer": split}))
    assert "retry-limit-in-match over" in refused(capfd, "run", tmp_path / "m", "hi")


def test_an_option_that_is_wrong_is_told_without_notes_on_others(capfd, tmp_path):
    make_tiny_llama(tmp_path / "m")
    for command in (["run", tmp_path / "m", "hi"], ["serve", tmp_path / "m", "--port", "0"]):
        line = refused(capfd, *command, "--trust-remote-code", "--block-size", "7")
        assert line == "octavo: --block-size 7: must be one of 16, 32, 64, 128, 256"


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("generation_config.json", {"alignment_heads": [[0, 99]]}, "must be pairs of one of 1 layers"),
        ("generation_config.json", {"alignment_heads": 7}, "must be pairs"),
        ("generation_config.json", {"begin_suppress_tokens": [True]}, "must be a list of integers"),
        ("generation_config.json", {"suppress_tokens": "all"}, "must be a list of integers"),
        ("generation_config.json", {"suppress_tokens": [*range(300)]}, "must leave the model the end"),
        ("config.json", {"max_source_positions": 750}, "model.encoder.embed_positions.weight: has shape"),
        ("config.json", {"num_mel_bins": 128}, "model.encoder.conv1.weight: has shape"),
        ("config.json", {"max_target_positions": 1 << 23}, "model.decoder.embed_positions.weight: has shape"),
    ],
)
def test_a_speech_model(capfd, tmp_path, whisper, name, changes, reason):
    for file in whisper.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    line = refused(capfd, "transcribe", "--model", tmp_path, __file__)
    assert reason in line
    assert name in line or name == "config.json"
