"""`octavo complete`: the continuation of a text, from here or from a server."""

import signal
import subprocess

import pytest

from octavo import LLM, SamplingParams
from octavo.cli.main import main

from .processes import COMMAND, ENVIRONMENT, hear_interrupts, octavo


def test_the_continuation_is_that_of_the_offline_api_and_alone_on_stdout(tiny, capsys):
    assert main(["complete", tiny, "Once upon", "--temperature", "0", "--max-tokens", "12"]) == 0
    params = SamplingParams(temperature=0, max_tokens=12)
    text = LLM(tiny).generate("Once upon", params, use_tqdm=False)[0].outputs[0].text
    assert capsys.readouterr() == (text.removesuffix("\n") + "\n", "")


def test_a_model_needs_no_chat_template(tiny_without_template, capsys):
    assert main(["complete", tiny_without_template, "hi", "--max-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_the_prompt_may_come_from_stdin(stub, stub_url):
    result = octavo("complete", "--url", stub_url, "-", stdin="two\nlines\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, "Hello, world!\n", "")
    assert stub.asked[0]["prompt"] == "two\nlines"


def test_a_server_gets_what_was_typed_and_no_more(stub, stub_url, capsys):
    flags = ["--max-tokens", "2", "--stop", "a", "--stop", "b", "--seed", "7", "--ignore-eos", "--api-key", "k"]
    assert main(["complete", "--url", stub_url, "mine", "hi", *flags]) == 0
    assert capsys.readouterr().out == "Hello, \n"
    sampling = {"max_tokens": 2, "stop": ["a", "b"], "seed": 7, "ignore_eos": True}
    assert stub.asked == [{"model": "mine", "prompt": "hi", **sampling, "stream": True}]
    assert {headers.get("authorization") for headers in stub.headers} == {"bearer k"}


def test_without_a_number_of_tokens_an_answer_has_half_of_the_servers_context_at_most(stub, stub_url):
    for limit, tokens in ((512, 256), (100_000, 1024), (None, None)):
        stub.models = [{"id": "stub", "max_model_len": limit}]
        assert main(["complete", "--url", stub_url, "hi"]) == 0
        assert stub.asked[-1].get("max_tokens") == tokens


def test_output_arrives_as_it_is_made_and_ctrl_c_ends_it_with_130(stub, stub_url):
    stub.tokens, stub.delay = ["word "] * 1000, 0.02
    command = [*COMMAND, "complete", "--url", stub_url, "hi", "--max-tokens", "1000"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=ENVIRONMENT, preexec_fn=hear_interrupts) as process:
        assert process.stdout.read(10) == b"word word "
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "{url}"], "octavo complete takes [MODEL] PROMPT, got 0 arguments"),
        (["--url", "{url}", "a", "b", "c"], "quote a prompt with spaces"),
        (["--url", "{url}", ""], "the prompt is empty"),
        (["--url", "ftp://h", "hi"], "--url 'ftp://h': must be http://HOST:PORT or https://HOST:PORT"),
        (["--url", "{url}", "hi", "--max-model-len", "64"], "--max-model-len is for a model in this process"),
        (
            ["{tiny}", "x" * 60, "--max-model-len", "64"],
            "60 tokens and up to 32 of an answer do not fit into a context",
        ),
        (["{tiny}", "hi", "--max-tokens", "0"], "--max-tokens must be an integer from 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, says, tiny, stub_url, capsys):
    assert main(["complete", *(word.format(url=stub_url, tiny=tiny) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_an_error_in_the_middle_ends_it_with_2_after_what_there_was(stub, stub_url, capsys):
    stub.error_after = 2
    assert main(["complete", "--url", stub_url, "hi"]) == 2
    assert capsys.readouterr() == ("Hello, \n", "octavo: the server: the engine failed\n")
