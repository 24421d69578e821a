"""`octavo bench serve`: what is sent and when, what is computed from it, and what is written."""

import json
import re
import statistics as plain
import sys
from array import array
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cli.bench.figures import percentile, summarize, tokens_per_second
from octavo.cli.bench.load import Measured, brings_token
from octavo.cli.bench.workload import arrivals, file_samples, random_samples, sharegpt_samples
from octavo.cli.main import main
from octavo.cli.parser import UsageError
from server.running import Server

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")


def request(begin=0.0, times=(), end=None, num_written=None, error=None) -> Measured:
    """One that read 10 tokens."""
    last = times[-1] if times else begin
    written = len(times) if num_written is None else num_written
    return Measured(begin, last if end is None else end, array("d", times), 10, written, error)


@pytest.fixture
def bench(tmp_path, capsys):
    """Runs the command in this process; gives the document, stdout and stderr."""

    def run(*arguments, code=0):
        file = tmp_path / "bench.json"
        assert main(["bench", "serve", "--json", str(file), *map(str, arguments)]) == code
        return json.loads(file.read_text()), *capsys.readouterr()

    return run


def test_latencies_are_from_sending_to_tokens_and_between_them():
    measured = [request(1.0, [1.5, 1.6, 1.9]), request(2.0, [2.1, 2.4], end=2.5, num_written=4)]
    results = summarize(measured, {}, 0.3)
    assert results["ttft_s"]["mean"] == pytest.approx((0.5 + 0.1) / 2)
    assert results["tpot_s"]["mean"] == pytest.approx((0.4 / 2 + 0.3 / 3) / 2)  # over tokens, not over events
    assert results["itl_s"]["mean"] == pytest.approx((0.1 + 0.3 + 0.3) / 3)
    assert results["e2e_s"]["mean"] == pytest.approx((0.9 + 0.5) / 2)
    assert results["seconds"] == pytest.approx(1.5)
    assert (results["input_tokens"], results["output_tokens"]) == (20, 7)
    assert results["requests_per_second"] == pytest.approx(2 / 1.5)
    assert results["output_tokens_per_second"] == pytest.approx(7 / 1.5)
    assert results["total_tokens_per_second"] == pytest.approx(27 / 1.5)
    assert results["client_cpu_share"] == pytest.approx(0.2)
    assert results["goodput"] is None


def test_failures_are_counted_by_their_reason_and_in_no_latency():
    failed = [request(0.0, end=0.25, error="503"), request(0.0, [9.0], error="timeout"), request(0.0, error="503")]
    results = summarize([request(0.0, [1.0]), *failed], {"ttft": 2000.0}, 0.0)
    assert (results["completed"], results["failed"]) == (1, {"503": 2, "timeout": 1})
    assert (results["output_tokens"], results["ttft_s"]["p99"]) == (1, 1.0)
    assert results["refusal_s"]["mean"] == pytest.approx(0.125)  # a timeout refuses nothing
    assert results["goodput"]["share"] == 0.25


def test_goodput_is_the_rate_of_requests_that_keep_every_objective():
    measured = [request(0.0, [0.1, 0.2]), request(0.0, [0.3, 0.4]), request(0.0, [0.1, 4.0]), request(0.0, [0.1])]
    goodput = summarize(measured, {"ttft": 200.0, "tpot": 1000.0}, 0.0)["goodput"]
    assert goodput == {
        "objectives_ms": {"ttft": 200.0, "tpot": 1000.0},
        "requests_per_second": 2 / 4.0,
        "share": 0.5,  # a single token has no time per token to miss
    }
    assert summarize(measured, {"e2el": 399.0}, 0.0)["goodput"]["share"] == 0.5


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 100))
def test_percentiles_are_those_of_numpy(values, percent):
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))


def test_every_token_is_in_one_bin_of_the_timeline():
    measured = [request(0.0, [0.1, 0.2, 2.0]), request(1.0, [1.5])]
    assert tokens_per_second(measured, 2) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("choice", "is_one"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"role": "assistant", "content": "a"}}, True),
        ({"delta": {"content": ""}, "finish_reason": None}, True),  # half of a character
        ({"delta": {}, "finish_reason": "stop"}, False),
        ({"delta": {"content": "a"}, "finish_reason": "stop"}, True),
        ({"text": "", "finish_reason": None}, True),
        ({"text": "", "finish_reason": "length"}, False),
    ],
)
def test_what_brings_no_token_is_no_token(choice, is_one):
    assert brings_token({"choices": [choice]}) == is_one
    assert not brings_token({"choices": [], "usage": {}})


def test_random_prompts_are_the_same_for_the_same_seed():
    make = [random_samples(20, 100, 30, 0.2, 8, seed, as_ids=True) for seed in (1, 1, 2)]
    assert make[0] == make[1] != make[2]


def test_random_lengths_are_within_the_range_and_prefixes_are_shared():
    ids = random_samples(50, 100, 30, 0.2, 8, 0, as_ids=True)
    lengths = [len(sample.prompt) - 8 for sample in ids]
    assert 80 <= min(lengths) < max(lengths) <= 120
    assert 24 <= min(sample.output_len for sample in ids) < max(sample.output_len for sample in ids) <= 36
    assert len({tuple(sample.prompt[:8]) for sample in ids}) == 1
    assert len({tuple(sample.prompt[8:]) for sample in ids}) == 50
    texts = random_samples(50, 100, 30, 0.2, 8, 0, as_ids=False)
    assert [len(sample.prompt.split()) for sample in texts] == [len(sample.prompt) for sample in ids]
    assert {len(sample.prompt) for sample in random_samples(9, 7, 1, 0.0, 0, 0, as_ids=True)} == {7}


def test_a_files_lines_are_prompts_again_and_again(tmp_path):
    file = tmp_path / "prompts"
    file.write_text('{"prompt": "one", "output_len": 3}\n\nplain text\n{"prompt": "two"}\n')
    found = [(sample.prompt, sample.output_len) for sample in file_samples(file, 4, 8)]
    assert found == [("one", 3), ("plain text", 8), ("two", 8), ("one", 3)]


def test_conversations_are_asked_their_first_question(tmp_path):
    def conversation(*texts):
        return {"conversations": [{"from": "x", "value": text} for text in texts]}

    good = [conversation(f"question {i} " * 4, "answer " * 8 * (i + 1), "more") for i in range(5)]
    bad = [conversation("too", "short"), conversation("x" * 9999, "answer " * 9), conversation("alone " * 9), {}, 3]
    file = tmp_path / "sharegpt.json"
    file.write_text(json.dumps([*bad, *good]))
    samples = sharegpt_samples(file, 5, None, seed=0)
    assert {sample.prompt for sample in samples} == {each["conversations"][0]["value"] for each in good}
    assert {sample.output_len for sample in samples} == {14, 28, 42, 56, 70}  # four characters are a token
    assert {sample.output_len for sample in sharegpt_samples(file, 5, 9, seed=0)} == {9}
    assert samples == sharegpt_samples(file, 5, None, seed=0) != sharegpt_samples(file, 5, None, seed=1)


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (lambda file: file_samples(file, 1, 8), '{"prompt": 3}', "needs a text `prompt` and a number `output_len`"),
        (lambda file: file_samples(file, 1, 8), "\n", "there is nothing in it that could be asked"),
        (lambda file: sharegpt_samples(file, 1, 8, 0), "{", "is not JSON"),
        (lambda file: sharegpt_samples(file, 1, 8, 0), "{}", "there is nothing in it that could be asked"),
        (lambda file: file_samples(file / "x", 1, 8), "", "can't be read: Not a directory"),
    ],
)
def test_a_data_set_that_can_not_be_used_is_refused(read, text, says, tmp_path):
    file = tmp_path / "data"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        read(file)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 16.0])
def test_arrivals_have_the_rate_and_the_burstiness_that_were_asked_for(burstiness):
    times = list(arrivals(20_000, 50.0, burstiness, seed=0))
    gaps = np.diff(times)
    assert times[0] == 0.0
    assert plain.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)  # of a gamma distribution
    assert times == list(arrivals(20_000, 50.0, burstiness, seed=0))
    assert set(arrivals(5, float("inf"), burstiness, seed=0)) == {0.0}


def test_a_run_writes_its_numbers_and_the_same_to_the_table(bench, stub, stub_url):
    stub.tokens, stub.delay = ["x"] * 9, 0.002
    document, out, _ = bench("--url", stub_url, "--num-prompts", 6, "--output-len", 5, "--goodput", "ttft:60000")
    assert (document["schema"], document["kind"]) == ("octavo-bench/1", "serve")
    assert document["model"] == {"name": "stub"}
    assert document["url"] == f"{stub_url}/v1/completions"
    results = document["results"]
    assert (results["completed"], results["failed"], results["output_tokens"]) == (6, {}, 30)
    assert results["input_tokens"] == 6 * 7  # as the server counts them
    assert results["goodput"]["share"] == 1.0
    for name in LATENCIES:
        assert 0 < results[name]["p50"] <= results[name]["p90"] <= results[name]["p99"]
        assert f"{1000 * results[name]['p90']:.1f}" in out
    assert out.startswith(f"stub at {stub_url}/v1/completions\n")
    probe, *asked = stub.asked
    assert probe["max_tokens"] == 1
    assert len(asked) == 6
    assert {len(body["prompt"]) for body in asked} == {128}
    assert len({tuple(body["prompt"]) for body in stub.asked}) == 7  # no cache has seen any of them
    common = {"model": "stub", "temperature": 0.0, "max_tokens": 5, "ignore_eos": True, "stream": True}
    assert asked[0] == {**common, "stream_options": {"include_usage": True}, "prompt": asked[0]["prompt"]}


def test_every_number_that_is_written_is_explained(bench, stub_url):
    schema = (Path(__file__).parents[2] / "benchmarks" / "schema.md").read_text(encoding="utf-8")
    document, _, _ = bench("--url", stub_url, "--num-prompts", 2, "--goodput", "ttft:1")
    for name in (*document, *document["results"], *document["results"]["goodput"]):
        assert f"`{name}`" in schema, name


def test_pictures_are_a_png_a_drawing_and_a_page_that_needs_nothing_else(bench, stub, stub_url, tmp_path):
    stub.models[0]["id"] = "<stub> & </script>"
    files = {ending: tmp_path / f"picture.{ending}" for ending in ("png", "svg", "html")}
    flags = [word for file in files.values() for word in ("--picture", file)]
    document, _, _ = bench("--url", stub_url, "--num-prompts", 8, "--request-rate", 200, "--goodput", "ttft:9", *flags)
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    drawing = ElementTree.fromstring(files["svg"].read_text())
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert f"<stub> & </script> at {stub_url}/v1/completions" in texts
    assert {"time to first token, ms", "inter-token latency, ms", "end-to-end latency, ms"} <= set(texts)
    page = files["html"].read_text()
    (data,) = re.findall(r'<script type="application/json" id="results">(.*?)</script>', page, re.S)
    assert json.loads(data) == document
    assert not re.search(r"<script src|<link|@import|url\((?!#)|<img|<image", page)


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_a_picture_without_matplotlib_says_what_to_install(stub, stub_url, tmp_path, monkeypatch, capsys, ending):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "serve", "--url", stub_url, "--picture", str(tmp_path / f"a.{ending}")]) == 2
    err = capsys.readouterr().err
    assert "Matplotlib, which is not installed: pip install '.[bench]'" in err
    assert err.count("\n") == 1
    assert stub.asked == [], "it is said before anything is measured"


def test_no_more_requests_are_under_way_than_was_said(bench, stub, stub_url):
    stub.delay = 0.005
    document, _, _ = bench("--url", stub_url, "--num-prompts", 10, "--max-concurrency", 3)
    assert stub.most_running == 3
    assert document["workload"]["max_concurrency"] == 3
    assert document["results"]["completed"] == 10


def test_what_a_server_does_not_take_is_left_out_and_told(bench, stub, stub_url):
    def refuse(body):
        refused = isinstance(body["prompt"], list) or "ignore_eos" in body
        return (400, {"message": "no"}, {}) if refused else None

    stub.refuse = refuse
    document, _, err = bench("--url", stub_url, "--num-prompts", 2)
    assert document["workload"]["prompts_as"] == "text"
    assert document["workload"]["ignore_eos"] is False
    assert document["results"]["completed"] == 2
    assert err.splitlines()[:2] == [
        "octavo: the server takes no token ids as prompts: prompts are text, of about as many tokens",
        "octavo: the server takes no ignore_eos: outputs may be shorter than asked for",
    ]


def test_chat_and_files_and_warmups(bench, stub, stub_url, tmp_path):
    file = tmp_path / "prompts"
    file.write_text("".join(f"prompt {i}\n" for i in range(6)))
    flags = ["--dataset-name", "custom", "--dataset-path", file, "--backend", "openai-chat", "--output-len", 2]
    document, _, _ = bench("--url", stub_url, "--num-prompts", 3, "--num-warmups", 2, *flags)
    asked = [body["messages"][0]["content"] for body in stub.asked]
    assert asked == [f"prompt {i}" for i in (3, 4, 5, 0, 1, 2)]
    assert document["url"].endswith("/v1/chat/completions")
    assert (document["results"]["completed"], document["results"]["output_tokens"]) == (3, 6)


def test_requests_that_fail_are_counted_and_a_run_without_any_that_did_not_ends_with_2(bench, stub, stub_url, tmp_path):
    stub.refuse = lambda body: (503, {"message": "busy"}, {}) if body["max_tokens"] > 1 else None
    picture = tmp_path / "x.svg"
    document, out, _ = bench("--url", stub_url, "--num-prompts", 4, "--picture", picture, code=2)
    assert document["results"]["failed"] == {"503": 4}
    assert document["results"]["ttft_s"] is None
    assert "0 requests in" in out
    assert "4 failed (4x 503)" in out
    assert "nothing was measured" in picture.read_text()
    stub.refuse, stub.break_after = lambda body: None, 1
    document, _, _ = bench("--url", stub_url, "--num-prompts", 4, code=2)
    assert document["results"]["failed"] == {"connection": 4}
    stub.break_after, stub.delay = None, 0.05
    document, _, _ = bench("--url", stub_url, "--num-prompts", 4, "--timeout", 0.1, code=2)
    assert document["results"]["failed"] == {"timeout": 4}


def test_octavos_own_server_gives_outputs_of_full_length(bench, tiny, tmp_path):
    server = Server(tmp_path / "log", tiny).wait()
    try:
        sizes = ["--num-prompts", 6, "--input-len", 20, "--output-len", 9]
        document, _, _ = bench("--url", server.url, *sizes, "--request-rate", 100)
    finally:
        server.stop()
    assert (document["results"]["completed"], document["results"]["output_tokens"]) == (6, 6 * 9)
    assert document["workload"]["ignore_eos"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "octavo bench serve needs --url"),
        ("--url {url} --request-rate 0", "--request-rate: must be a number above 0, got '0'"),
        ("--url {url} --random-range-ratio 1", "--random-range-ratio: must be a number from 0 to below 1, got '1'"),
        ("--url {url} --goodput ttf:1", "must be ttft, tpot, e2el and milliseconds, as ttft:250, got 'ttf:1'"),
        ("--url {url} --picture x.gif", "--picture 'x.gif': the name must end in .png, .svg, .html"),
        ("--url {url} --picture /nowhere/x.png", "--picture '/nowhere/x.png': can't be written there"),
        ("--url {url} --dataset-name sharegpt", "--dataset-path is missing"),
        ("--url {url} --dataset-path x", "--dataset-path is given"),
        ("--url {url} --dataset-name custom --dataset-path /nowhere/x", "can't be read: No such file or directory"),
        ("--url http://127.0.0.1:1", "can't connect: Connection refused"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, says, stub, stub_url, capsys):
    assert main(["bench", "serve", *arguments.format(url=stub_url).split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert not stub.asked
