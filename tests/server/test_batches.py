"""/v1/batches with OpenAI's own client: what becomes of lines, beside other requests and over restarts."""

import base64
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

from encoders import ENCODERS, save_modules, save_words
from octavo.server.batches.lines import MAX_LINE_BYTES
from speech.encoded import encode_signal
from speech.tiny_whisper import make_tiny_whisper

from .running import Server, until
from .test_bad_input import check_error
from .test_keys_and_limits import bearer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
LONG = {**GREEDY, "max_tokens": 4000}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def batched(tiny_model, tmp_path_factory):
    """A server of two keys with a data folder, and room for one request that waits."""
    folder = tmp_path_factory.mktemp("batches")
    flags = ("--data-dir", folder / "data", "--api-key", "one", "--api-key", "two")
    limits = ("--max-num-seqs", "4", "--max-queued-requests", "1", "--max-model-len", "8192")
    server = Server(folder / "log", tiny_model, "--served-model-name", "tiny", *flags, *limits)
    yield server.wait()
    server.stop()


@pytest.fixture
def ai(batched):
    with batched.openai("one") as client:
        yield client


@pytest.fixture
def http(batched):
    with batched.client(headers=bearer("one")) as client:
        yield client


def line(custom_id="a", url=COMPLETIONS, **fields):
    """A request for a text or an answer to "hi"; `fields` are added to its body."""
    body = {"messages": [{"role": "user", "content": "hi"}]} if url == CHAT else {"prompt": "hi", **GREEDY}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**body, **fields}}


def written(*lines):
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)


def begin(ai, *lines, endpoint=COMPLETIONS, **options):
    file = ai.files.create(file=("lines.jsonl", written(*lines)), purpose="batch")
    return ai.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def follow(ai, batch, *ends):
    """The batch, once its status is one of `ends`, or it is finished."""
    finished = (*ends, "completed", "failed", "expired", "cancelled")
    found = [batch]

    def is_there():
        found.append(ai.batches.retrieve(batch.id))
        return found[-1].status in finished

    until(is_there, lambda: str(found[-1]))
    return found[-1]


def entries(ai, file_id):
    """The entries of a file by their custom_ids, each of which is there once."""
    if file_id is None:
        return {}
    found = [json.loads(text) for text in ai.files.content(file_id).text.splitlines()]
    assert len({entry["custom_id"] for entry in found}) == len(found)
    return {entry["custom_id"]: entry for entry in found}


def counts(batch):
    numbers = batch.request_counts
    return numbers.total, numbers.completed, numbers.failed


# What becomes of lines


def test_a_batch_is_answered_as_its_requests_would_be(ai):
    prompts = [f"The number {number}" for number in range(30)]
    made = begin(ai, *(line(prompt, prompt=prompt) for prompt in prompts), metadata={"purpose": "test"})
    assert (made.object, made.status, made.errors, made.output_file_id) == ("batch", "validating", None, None)
    assert made.expires_at == made.created_at + 86400
    batch = follow(ai, made)
    assert (batch.status, counts(batch), batch.metadata) == ("completed", (30, 30, 0), {"purpose": "test"})
    assert made.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert (batch.error_file_id, batch.errors) == (None, None)
    file = ai.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    found = entries(ai, batch.output_file_id)
    assert found.keys() == set(prompts)
    for prompt in prompts[::10]:
        entry = found[prompt]
        asked = ai.completions.create(model="tiny", prompt=prompt, extra_body=GREEDY)
        assert entry["error"] is None
        assert entry["response"]["status_code"] == 200
        assert entry["response"]["request_id"]
        assert entry["response"]["body"]["choices"][0]["text"] == asked.choices[0].text


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 8, "temperature": 0}),
        ("/v1/messages", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}),
    ],
)
def test_conversations_of_every_api_are_answered_in_batches(ai, url, body):
    bad = {**body, "temperature": -1}
    lines = [
        {"custom_id": name, "method": "POST", "url": url, "body": each} for name, each in (("a", body), ("b", bad))
    ]
    batch = follow(ai, begin(ai, *lines, endpoint=url))
    answer = entries(ai, batch.output_file_id)["a"]["response"]["body"]
    assert {"choices", "output", "content"} & set(answer)
    assert "temperature" in entries(ai, batch.error_file_id)["b"]["error"]["message"]


def test_answers_expire_when_they_are_told_to(ai):
    batch = follow(ai, begin(ai, line(), output_expires_after={"anchor": "created_at", "seconds": 7200}))
    file = ai.files.retrieve(batch.output_file_id)
    assert file.expires_at == file.created_at + 7200


def test_vectors_and_ranks_are_made_in_batches(start, tmp_path):
    ENCODERS["BERT"].save(tmp_path / "words")
    save_words(tmp_path / "words")
    save_modules(tmp_path / "words")
    server = start(tmp_path / "words", "--data-dir", tmp_path / "data")
    asked = {
        "/v1/embeddings": {"input": ["the cat", "dog"]},
        "/v1/rerank": {"query": "cat", "documents": ["dog", "cat"]},
        "/score": {"text_1": "cat", "text_2": "cat"},
    }
    with server.openai() as ai:
        found = {}
        for url, body in asked.items():
            batch = begin(ai, {"custom_id": "a", "method": "POST", "url": url, "body": body}, endpoint=url)
            found[url] = entries(ai, follow(ai, batch).output_file_id)["a"]["response"]["body"]
    assert [len(entry["embedding"]) for entry in found["/v1/embeddings"]["data"]] == [48, 48]
    assert [entry["index"] for entry in found["/v1/rerank"]["results"]] == [1, 0]
    assert found["/score"]["data"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_speech_is_written_down_in_batches(start, tmp_path):
    server = start(make_tiny_whisper(tmp_path / "tiny"), "--data-dir", tmp_path / "data")
    audio, url = encode_signal("wav"), "/v1/audio/transcriptions"
    data_url = "data:audio/wav;base64," + base64.b64encode(audio).decode()
    with server.openai() as ai:
        upload = ai.files.create(file=("a.wav", audio), purpose="user_data")
        bodies = {
            "url": {"file_url": data_url, "language": "en"},
            "id": {"file_id": upload.id, "language": "en", "response_format": "text"},
            "words": {
                **{"file_id": upload.id, "temperature": 0.5, "seed": 3, "response_format": "verbose_json"},
                "timestamp_granularities": ["word", "segment"],
            },
            "none": {"language": "en"},
            "two": {"file_url": data_url, "file_id": upload.id},
            "web": {"file_url": "https://example.com/a.wav"},
            "broken": {"file_url": "data:audio/wav;base64,%%%"},
            "unknown": {"file_id": "file-none"},
            "field": {"file_id": upload.id, "volume": 11},
            "name": {"file_id": upload.id, 'a"; x="b': 1},
            "number": {"file_id": 7},
        }
        lines = [{"custom_id": name, "method": "POST", "url": url, "body": body} for name, body in bodies.items()]
        batch = follow(ai, begin(ai, *lines, endpoint=url))
        found, errors = entries(ai, batch.output_file_id), entries(ai, batch.error_file_id)
        expected = ai.audio.transcriptions.create(file=("a.wav", audio), model="", language="en").text
    assert found.keys() == {"url", "id", "words"}
    assert found["url"]["response"]["body"]["text"] == expected
    assert found["id"]["response"]["body"] == expected + "\n"
    assert found["words"]["response"]["body"]["words"] is not None
    blamed = {name: entry["response"]["body"]["error"]["param"] for name, entry in errors.items()}
    files = {"none": "file_url", "two": "file_url", "web": "file_url", "broken": "file_url", "unknown": "file_id"}
    assert blamed == {**files, "field": "volume", "name": 'a"; x="b', "number": "file_id"}
    assert errors["unknown"]["response"]["status_code"] == 404


BAD_LINES = [
    (b"no json", None, "is not JSON"),
    (b"[1, 2]", None, "must be a JSON object"),
    (b"[" * 100_000, None, "is not JSON: nested too deeply"),
    (b'{"custom_id": "x", "custom_id": "y"}', None, "is not JSON: 'custom_id' is there twice"),
    (b"\xff\xfe", None, "is not UTF-8: invalid start byte at byte 0"),
    (b'{"method": "POST"}', "custom_id", "custom_id: must be a text of 1 to 512 characters, got None"),
    (line("x" * 513), "custom_id", "custom_id: must be a text of 1 to 512 characters"),
    (line("good"), "custom_id", "custom_id: 'good' is that of line 1 too"),
    (line("x") | {"priority": 1}, "priority", "priority: is not known; a line has custom_id"),
    (line("x") | {"\ud800": 1}, "?", "?: is not known"),
    (line("x") | {"method": "GET"}, "method", "method: must be 'POST', got 'GET'"),
    (line("x", CHAT), "url", "url: must be /v1/completions, got '/v1/chat/completions'"),
    (line("x") | {"url": "/metrics"}, "url", "url: must be /v1/completions, got '/metrics'"),
    (line("x") | {"body": "hi"}, "body", "body: must be a JSON object, got 'hi'"),
    (line("x", stream=True), "body.stream", "body.stream: not in a batch"),
    (b"{" + b" " * MAX_LINE_BYTES + b"}", None, f"is longer than {MAX_LINE_BYTES} bytes"),
]


def test_a_bad_line_gets_its_error_and_the_others_are_answered(ai):
    batch = follow(ai, begin(ai, line("good"), *(bad for bad, _, _ in BAD_LINES), b"", line("last")))
    assert (batch.status, counts(batch)) == ("completed", (len(BAD_LINES) + 2, 2, len(BAD_LINES)))
    assert entries(ai, batch.output_file_id).keys() == {"good", "last"}
    text = ai.files.content(batch.error_file_id).text
    errors = {entry["error"]["line"]: entry["error"] for entry in map(json.loads, text.splitlines())}
    told = {error.line: error for error in batch.errors.data}
    for number, (_, param, says) in enumerate(BAD_LINES, 2):
        assert errors[number]["code"] == told[number].code == "invalid_line"
        assert errors[number]["message"].startswith(f"line {number}: {says}")
        assert told[number].message.startswith(says)
        assert told[number].param == param


def test_what_an_endpoint_refuses_is_that_line_s_error(ai):
    lines = [
        *(line("model", model="other"), line("field", temperature=-1), line("unknown", colour="red")),
        *(line("long", prompt="x" * 9000), line("good")),
    ]
    batch = follow(ai, begin(ai, *lines))
    assert counts(batch) == (5, 1, 4)
    found = entries(ai, batch.error_file_id)
    statuses = {name: entry["response"]["status_code"] for name, entry in found.items()}
    assert statuses == {"model": 404, "field": 400, "unknown": 400, "long": 400}
    assert found["field"]["error"]["message"].startswith("line 2: body.temperature: ")
    assert found["unknown"]["response"]["body"]["error"]["param"] == "colour"
    assert batch.errors is None  # all of them were requests


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\n\n", "empty_file"),
        (b"no json\n{}", "invalid_line"),
        ('{"custom_id": "ä"}'.encode("utf-16"), "invalid_line"),
        (b'{"custom_id": "x"}\n' * 50_001, "too_many_lines"),
    ],
    ids=["empty", "nothing good", "utf-16", "50001 lines"],
)
def test_a_file_without_requests_fails(ai, content, code):
    batch = follow(ai, begin(ai, content))
    assert (batch.status, batch.errors.data[0].code) == ("failed", code)
    assert batch.failed_at
    assert counts(batch) == (0, 0, 0)
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert len(batch.errors.data) <= 100


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"input_file_id": 7}, 400, "input_file_id"),
        ({"endpoint": "/v1/images/generations"}, 400, "endpoint"),
        ({"endpoint": None}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {"a": 1}}, 400, "metadata"),
        ({"metadata": {"x" * 65: "a"}}, 400, "metadata"),
        ({"metadata": {"a": "x" * 513}}, 400, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "output_expires_after"),
        ({"priority": 1}, 400, "priority"),
    ],
)
def test_a_bad_field_of_a_batch_is_refused_by_name(ai, http, changes, status, param):
    file = ai.files.create(file=("f", written(line())), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "24h", **changes}
    check_error(http.post("/v1/batches", json=body), status, param)


def test_a_batch_reads_files_that_are_for_batches(ai):
    file = ai.files.create(file=("f", written(line())), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose 'batch', not 'user_data'"):
        ai.batches.create(input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h")


# Cancelling, listing, and whose they are


def test_a_batch_that_is_cancelled_has_the_answers_so_far(ai, batched):
    lines = [line("short"), *(line(str(number), **LONG) for number in range(40))]
    batch = begin(ai, *lines)
    until(lambda: ai.batches.retrieve(batch.id).request_counts.completed)
    cancelled = ai.batches.cancel(batch.id)
    assert cancelled.status in ("cancelling", "cancelled")
    assert cancelled.cancelling_at
    batch = follow(ai, batch)
    assert (batch.status, batch.cancelled_at is None) == ("cancelled", False)
    found, errors = entries(ai, batch.output_file_id), entries(ai, batch.error_file_id)
    assert "short" in found
    assert len(found) + len(errors) == 41
    assert {entry["error"]["code"] for entry in errors.values()} == {"batch_cancelled"}
    assert counts(batch) == (41, len(found), len(errors))
    with pytest.raises(openai.BadRequestError, match="a batch that is cancelled can't be cancelled"):
        ai.batches.cancel(batch.id)
    batched.settle("one")


def test_batches_are_listed_in_pages_and_belong_to_their_key(ai, http, batched):
    with batched.openai("two") as other:
        made = [begin(other, line()).id for _ in range(3)]
        assert [batch.id for batch in other.batches.list()] == made[::-1]
        assert [batch.id for batch in other.batches.list(limit=1)] == made[::-1]  # page after page
        assert [batch.id for batch in other.batches.list(after=made[1]).data] == made[:1]
        done = [follow(other, other.batches.retrieve(batch_id)) for batch_id in made]
    assert not {batch.id for batch in ai.batches.list()} & set(made)
    for ask in (ai.batches.retrieve, ai.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(made[0])
    with pytest.raises(openai.NotFoundError):
        ai.files.content(done[0].output_file_id)
    check_error(http.get("/v1/batches/batch_none"), 404, "batch_id")
    for query in ({"limit": "101"}, {"after": "x"}, {"order": "asc"}):
        check_error(http.get("/v1/batches", params=query), 400, next(iter(query)))


def test_a_file_that_is_deleted_is_read_to_its_end(ai):
    batch = begin(ai, *(line(str(number), max_tokens=200) for number in range(20)))
    follow(ai, batch, "in_progress")
    ai.files.delete(batch.input_file_id)
    assert counts(follow(ai, batch)) == (20, 20, 0)


# Beside other requests


def test_a_batch_makes_no_other_request_wait_or_be_refused(ai, batched):
    """The queue has room for one, and all seats are taken by lines."""
    batch = begin(ai, *(line(str(number), **LONG) for number in range(60)))
    try:
        batched.until(lambda load: load["running"] == 4, "one")
        found = []

        def ask():
            with batched.openai("one") as client:
                found.append(client.completions.create(model="tiny", prompt="hi", extra_body=GREEDY).usage)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert ai.batches.retrieve(batch.id).status == "in_progress"
    finally:
        ai.batches.cancel(batch.id)
        follow(ai, batch)


def test_metrics_count_batches_that_are_not_finished(ai, http):
    def number(status):
        text = http.get("/metrics").text
        return next(
            row.split()[-1] for row in text.splitlines() if row.startswith(f'octavo:batches{{status="{status}"')
        )

    batch = begin(ai, *(line(str(number), **LONG) for number in range(20)))
    follow(ai, batch, "in_progress")
    assert float(number("in_progress")) == 1
    ai.batches.cancel(batch.id)
    follow(ai, batch)
    assert float(number("in_progress")) == 0


# Restarts


def test_a_server_that_is_shut_down_goes_on_when_it_is_started_again(start, tiny_model, tmp_path):
    flags = (tiny_model, "--data-dir", tmp_path / "data", "--max-num-seqs", "4")
    server = start(*flags)
    lines = [line(str(number), max_tokens=400, prompt=f"{number}") for number in range(40)]
    with server.openai() as ai:
        batch = begin(ai, *lines)
        until(lambda: ai.batches.retrieve(batch.id).request_counts.completed > 4)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 25  # nobody waits for lines, as for other requests
    assert "Traceback" not in server.read_log()
    server = start(*flags)
    with server.openai() as ai:
        assert ai.batches.retrieve(batch.id).request_counts.total == 40
        batch = follow(ai, batch)
        assert counts(batch) == (40, 40, 0)
        found = entries(ai, batch.output_file_id)
        assert found.keys() == {str(number) for number in range(40)}
        asked = ai.completions.create(model="", prompt="7", extra_body={**GREEDY, "max_tokens": 400})
        assert found["7"]["response"]["body"]["choices"][0]["text"] == asked.choices[0].text


def test_a_batch_expires(start, tiny_model, tmp_path):
    """Its record says that it was to be finished long ago."""
    flags = (tiny_model, "--data-dir", tmp_path / "data", "--max-num-seqs", "4")
    server = start(*flags)
    with server.openai() as ai:
        batch = begin(ai, line("short"), *(line(str(number), max_tokens=500) for number in range(30)))
        until(lambda: ai.batches.retrieve(batch.id).request_counts.completed)
    assert server.stop() == 0
    record = tmp_path / f"data/batches/{batch.id}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "expires_at": batch.created_at - 1}))
    server = start(*flags)
    with server.openai() as ai:
        batch = follow(ai, batch)
        found, errors = entries(ai, batch.output_file_id), entries(ai, batch.error_file_id)
    assert (batch.status, batch.expired_at is None) == ("expired", False)
    assert len(found) + len(errors) == 31
    assert {entry["error"]["code"] for entry in errors.values()} == {"batch_expired"}


def test_a_batch_whose_key_is_gone_waits_for_it(start, tiny_model, tmp_path):
    flags = (tiny_model, "--data-dir", tmp_path / "data", "--max-num-seqs", "4", "--api-key")
    server = start(*flags, "old")
    with server.openai("old") as ai:
        batch = begin(ai, *(line(str(number), max_tokens=500) for number in range(30)))
    assert server.stop() == 0
    server = start(*flags, "new")
    with server.openai("new") as ai:
        assert ai.batches.list().data == []
    assert f"{batch.id} is not run: the key that made it is not known" in server.read_log()
    assert server.stop() == 0
    server = start(*flags, "new", "--api-key", "old")
    with server.openai("old") as ai:
        assert counts(follow(ai, batch)) == (30, 30, 0)


def test_every_line_is_answered_once_however_often_the_server_is_killed(tiny_model):
    script = (sys.executable, ROOT / "benchmarks/batch_kills.py", tiny_model)
    ran = subprocess.run([*script, "--lines", "60", "--kills", "10"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "60 lines, 10 kills" in ran.stdout
