"""What the words after an image's name start."""

import subprocess
import sys
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "deploy" / "entrypoint.sh"
SERVE = "octavo serve --host 0.0.0.0"


@pytest.fixture
def programs(tmp_path):
    """A folder of programs that print how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("octavo", "python3"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def started(programs, *words):
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    done = subprocess.run(["sh", ENTRYPOINT, *words], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("", SERVE),
        ("--model a/b --dtype half", f"{SERVE} --model a/b --dtype half"),
        ("a/b --port 9", f"{SERVE} a/b --port 9"),
        ("pypi:name", f"{SERVE} pypi:name"),
        ("/models/some.gguf", f"{SERVE} /models/some.gguf"),
        ("serve a/b", f"{SERVE} a/b"),
        ("serve", SERVE),
        ("octavo serve a/b", f"{SERVE} a/b"),
        ("vllm serve a/b", f"{SERVE} a/b"),
        ("vllm bench serve --url u", "octavo bench serve --url u"),
        ("python3 -m vllm.entrypoints.openai.api_server --model a/b", f"{SERVE} --model a/b"),
        ("python3 -m json.tool", "python3 -m json.tool"),
        ("run -", "octavo run -"),
        ("octavo transcribe a.wav", "octavo transcribe a.wav"),
        ("octavo", SERVE),
        ("--help", "octavo --help"),
        ("--version", "octavo --version"),
        ("echo hello", "hello"),
        ("/bin/echo hello", "hello"),
    ],
)
def test_words_become_a_command(programs, words, command):
    assert started(programs, *words.split()) == command


def test_a_model_file_is_served_even_if_it_may_be_run(programs, tmp_path):
    model = tmp_path / "some.gguf"
    model.touch(0o755)
    assert started(programs, str(model)) == f"{SERVE} {model}"


def test_an_argument_stays_one_word(programs):
    (programs / "octavo").write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    assert started(programs, "run", "two words", "") == str(["run", "two words", ""])


def test_the_program_takes_the_place_of_the_shell(programs):
    """So that a container's signals reach it."""
    (programs / "octavo").write_text("#!/bin/sh\necho $$\n")
    with subprocess.Popen(
        ["sh", ENTRYPOINT], env={"PATH": f"{programs}:/usr/bin:/bin"}, stdout=subprocess.PIPE
    ) as made:
        assert int(made.stdout.read()) == made.pid
