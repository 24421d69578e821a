"""`octavo run` as a process: what is on stdout, what on stderr, and how it ends."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from octavo import LLM, SamplingParams

from .processes import COMMAND, ENVIRONMENT, hear_interrupts, octavo

GREEDY = ["--temperature", "0", "--max-tokens", "24", "--ignore-eos"]
SUMMARY = re.compile(
    r"plan: weights .+ × [\d,]+\) = .+ of .+\nexpected: .*\n"
    r"\d+ tokens in, \d+ out · first token \d+\.\d\d s \(\d+\.\d\d s from the command\) · \d+\.\d tok/s"
    r" · \d+\.\d GB/s = \d+ % of this machine's memory bandwidth\n"
)


@pytest.fixture(scope="module")
def answer(tiny) -> dict:
    """The JSON of a chat answer to "hi"."""
    return json.loads(octavo("run", tiny, "hi", *GREEDY, "--json").stdout)


def test_the_answer_is_on_stdout_and_its_plan_and_speed_on_stderr(tiny, answer):
    result = octavo("run", tiny, "hi", *GREEDY)
    assert result.returncode == 0
    assert result.stdout.removesuffix("\n") == answer["text"].removesuffix("\n")
    assert SUMMARY.fullmatch(result.stderr)


def test_the_answer_is_the_one_of_the_offline_api(tiny, answer):
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    output = LLM(tiny).chat([{"role": "user", "content": "hi"}], params, use_tqdm=False)[0]
    assert answer["prompt_token_ids"] == output.prompt_token_ids
    assert answer["token_ids"] == output.outputs[0].token_ids
    assert answer["text"] == output.outputs[0].text


def test_json_has_everything_about_the_answer(answer):
    assert list(answer) == [
        "model",
        "prompt",
        "prompt_token_ids",
        "text",
        "token_ids",
        "finish_reason",
        "stop_reason",
        "logprobs",
        "usage",
        "timings",
        "bandwidth",
    ]
    assert answer["prompt"] == "<|user|>hi\n<|assistant|>"
    assert answer["finish_reason"] == "length"
    assert answer["logprobs"] is None
    assert answer["usage"] == {"prompt_tokens": len(answer["prompt_token_ids"]), "completion_tokens": 24}
    assert all(value > 0 for value in answer["timings"].values())
    assert set(answer["timings"]) == {"first_token", "first_token_from_command", "total", "tokens_per_second"}
    assert answer["bandwidth"]["share"] == pytest.approx(
        answer["bandwidth"]["bytes_per_second"] / answer["bandwidth"]["machine"]
    )


def test_logprobs_are_given_per_position(tiny, answer):
    result = json.loads(octavo("run", tiny, "hi", *GREEDY, "--json", "--logprobs", "2").stdout)
    assert result["token_ids"] == answer["token_ids"]
    for token, position in zip(result["token_ids"], result["logprobs"], strict=True):
        assert len(position) == 2
        assert token == next(entry["token_id"] for entry in position if entry["rank"] == 1)
        assert all(entry["logprob"] <= 0 for entry in position)


def test_one_token_has_no_rate(tiny):
    result = json.loads(octavo("run", tiny, "hi", "--max-tokens", "1", "--ignore-eos", "--json").stdout)
    assert result["timings"]["tokens_per_second"] is None
    assert result["bandwidth"] == {"bytes_per_second": None, "machine": None, "share": None}


def test_the_prompt_is_read_from_stdin_without_its_last_newline(tiny, answer):
    result = octavo("run", tiny, "-", *GREEDY, "--json", stdin="hi\n")
    assert json.loads(result.stdout)["prompt_token_ids"] == answer["prompt_token_ids"]


def test_stdin_that_is_not_utf8_is_refused(tiny):
    result = subprocess.run(
        [*COMMAND, "run", tiny, "-"], input=b"\xff\xfe", capture_output=True, timeout=60, env=ENVIRONMENT
    )
    assert result.returncode == 2
    assert result.stderr.startswith(b"octavo: stdin is not UTF-8")


def test_flags_may_stand_between_model_and_prompt(tiny, answer):
    result = octavo("run", *GREEDY, tiny, "--json", "hi")
    assert json.loads(result.stdout)["token_ids"] == answer["token_ids"]


def test_no_chat_continues_the_text(tiny, tiny_without_template):
    plain = json.loads(octavo("run", tiny, "--no-chat", "hi", *GREEDY, "--json").stdout)
    assert plain["prompt"] == "hi"
    assert len(plain["prompt_token_ids"]) == 2
    base = json.loads(octavo("run", tiny_without_template, "hi", *GREEDY, "--json").stdout)
    assert base["token_ids"] == plain["token_ids"]


def test_a_system_message_comes_first(tiny):
    result = octavo("run", tiny, "hi", "--system", "Be brief.", *GREEDY, "--json")
    assert json.loads(result.stdout)["prompt"] == "<|system|>Be brief.\n<|user|>hi\n<|assistant|>"


def test_the_same_seed_gives_the_same_text(tiny):
    runs = [octavo("run", tiny, "hi", "--max-tokens", "16", "--seed", seed).stdout for seed in ("1", "1", "2")]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_answer_ends_before_a_stop_string(tiny, answer):
    stop = answer["text"][4:6]
    result = json.loads(octavo("run", tiny, "hi", *GREEDY, "--json", "--stop", stop).stdout)
    assert result["text"] == answer["text"][: answer["text"].index(stop)]
    assert result["stop_reason"] == stop


@contextmanager
def started(model: str) -> Iterator[subprocess.Popen[bytes]]:
    """An answer that goes on for long, of which the first bytes have arrived."""
    command = [*COMMAND, "run", model, "--no-chat", "hi", "--max-tokens", "60000", "--ignore-eos"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=ENVIRONMENT, preexec_fn=hear_interrupts) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1)
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_it_with_130_and_no_word(tiny_with_long_context):
    with started(tiny_with_long_context) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b""


def test_a_closed_pipe_ends_it_with_no_word(tiny_with_long_context):
    with started(tiny_with_long_context) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert err == b""
