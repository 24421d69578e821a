"""Where the output can't go: to a full disk, or to streams that are closed."""

import io
import json
import os
import subprocess
import wave

import pytest

from speech.tiny_whisper import make_tiny_whisper

from .processes import COMMAND, ENVIRONMENT


@pytest.fixture(scope="module")
def places(tiny, tmp_path_factory):
    """What the command lines below name."""
    folder = tmp_path_factory.mktemp("output")
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    (folder / "tone.wav").write_bytes(held.getvalue())
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "model": "m"}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (folder / "in.jsonl").write_text(json.dumps(request) + "\n")
    whisper = make_tiny_whisper(folder / "whisper")
    return {
        "tiny": tiny,
        "whisper": str(whisper),
        "wav": str(folder / "tone.wav"),
        "requests": str(folder / "in.jsonl"),
    }


def octavo(line, places, stdin="", **streams):
    words = [word.format(**places) for word in line.split()]
    options = {"stderr": subprocess.PIPE, "text": True, "timeout": 60, "env": ENVIRONMENT, **streams}
    return subprocess.run([*COMMAND, *words], input=stdin, **options)


WRITERS = {
    "--help": "",
    "--version": "",
    "run --help": "",
    "bench --help": "",
    "pull {tiny}": "",
    "models": "",
    "models {tiny} --json": "",
    "run {tiny} hi --max-tokens 2": "",
    "run {tiny} hi --max-tokens 2 --json": "",
    "complete {tiny} hi --max-tokens 2": "",
    "chat {tiny} --max-tokens 2": "hi\n",
    "bench latency {tiny} --input-len 4 --output-len 2 --num-iters 1 --warmup 1": "",
    "transcribe --model {whisper} --dtype float32 --language en --format json {wav}": "",
}


@pytest.mark.parametrize(("line", "stdin"), WRITERS.items())
def test_a_full_disk_or_a_closed_stdout_is_one_line_and_exit_code_1(line, stdin, places):
    with open("/dev/full", "w") as full:
        found = octavo(line, places, stdin, stdout=full)
    closed = octavo(line, places, stdin, preexec_fn=lambda: os.close(1))
    for done, reason in ((found, "No space left on device"), (closed, "Bad file descriptor")):
        *_, last = done.stderr.splitlines()
        assert last == f"octavo: the output can't be written: {reason}"
        assert "Traceback" not in done.stderr
        assert done.returncode == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "bench latency {tiny} --input-len 4 --output-len 2 --num-iters 1 --warmup 1 --output-json /dev/full",
            "the output can't be written: No space left on device",
        ),
        (
            "run-batch {tiny} -i {requests} -o /dev/full --served-model-name m",
            "--output-file /dev/full: No space left on device; run again to go on",
        ),
    ],
    ids=["bench", "batch"],
)
def test_a_full_disk_under_a_file_of_results_is_one_line(line, told, places):
    done = octavo(line, places, stdout=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"octavo: {told}"
    assert done.returncode == 1


def test_without_stderr_the_answer_alone_is_on_stdout(places):
    line = "run {tiny} hi --max-tokens 2 --temperature 0"
    whole = octavo(line, places, stdout=subprocess.PIPE)
    alone = octavo(line, places, stdout=subprocess.PIPE, stderr=None, preexec_fn=lambda: os.close(2))
    assert (alone.returncode, alone.stdout) == (0, whole.stdout)
    mistake = octavo("run a b c", places, stdout=subprocess.PIPE, stderr=None, preexec_fn=lambda: os.close(2))
    assert (mistake.returncode, mistake.stdout) == (2, "")
    with open("/dev/full", "w") as full:
        assert octavo("run a b c", places, stderr=full).returncode == 2


@pytest.mark.parametrize("line", ["run {tiny} -", "complete {tiny} -"])
def test_a_closed_stdin_has_no_prompt(line, places):
    done = octavo(line, places, None, preexec_fn=lambda: os.close(0))
    assert done.returncode == 2
    assert done.stderr == "octavo: the prompt is empty; it must have at least one token\n"


def test_a_chat_with_a_closed_stdin_ends(places):
    assert octavo("chat {tiny}", places, None, preexec_fn=lambda: os.close(0)).returncode == 0
