"""`octavo bench embed`: in this process and on a server, the numbers agree with each other and with the workload."""

import json

import pytest

from octavo.cli.main import main
from server.running import Server

from .test_bench import RATES, STATISTICS
from .test_embed import model  # noqa: F401
from .test_imports import HEAVY, MAIN, imported

SIZES = ("--num-texts", "20", "--min-len", "5", "--max-len", "60", "--latency-len", "9", "--num-iters", "4")


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):  # noqa: F811
    log = tmp_path_factory.mktemp("server") / "log"
    server = Server(log, model, "--served-model-name", "words", environment={"OCTAVO_NUM_THREADS": "1"})
    try:
        yield server.wait().url
    finally:
        server.stop()


@pytest.fixture
def bench(tmp_path, capsys):
    """Runs the command in this process; gives the document, and what it printed."""

    def run(*arguments, code=0):
        file = tmp_path / "bench.json"
        assert main(["bench", "embed", *map(str, arguments), "--json", str(file)]) == code
        return json.loads(file.read_text()), *capsys.readouterr()

    return run


def check(document, results):
    assert (document["schema"], document["kind"]) == ("octavo-bench/1", "embed")
    assert results["texts_per_second"] == pytest.approx(results["texts"] / results["seconds"])
    assert results["tokens_per_second"] == pytest.approx(results["tokens"] / results["seconds"])
    assert set(results["latency_s"]) == STATISTICS
    assert 0 < results["latency_s"]["p50"] <= results["latency_s"]["p99"]


def test_random_texts_in_this_process(model, bench):  # noqa: F811
    document, out, _ = bench(model, *SIZES)
    results = document["results"]
    check(document, results)
    assert results["texts"] == 20
    assert 20 * 5 <= results["tokens"] <= 20 * 60
    assert set(results["overall"]) == RATES
    assert f"20 texts of {results['tokens']} tokens in" in out
    assert "one text alone" in out
    assert bench(model, *SIZES)[0]["results"]["tokens"] == results["tokens"]
    assert bench(model, *SIZES, "--seed", 5)[0]["results"]["tokens"] != results["tokens"]


def test_lines_of_a_file_are_read_within_the_time(model, bench, tmp_path):  # noqa: F811
    file = tmp_path / "texts"
    file.write_text("the cat\ndog\n")
    document, *_ = bench(model, *SIZES, "--input", file)
    assert document["results"]["tokens"] == 10 * 4 + 10 * 3
    assert (document["workload"]["input"], document["workload"]["max_len"]) == (str(file), None)


def test_a_profile_has_the_steps_of_all_texts(model, bench):  # noqa: F811
    document, out, _ = bench(model, *SIZES, "--profile")
    profile = document["results"]["profile"]
    assert profile["prefill"]["tokens"] == document["results"]["tokens"]
    assert profile["decode"] is None
    assert "steps with tokens of prompts" in out


def test_a_server_is_asked_in_batches(url, bench):
    """Its vocabulary is smaller than those that random ids are of, so that it gets words."""
    document, out, err = bench("--url", url, *SIZES, "--batch-size", 8)
    results = document["results"]
    check(document, results)
    assert (results["completed"], results["failed"], results["texts"]) == (3, {}, 20)
    assert document["workload"]["texts_as"] == "text"
    assert "octavo: the server takes no token ids: texts are words" in err
    assert out.startswith(f"words at {url}/v1/embeddings\n")


def test_a_server_that_refuses_ends_it(url, bench, capsys):
    assert main(["bench", "embed", "--url", url, "--model", "none"]) == 2
    assert "the server says 404: The model 'none' does not exist" in capsys.readouterr().err
    document, out, _ = bench("--url", url, *SIZES, "--min-len", 200, "--max-len", 200, code=2)
    assert (document["results"]["completed"], document["results"]["failed"]) == (0, {"400": 1})
    assert "failed requests: 1x 400" in out


REFUSED = [
    ("--min-len 9 --max-len 8", "--min-len 9 is more than --max-len 8"),
    ("--url http://a --profile", "--profile is for a model in this process; leave out --url"),
    ("--url http://a --dtype half", "--dtype is for a model in this process; with --url the server decides that"),
    ("--json no/such.json", "--json 'no/such.json': can't be written there"),
    ("--input no-such-file", "no-such-file: there is no such file"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED)
def test_what_is_wrong_is_said_before_anything_is_loaded(arguments, reason, capsys):
    assert main(["bench", "embed", *arguments.split()]) == 2
    assert capsys.readouterr().err.startswith(f"octavo: {reason}")


def test_a_client_of_a_server_loads_no_engine(url):
    loaded = imported(MAIN, "bench", "embed", "--url", url, *SIZES)
    assert not loaded & HEAVY
