"""`octavo transcribe`: files in, text or subtitles out."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest

from octavo.cli.main import main
from octavo.speech.formats import FORMATS
from speech.tiny_whisper import make_tiny_whisper

from .processes import octavo


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny"))


def wav(path, seconds=0.5, rate=16000):
    """A file with a loud tone that comes and goes."""
    time = np.arange(int(seconds * rate)) / rate
    samples = (20000 * np.sin(2 * np.pi * 300 * time) * np.sin(20 * time)).astype("<i2")
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    path.write_bytes(held.getvalue())
    return str(path)


def transcribe(model, *arguments):
    return main(["transcribe", "--model", model, "--dtype", "float32", "--language", "en", *arguments])


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_goes_to_stdout_or_to_a_file(model, tmp_path, capsys, format):
    file = wav(tmp_path / "tone.wav")
    assert transcribe(model, file, "--format", format) == 0
    found = capsys.readouterr()
    assert "0.5 s of audio in" in found.err
    assert transcribe(model, file, "--format", format, "-o", str(tmp_path / "new" / "out")) == 0
    assert capsys.readouterr().out == ""
    (written,) = (tmp_path / "new" / "out").iterdir()
    assert written.name == f"tone{FORMATS[format].suffix}"
    assert written.read_text() == found.out


def test_words_have_times_in_verbose_json(model, tmp_path, capsys):
    file = wav(tmp_path / "tone.wav")
    assert transcribe(model, file, "--format", "verbose_json", "--word-timestamps") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["duration"] == 0.5
    assert isinstance(value["words"], list)


def test_of_several_files_a_bad_one_loses_only_itself(model, tmp_path, capsys):
    good, bad = wav(tmp_path / "good.wav"), tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    assert transcribe(model, str(bad), good, "--format", "json") == 2
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 1
    assert "text" in json.loads(found.out)
    assert "octavo: bad.wav: is not audio" in found.err


def test_a_file_that_is_not_there_loses_only_itself(model, tmp_path, capsys):
    good, missing = wav(tmp_path / "good.wav"), str(tmp_path / "missing.wav")
    assert transcribe(model, missing, str(tmp_path), good, "--format", "json") == 2
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 1
    lines = found.err.splitlines()
    assert lines[:2] == [f"octavo: {missing}: there is no such file", f"octavo: {tmp_path}: is a directory"]
    assert "0.5 s of audio in" in lines[-1]


def test_stdin_is_a_file_too(model, tmp_path):
    import subprocess

    from .processes import COMMAND, ENVIRONMENT

    data = Path(wav(tmp_path / "tone.wav")).read_bytes()
    command = [*COMMAND, "transcribe", "-", "--model", model, "--language", "en", "--format", "json"]
    done = subprocess.run(command, input=data, capture_output=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "text" in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.wav"], "missing.wav: there is no such file"),
        (["."], ".: is a directory"),
        (["-", "-"], "- is given twice"),
        (["{file}", "--format", "docx"], "--format"),
        (["{file}", "--word-timestamps"], "needs --format verbose_json"),
        (["missing.wav", "nor this", "-o", "out"], "nor this: there is no such file"),
        (["{file}", "-o", "{file}/out"], "tone.wav/out: can't be made: Not a directory"),
        (["{file}", "-o", "{file}"], "tone.wav: can't be made: File exists"),
        (["{file}", "{file}", "-o", "."], "several files would be written to tone.txt"),
        (["{file}", "--temperature", "2"], "--temperature must be in 0..1"),
        (["{file}", "--beam-size", "99"], "must be an integer in 1..32, got 99"),
        (["{file}", "--language", "klingon"], "de (German)"),
        ([], "FILE"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(model, tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    file = wav(tmp_path / "tone.wav")
    words = [argument.format(file=file) for argument in arguments]
    assert main(["transcribe", "--model", model, *words]) == 2
    found = capsys.readouterr()
    assert says in found.err
    assert found.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]


def test_a_model_of_text_can_t_listen(tiny, tmp_path, capsys):
    assert main(["transcribe", "--model", tiny, wav(tmp_path / "tone.wav")]) == 2
    assert "Whisper" in capsys.readouterr().err


def test_the_real_model_writes_down_what_is_said(whisper_model, audio_path, spoken_text):
    expected = " ".join(spoken_text.split())
    for dtype in ("bfloat16", "float32"):
        done = octavo("transcribe", str(audio_path), "--model", str(whisper_model), "--dtype", dtype)
        assert done.stdout == expected + "\n", done.stderr
