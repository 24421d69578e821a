"""What the command line accepts, and what it says where it does not."""

import dataclasses
import json

import pytest

from octavo.cli.main import main
from octavo.cli.options import (
    ENGINE_FLAGS,
    MODEL_FLAGS,
    add_engine_flags,
    as_flag,
    count,
    engine_options,
    spell_flags,
)
from octavo.cli.parser import Parser
from octavo.config import EngineConfig
from octavo.options import NOTED, REFUSED

MISTAKES = {  # arguments, where {model} is a good one: what the line says
    "rnu": "no such command: rnu; did you mean run?",
    "frobnicate": "no such command: frobnicate",
    "--verbose": "no such flag: --verbose",
    "run": "octavo run takes [MODEL] PROMPT",
    "run a b c": "quote a prompt with spaces",
    "run --temperatur 1 hi": "no such flag: --temperatur; did you mean --temperature?",
    "run --model a b hi": "two models were given: b and --model a",
    "run {model} hi --temperature warm": "--temperature: must be a number, got 'warm'",
    "run {model} hi --temperature -1": "--temperature must be a finite number, at least 0, got -1.0",
    "run {model} hi --top-p 0": "--top-p must be a number above 0, at most 1, got 0.0",
    "run {model} hi --temperature nan": "--temperature must be a finite number",
    "run {model} hi --max-tokens 0": "--max-tokens must be an integer from 1",
    "run {model} hi --max-model-len 4x": "--max-model-len: must be a number",
    "run {model} hi --max-model-len 100k": "--max-model-len 100000: the model was made for at most 512",
    "run {model} hi --block-size 33": "--block-size 33: must be one of 16, 32",
    "run {model} hi --dtype int3": "--dtype 'int3': must be one of",
    "run {model} hi --device tpu": "--device 'tpu': must be one of auto, cpu, cuda",
    "run {model} hi --device cuda --executor native": "--executor 'native': runs on the CPU only",
    "run {model} hi --tensor-parallel-size 2": "--tensor-parallel-size 2: one device is supported",
    "run {model} hi -tp 2": "--tensor-parallel-size 2: one device is supported",
    "run {model} hi --quantization awq": "is not quantized; int8, int4, fp8 quantize it while it is loaded",
    "run {model} hi --enable-lora": "--enable-lora: LoRA adapters are not supported yet",
    "run {model} hi --logprobs 3": "--logprobs needs --json",
    "run {model} hi --n 2": "--n 2: octavo run makes one answer",
    "run {model} hi --system x --no-chat": "--system needs a conversation",
    "run {model} hi --chat-template /nowhere": "--chat-template '/nowhere': can't be read",
    "run {model} hi --json --logprobs 99": "logprobs must be at most 20",
    "run /nowhere/at-all hi": "/nowhere/at-all",
    "run {model} hi --max-model-len 8 --no-chat --stop": "--stop: expected one argument",
    "pull a b": "too many arguments: 'b'",
    "pull --revsion x {model}": "no such flag: --revsion; did you mean --revision?",
    "bench latncy": "no such command: latncy; did you mean latency?",
    "bench throughput --num-prompts 0 {model}": "--num-prompts: must be an integer of at least 1, got '0'",
    "bench latency {model} --input-len 500": "--max-model-len 628: the model was made for at most 512",
    "bench latency {model} --output-json /nowhere/x.json": "--output-json '/nowhere/x.json': can't be written",
    "bench throughput {model} --dataset-name sonnet": "--dataset-name: invalid choice: 'sonnet'",
}


@pytest.mark.parametrize(("line", "says"), MISTAKES.items())
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(line, says, tiny, capsys):
    code = main([word.format(model=tiny) for word in line.split()])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("octavo: ")
    assert err.count("\n") == 1
    assert says in err


def test_an_empty_prompt_is_refused(tiny, capsys):
    assert main(["run", tiny, ""]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(tiny, capsys):
    assert main(["run", tiny, "--no-chat", "x" * 40, "--max-model-len", "32"]) == 2
    err = capsys.readouterr().err
    assert "32 tokens" in err
    assert "40" in err


def test_a_chat_without_a_template_says_what_to_pass(tiny_without_template, capsys):
    assert main(["run", tiny_without_template, "hi", "--chat"]) == 2
    assert "--no-chat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("32", 32), ("4k", 4000), ("4K", 4096), ("1m", 1_000_000), ("1M", 1 << 20)]
)
def test_token_counts_have_the_suffixes_of_vllm(text, value):
    assert count(text) == value


def test_every_option_of_the_engine_has_a_flag():
    options = {field.name for field in dataclasses.fields(EngineConfig)}
    assert options == {flag.name for flag in (*MODEL_FLAGS, *ENGINE_FLAGS)}


@pytest.mark.parametrize("name", [*REFUSED, *NOTED])
def test_every_known_flag_reaches_the_engine_under_its_name(name):
    parser = Parser("octavo test", "", "")
    add_engine_flags(parser)
    neutral = {**REFUSED, **NOTED}[name][0]
    switch = any(isinstance(value, bool) for value in neutral)
    args = parser.parse([as_flag(name)] if switch else [as_flag(name), "3"])
    value = engine_options(args)[name]
    assert value == (True if switch else [3] if [] in neutral else 3)


def test_a_switch_does_not_take_the_next_argument():
    parser = Parser("octavo test", "", "")
    parser.add_argument("words", nargs="*")
    add_engine_flags(parser)
    args = parser.parse(["--trust-remote-code", "model", "--enforce-eager", "prompt"])
    assert args.words == ["model", "prompt"]


def test_what_was_not_typed_is_left_to_the_engine():
    parser = Parser("octavo test", "", "")
    add_engine_flags(parser)
    assert engine_options(parser.parse([])) == {}


def test_flags_may_have_underscores_and_prompts_keep_theirs():
    parser = Parser("octavo test", "", "")
    parser.add_argument("words", nargs="*")
    add_engine_flags(parser)
    args = parser.parse(["--max_model_len=2K", "--swap_space", "8", "a_b --c_d"])
    assert engine_options(args) == {"max_model_len": 2048, "swap_space": 8}
    assert args.words == ["a_b --c_d"]


def test_messages_name_flags_as_they_are_typed():
    assert spell_flags("device='cuda': no") == "--device 'cuda': no"
    assert spell_flags("it is too large; max_model_len=512 would fit") == (
        "it is too large; --max-model-len 512 would fit"
    )
    assert spell_flags("/models/max_model_len: no device here") == "/models/max_model_len: no device here"


def test_flags_without_a_meaning_are_noted_in_one_line_each(tiny, capsys):
    flags = ["--swap-space", "8", "--trust-remote-code", "--enforce-eager", "--device", "cpu", "-tp", "1"]
    assert main(["run", tiny, "hi", "--max-tokens", "1", *flags]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("octavo: ")]
    assert len(notes) == 3
    assert any(note.startswith("octavo: --swap-space 8: ") for note in notes)
    assert any(note.startswith("octavo: --trust-remote-code: ") for note in notes)


HELPED = ([], ["run"], ["chat"], ["complete"], ["run-batch"], ["pull"], ["models"], ["bench"])


@pytest.mark.parametrize("command", [*HELPED, *(["bench", kind] for kind in ("latency", "throughput", "serve"))])
def test_help_is_given_on_stdout(command, capsys):
    try:
        code = main([*command, "--help"])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 0
    assert out.startswith("usage: octavo")
    assert err == ""


def test_pull_prints_where_the_model_is(tiny, capsys):
    assert main(["pull", tiny]) == 0
    assert capsys.readouterr().out == f"{tiny}\n"


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("octavo ")


def test_benchmark_is_another_name_of_bench(capsys):
    assert main(["benchmark"]) == 0
    assert capsys.readouterr().out.startswith("usage: octavo bench")


def test_after_two_dashes_nothing_is_a_flag(tiny, capsys):
    assert main(["run", "--json", "--max-tokens", "1", "--no-chat", "--", tiny, "--hi"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "--hi"
    assert main(["pull", "--", "a", "--b"]) == 2
    assert "too many arguments: '--b'" in capsys.readouterr().err
    assert main(["run", "--"]) == 2


@pytest.mark.parametrize("words", [["pull", ""], ["run", "", "hi"], ["complete", " ", "hi"], ["serve", "a", ""]])
def test_a_model_without_a_name_is_refused(words, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "MODEL" in err
    assert "must not be empty" in err


@pytest.mark.parametrize("model", ["tiny.en", "whisper-large-v3", "openai/whisper-base", "openai/whisper-base@main"])
@pytest.mark.parametrize("command", ["run", "complete", "chat"])
def test_a_speech_model_is_refused_before_it_is_fetched(command, model, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("octavo.weights.source.resolve", lambda *_, **__: pytest.fail("nothing is looked up"))
    words = [model, "hello"] if command != "chat" else [model]
    assert main([command, *words]) == 2
    assert f"octavo transcribe --model {model} FILE" in capsys.readouterr().err
