"""Every flag of every command, with a value that is empty, of another type, out of range, or huge.

The parsers tell their flags, so that a new one is tried by itself. A value is refused with exit code 2 and one short
line that names the flag, unless it is listed here as one that means something.
"""

import argparse
import json
import re
from importlib import import_module

import pytest

from asking import something_else
from octavo.cli.flag import as_flag
from octavo.cli.main import main
from octavo.cli.options import spell_flags
from octavo.cli.server_flags import SERVER_FLAGS, SERVER_NOTED, SERVER_REFUSED, SPELLINGS
from octavo.options import NOTED, ON_CPU, REFUSED, asks, literal

VALUES = {
    "empty": "",
    "blank": " ",
    "word": "x",
    "negative": "-7",
    "zero": "0",
    "infinite": "1e999",
    "no number": "nan",
    "huge": "9" * 400,
    "long": "y" * 5000,
    "device": "/dev/zero",
}
# What means something: kinds of values, and the flags that take all of them.
TEXT = {"word", "negative", "zero", "infinite", "no number", "huge", "long", "device"}
FILE = {"word", "negative", "zero", "infinite", "no number", "device"}
ACCEPTED = {
    "--alias --tags --api-key --endpoint --host --language --model --response-role --served-model-name": TEXT,
    # Looked for when the model is loaded, or when the port is bound.
    "--chat-template --download-dir --generation-config --revision --tokenizer --ssl-certfile --uds": TEXT,
    "--logits-processors --tool-call-parser --data-dir --prefix-cache-dir": TEXT,
    "--reasoning-parser": {*TEXT, "empty", "blank"},
    "--prompt --system": {*TEXT, "empty", "blank"},
    "--stop": TEXT - {"long"},
    "--root-path": {"empty", "device"},
    "--allowed-headers --allowed-methods --base-url": TEXT - {"device"},
    "--output-dir --output-file --output-json --result-filename": FILE,
    "--seed": {"negative", "zero"},
    "--temperature --top-k --min-p --min-tokens --frequency-penalty --presence-penalty": {"zero"},
    "--port --random-range-ratio --shutdown-timeout --ssl-cert-reqs --max-logprobs": {"zero"},
    "--num-warmups --random-prefix-len": {"zero"},
    "--burstiness --request-rate --timeout": {"infinite", "huge"},
}
PARSERS = {
    "run": "run",
    "transcribe": "transcribe",
    "serve": "serve",
    "chat": "chat",
    "complete": "complete",
    "run-batch": "run_batch",
    "pull": "pull",
    "bench latency": "bench.offline",
    "bench throughput": "bench.offline",
    "bench serve": "bench.serve",
}
ARGUMENTS = {"serve": ["octavo serve"], "bench latency": ["latency"], "bench throughput": ["throughput"]}


class ReachedError(Exception):
    """Everything that was typed is accepted: the work would begin."""


def flags_of(command):
    """The spellings of each flag that takes a value, the longest last; hidden ones of `serve` only."""
    for action in import_module(f"octavo.cli.{PARSERS[command]}")._parser(*ARGUMENTS.get(command, []))._actions:
        is_seen = action.help is not argparse.SUPPRESS or command == "serve"
        takes_value = action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if action.option_strings and takes_value and is_seen:
            yield sorted(action.option_strings, key=len)


def accepted(flag):
    """The kinds of values that mean something: as listed, all of an option that is noted, those that ask nothing."""
    name = flag[2:].replace("-", "_")
    if name in NOTED or name in ON_CPU or name in SERVER_NOTED:
        return {*TEXT, "empty"}
    neutral = {**REFUSED, **SERVER_REFUSED}.get(name)
    if neutral is not None:
        several = isinstance(neutral[0][0], list)
        read = {kind: [literal(value)] if several else literal(value) for kind, value in VALUES.items()}
        return {kind for kind, value in read.items() if not asks(value, neutral[0])}
    return next((kinds for flags, kinds in ACCEPTED.items() if flag in flags.split()), set())


@pytest.fixture
def reaches(monkeypatch, tmp_path):
    """Runs a command until its work would begin, and tells whether it came so far; if not, its exit code is 2."""

    def begin(*arguments, **options):
        raise ReachedError

    beginnings = ["llm.load", "async_llm.load", "weights.source.resolve", "server.loading.start_loading"]
    beginnings += [f"client.api.ApiClient.{method}" for method in ("models", "stream")]
    for place in beginnings:
        monkeypatch.setattr(f"octavo.{place}", begin)
    monkeypatch.setattr("octavo.server.listener.bind", lambda config: None)
    monkeypatch.setattr("octavo.server.listener.address", lambda *_: "nowhere")
    monkeypatch.setattr("octavo.server.logs.set_up", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for name in ("in.jsonl", "a.wav"):
        (tmp_path / name).write_text("{}\n")
    more = {"run": ["hi"], "complete": ["hi"], "transcribe": ["a.wav"], "bench serve": ["--url", "http://127.0.0.1:1"]}
    more["run-batch"] = ["-i", "in.jsonl", "-o", "out.jsonl"]

    def run(command, *arguments):
        try:
            assert main([*command.split(), *more.get(command, []), *arguments]) == 2, arguments
        except ReachedError:
            return True
        else:
            return False

    return run


@pytest.mark.parametrize("command", PARSERS)
def test_a_value_is_refused_in_one_line_that_names_the_flag_unless_it_means_something(command, reaches, capsys):
    assert reaches(command)
    for spellings in flags_of(command):
        flag = spellings[-1]
        ours = SPELLINGS.get(flag[2:].replace("-", "_"), ("", False))[0].replace("_", "-")
        for kind, value in VALUES.items():
            capsys.readouterr()
            if reaches(command, f"{flag}={value}"):
                assert kind in accepted(flag), (flag, kind)
            else:
                err = capsys.readouterr().err
                assert err.startswith("octavo: "), (flag, kind)
                assert err.count("\n") == 1, (flag, kind, err)
                assert any(name in err for name in [*spellings, *([f"--{ours}"] if ours else [])]), (flag, kind, err)
                assert len(err) < 500, (flag, kind, err)


def typed(name, neutral):
    """A flag with a value that asks for something."""
    value = something_else(neutral)
    if isinstance(value, bool):
        return [as_flag(name) if value else f"--no-{as_flag(name)[2:]}"]
    return [as_flag(name), *(value if isinstance(value, list) else [json.dumps(value)])]


LOCAL = [command for command in PARSERS if command not in ("pull", "bench serve")]
OF_COMMAND = {  # which have a meaning for it
    "serve": {*SPELLINGS, *(flag.name for flag in SERVER_FLAGS), "served_model_name"},
    "run-batch": {"served_model_name"},
}


@pytest.mark.parametrize("command", LOCAL)
def test_every_flag_without_a_meaning_is_noted_in_one_line(command, reaches, capsys, caplog):
    table = {name: entry for name, entry in (NOTED | ON_CPU).items() if name not in OF_COMMAND.get(command, ())}
    table |= SERVER_NOTED if command == "serve" else {}
    words = [word for name, (neutral, _) in table.items() for word in typed(name, neutral)]
    assert reaches(command, "--device", "cpu", *words)
    lines = capsys.readouterr().err.splitlines() + caplog.messages
    for name, (_, note) in table.items():
        about = [line for line in lines if re.match(rf"(octavo: )?({name}=|{as_flag(name)}[ :])", line)]
        assert len(about) == 1, (name, about)
        assert about[0].endswith(spell_flags(note) if about[0].startswith("octavo: ") else note)
    assert len(lines) == len(table)


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ON_CPU])
def test_every_flag_that_asks_for_what_is_not_there_is_refused_by_name(name, reaches, capsys):
    assert not reaches("run", "--device", "cpu", *typed(name, REFUSED[name][0]))
    assert capsys.readouterr().err.startswith(f"octavo: {as_flag(name)}")


@pytest.mark.parametrize("name", SERVER_REFUSED)
def test_every_flag_of_a_server_that_asks_for_what_is_not_there_is_refused_by_name(name, reaches, capsys):
    assert not reaches("serve", *typed(name, SERVER_REFUSED[name][0]))
    assert capsys.readouterr().err.startswith(f"octavo: {as_flag(name)}")


def test_two_models_have_one_note(reaches, caplog):
    assert reaches("serve", "one", "two", "--device", "cpu", "--swap-space", "8", "--dtype", "half")
    assert [line.partition("=")[0] for line in caplog.messages] == ["dtype", "swap_space"]


def test_pull_takes_no_flag_that_it_would_ignore(reaches, capsys):
    assert not reaches("pull", "--override-generation-config", "{}")
    assert "no such flag" in capsys.readouterr().err
