"""The prefix cache on disk, from server to server."""

import re

import pytest

from .running import until

PROMPT = "And so, my fellow Americans: ask not what your country can do for you. " * 4
ASKED = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "ignore_eos": True, "logprobs": 1}


@pytest.fixture
def serve(start, tiny_model, tmp_path):
    sizes = ("--block-size", "16", "--max-num-seqs", "4")
    return lambda *more: start(tiny_model, *sizes, "--prefix-cache-dir", tmp_path / "kept", *more)


def ask(server, **options):
    with server.client() as http:
        answer = http.post("/v1/completions", json={**ASKED, **options})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body["usage"]["prompt_tokens_details"]["cached_tokens"], body["choices"][0]["logprobs"]


def metric(server, name):
    with server.client() as http:
        text = http.get("/metrics").text
        return float(re.search(rf"^octavo:prefix_cache_disk_{name}{{.*}} (\S+)$", text, re.MULTILINE)[1])


def test_what_a_server_wrote_another_finds_beside_it_and_after_it(serve):
    first, beside = serve(), serve()
    cached, computed = ask(first)
    assert cached == 0
    with first.client() as http:
        tokens = http.post("/tokenize", json={"prompt": PROMPT}).json()["count"]
    until(lambda: metric(first, "written_blocks_total") >= tokens // 16)
    assert ask(beside, cache_salt="another")[0] == 0
    found, again = ask(beside)
    assert found > 128
    assert again == computed
    assert metric(beside, "hits_total") == found
    assert metric(beside, "read_bytes_total") > 0
    assert metric(beside, "damaged_files_total") == metric(beside, "errors_total") == 0
    assert ask(first)[0] == found
    assert metric(first, "hits_total") == 0  # it is in its memory
    for server in (first, beside):
        server.stop()
    after = serve("--prefix-cache-size", "1GiB")
    assert ask(after) == (found, computed)


def test_what_was_answered_last_is_written_before_a_server_ends(serve):
    first = serve()
    ask(first)
    first.stop()
    assert ask(serve())[0] > 128


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--prefix-cache-dir", "/proc/x"], "--prefix-cache-dir '/proc/x': can't be written"),
        (["--prefix-cache-size", "1GiB"], "give --prefix-cache-dir, too"),
        (["--prefix-cache-dir", "x", "--prefix-cache-size", "lots"], "--prefix-cache-size 'lots': must be a number of"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(start, tiny_model, flags, says, tmp_path):
    server = start(tiny_model, *flags, wait=None, cwd=tmp_path)
    assert server.process.wait(60) == 2
    (line,) = [line for line in server.log.read_text().splitlines() if "prefix-cache" in line]
    assert says in line
