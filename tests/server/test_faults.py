"""Faults: of clients, of the engine, of the machine; and the orderly end."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import octavo

from .running import SECONDS, exchange, post, until

HELLO = [{"role": "user", "content": "Write a long story."}]
LONG = {"messages": HELLO, "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
STREAM = post("/v1/chat/completions", json.dumps({**LONG, "stream": True}).encode())
SHORT = {"messages": HELLO, "max_tokens": 4, "temperature": 0}
BROKEN = Path(__file__).with_name("broken.py")
RUN_BROKEN = f"import runpy; runpy.run_path({str(BROKEN)!r}, run_name='__main__')"


def data_of(line):
    return line.removeprefix("data: ")


def begin_stream(server):
    """A connection that has got the first piece of a long stream."""
    connection = server.connect()
    connection.sendall(STREAM)
    assert b"200 OK" in connection.recv(1 << 16)
    return connection


def reset(connection):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("leave", [reset, socket.socket.close, lambda c: c.shutdown(socket.SHUT_WR)])
def test_a_client_that_leaves_mid_stream_is_aborted_and_its_blocks_are_freed(server, leave):
    """A client that closes its sending half is taken to have left."""
    connection = begin_stream(server)
    leave(connection)
    server.settle()
    connection.close()


def test_a_client_that_leaves_before_its_answer_in_one_piece_is_aborted(server):
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=LONG, timeout=0.3)
    server.settle()


def test_five_hundred_clients_leave_at_once(server, http):
    before = http.post("/v1/chat/completions", json=SHORT).json()["choices"]
    files = server.num_files()
    body = post("/v1/chat/completions", json.dumps({**LONG, "stream": True}).encode())
    connections = [server.connect() for _ in range(500)]
    for connection in connections:
        connection.sendall(body)
    server.until(lambda load: load["running"] == 16)
    for connection in connections:
        reset(connection)
    server.settle()
    assert http.post("/v1/chat/completions", json=SHORT).json()["choices"] == before
    assert server.num_files() <= files + 2


def test_clients_that_leave_while_they_send_or_wait_leave_nothing(server):
    connections = []
    for cut in (1, 20, 60, len(STREAM) // 2, len(STREAM) - 1):
        connection = server.connect()
        connection.sendall(STREAM[:cut])
        connections.append(connection)
    for connection in connections:
        reset(connection)
    queued = [begin_stream(server) for _ in range(16)]  # all seats
    waiting = server.connect()
    waiting.sendall(STREAM)
    server.until(lambda load: load["waiting"] == 1)
    reset(waiting)
    for connection in queued:
        reset(connection)
    server.settle()


def test_a_body_shorter_than_it_says_is_408_and_one_that_is_longer_is_cut(start, tiny_model):
    server = start(tiny_model, "--body-timeout", 0.3, "--header-timeout", 0.3)
    status, headers, _ = exchange(server, post("/tokenize", b'{"prompt": "a"}', "Content-Length: 500"))
    assert (status, headers["connection"]) == (408, "close")
    status, _, _ = exchange(server, post("/tokenize", b'{"prompt": "a"} {"prompt"', "Content-Length: 15"))
    assert status == 200
    status, _, body = exchange(server, b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    assert status == 408
    assert json.loads(body)["error"]["code"] == "slow_headers"


def test_a_client_that_never_reads_is_cut_off(start, tiny_model):
    server = start(tiny_model, "--write-timeout", 0.5, "--max-model-len", 4096)
    body = {**LONG, "max_tokens": 3900, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 16}
    body |= {"temperature": 1, "seed": 1}
    with server.connect(SO_RCVBUF=4096) as connection:
        connection.sendall(post("/v1/chat/completions", json.dumps(body).encode()))
        server.settle()
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                received += piece
    assert b"[DONE]" not in received


@pytest.fixture
def breakable(start, tiny_model, tmp_path):
    """(server, tell): a server whose executor does what it is told."""
    told = tmp_path / "told"
    told.write_text("ok")
    return start(told, "serve", tiny_model, "--max-model-len", 4096, code=RUN_BROKEN), told.write_text


class Streams:
    """Streams that are read on threads; each is `data:` by `data:`."""

    def __init__(self, client, body, count=1):
        self.begun, self.ended = threading.Semaphore(0), []
        self._threads = [threading.Thread(target=self._read, args=(client, body)) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        for _ in range(count):
            assert self.begun.acquire(timeout=SECONDS)  # its first event has come

    def _read(self, client, body):
        events = []
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    events.append(data_of(line))
                    self.begun.release()
        self.ended.append(events)

    def join(self):
        """The events of each."""
        for thread in self._threads:
            thread.join(SECONDS)
        return self.ended


def test_a_step_that_fails_ends_every_stream_in_one_error_event_and_the_engine_serves_again(breakable):
    server, tell = breakable
    tell("slow")
    usage = {"stream_options": {"include_usage": True}}
    with server.client() as client:
        streams = Streams(client, {**LONG, **usage}, 4)
        tell("fail")
        until(lambda: client.get("/livez").status_code == client.get("/readyz").status_code == 503)
        for events in streams.join():
            *_, end, error = map(json.loads, events)
            assert error["error"]["code"] == "engine_failed"
            assert "secret" not in error["error"]["message"]
            assert not any("error" in json.loads(event) for event in events[:-1])
            assert end["choices"] == []
            assert 0 < end["usage"]["completion_tokens"] < LONG["max_tokens"]
        tell("ok")
        until(lambda: client.get("/livez").status_code == client.get("/readyz").status_code == 200)
        assert client.post("/v1/chat/completions", json=SHORT).status_code == 200
        assert re.search(r"octavo:engine_restarts_total\{.*\} 1\.0", client.get("/metrics").text)


def test_an_engine_that_fails_again_and_again_ends_the_process(breakable):
    server, tell = breakable
    tell("fail")
    codes = set()
    with server.client() as client, contextlib.suppress(httpx.HTTPError):
        for _ in range(5):
            answer = client.post("/v1/chat/completions", json=SHORT)
            codes.add((answer.status_code, answer.json()["error"]["code"]))
        assert "given up" in client.get("/livez").json()["reason"]
    assert codes == {(500, "engine_failed")}
    assert server.process.wait(SECONDS) == 70


def test_a_step_that_hangs_fails_the_liveness_probe(breakable):
    server, tell = breakable
    tell("hang")
    with server.client() as client:
        assert client.get("/livez").json()["status"] == "alive"
        with server.connect() as waiting:
            waiting.sendall(STREAM)
            until(lambda: client.get("/livez").status_code == 503)
            assert "a step has been running" in client.get("/livez").json()["reason"]
            assert client.get("/health").status_code == 503


SOON = {"x-request-timeout": "0.4"}


def test_a_deadline_ends_an_answer_with_what_there_is(breakable):
    server, tell = breakable
    tell("slow")
    with server.client() as client:
        answer = client.post("/v1/chat/completions", json=LONG, headers=SOON)
        assert answer.status_code == 200
        body = answer.json()
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["choices"][0]["message"]["content"]
        num_tokens = body["usage"]["completion_tokens"]
        assert 0 < num_tokens < LONG["max_tokens"]
        server.wait(f"output_tokens={num_tokens}")
        asked = {**LONG, "stream": True, "stream_options": {"include_usage": True}}
        with client.stream("POST", "/v1/chat/completions", json=asked, headers=SOON) as streamed:
            *chunks, usage, done = [data_of(line) for line in streamed.iter_lines() if line.startswith("data:")]
        assert done == "[DONE]"
        assert json.loads(chunks[-1])["choices"][0]["finish_reason"] == "length"
        assert 0 < json.loads(usage)["usage"]["completion_tokens"] < LONG["max_tokens"]
        for bad in ("0", "-1", "soon", "nan"):
            answer = client.post("/v1/chat/completions", json=SHORT, headers={"x-request-timeout": bad})
            assert answer.status_code == 400
    server.settle()


def test_a_deadline_ends_all_that_a_request_asked_for(breakable):
    server, tell = breakable
    tell("slow")
    asked = {"max_tokens": 1500, "ignore_eos": True, "temperature": 1, "seed": 1}
    with server.client() as client:
        body = {**asked, "prompt": ["One", "Two"], "n": 2}
        answer = client.post("/v1/completions", json=body, headers=SOON)
        assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["length"] * 4
        beams = {**asked, "prompt": "One", "temperature": 0, "use_beam_search": True, "best_of": 2, "seed": None}
        (choice,) = client.post("/v1/completions", json=beams, headers=SOON).json()["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["text"]
    server.settle()


def test_a_deadline_without_a_single_token_is_504(breakable):
    server, tell = breakable
    tell("hang")
    with server.client() as client:
        for path, body in (("chat/completions", LONG), ("completions", {"prompt": ["a", "b"], "max_tokens": 5})):
            answer = client.post(f"/v1/{path}", json=body, headers=SOON)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")


def test_sigterm_lets_streams_finish_and_takes_no_new_requests(breakable):
    server, tell = breakable
    tell("slow")
    with server.client() as client:
        streams = Streams(client, {**LONG, "max_tokens": 100})
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        refused = client.post("/v1/chat/completions", json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["retry-after"]
        assert client.get("/livez").status_code == 200
        (events,) = streams.join()
    assert events[-1] == "[DONE]"
    assert server.process.wait(SECONDS) == 0
    assert "leaked" not in server.read_log()


def test_streams_that_do_not_finish_in_time_end_in_an_error_event(start, tiny_model, tmp_path):
    (tmp_path / "told").write_text("slow")
    server = start(tmp_path / "told", "serve", tiny_model, "--shutdown-timeout", 0.5, code=RUN_BROKEN)
    with server.client() as client:
        streams = Streams(client, {**LONG, "stream_options": {"include_usage": True}})
        assert server.stop() == 0
        (events,) = streams.join()
    assert json.loads(events[-2])["usage"]["completion_tokens"] > 0
    assert json.loads(events[-1])["error"]["code"] == "shutting_down"


def test_a_second_signal_ends_it_now_unless_it_is_the_first_one_again(breakable):
    server, tell = breakable
    tell("slow")
    connection = begin_stream(server)
    server.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    while "SIGTERM" not in server.read_log():
        time.sleep(0.01)
    while server.process.poll() is None:
        assert time.monotonic() < begin + 30
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert server.process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begin >= 1
    connection.close()


def test_timeout_ends_a_server_gracefully(breakable):
    """The command `timeout` signals the process, and then its group."""
    server, tell = breakable
    tell("slow")
    with server.client() as client:
        streams = Streams(client, {**LONG, "max_tokens": 100})
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.01)  # two of a kind that wait are one
        (events,) = streams.join()
    assert events[-1] == "[DONE]"
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once_with_code_0(start, tiny_model, number):
    server = start(tiny_model)
    begin = time.monotonic()
    with server.client() as client:
        client.get("/health")  # a connection that is kept
        assert server.stop(number) == 0
    assert time.monotonic() - begin < 10


def test_a_signal_while_loading_ends_it(start, real_model):
    assert start(real_model, wait="loading weights").stop() == 0


def test_a_server_without_file_descriptors_goes_on_when_there_are_some_again(start, tiny_model):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))

    server = start(tiny_model, preexec_fn=limit)
    connections = [server.connect() for _ in range(80)]
    until(lambda: server.num_files() == 48)
    for connection in connections:
        connection.close()
    with server.client() as client:

        def answers():
            with contextlib.suppress(httpx.HTTPError):
                return client.post("/v1/chat/completions", json=SHORT).status_code == 200

        until(answers)


def test_it_serves_with_no_home_and_nowhere_to_write(start, tiny_model):
    """As a random user of a container with a read-only root."""
    variables = {"HOME": "/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "TMPDIR": "/nowhere", "OCTAVO_CACHE": "/proc/x"}

    def become_somebody():
        os.setgid(54321)
        os.setuid(54321)

    options = {}
    needed = (tiny_model, Path(sys.executable).resolve(), Path(octavo.__file__))
    if os.getuid() == 0 and all(folder.stat().st_mode & 0o001 for path in needed for folder in path.parents):
        options["preexec_fn"] = become_somebody
    server = start(tiny_model, environment=variables, cwd="/proc", **options)
    with server.client() as client:
        assert client.post("/v1/chat/completions", json=SHORT).status_code == 200


@pytest.fixture
def movable_clock(tmp_path):
    """Variables for a process whose wall clock can be moved, and the function that moves it by so many seconds."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], check=True)
    offset.write_bytes(bytes(8))

    def move(seconds):
        with offset.open("r+b", buffering=0) as file:
            file.write(struct.pack("l", seconds))

    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}, move


@pytest.mark.parametrize("seconds", [86400, -86400])
def test_a_clock_that_steps_by_a_day_disturbs_nothing(start, tiny_model, movable_clock, seconds):
    """Neither deadlines, nor per-minute limits, nor running streams depend on the wall clock."""
    variables, move = movable_clock
    options = ("--request-timeout", 60, "--requests-per-minute", 60, "--max-num-seqs", 2)
    server = start(tiny_model, *options, environment={**variables, "OCTAVO_NUM_THREADS": "1"})
    with server.client() as client:
        before = client.post("/v1/chat/completions", json=SHORT).json()
        connection = begin_stream(server)
        move(seconds)
        after = client.post("/v1/chat/completions", json=SHORT).json()
        assert abs(after["created"] - before["created"] - seconds) < SECONDS, "the clock has not stepped"
        assert after["choices"] == before["choices"]
        received = b""
        while piece := connection.recv(1 << 16):
            received += piece
            if b"[DONE]" in received:
                break
        assert b'"error"' not in received
        assert b"[DONE]" in received
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    connection.close()
    server.settle()


def test_a_thousand_idle_connections_keep_nobody_waiting(server, http):
    files = server.num_files()
    idle = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        idle = [server.connect() for _ in range(1000)]
        assert http.post("/v1/chat/completions", json=SHORT).status_code == 200
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: server.num_files() <= files + 2)


def test_pipelined_requests_are_answered_in_order(server):
    one = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(one * 3 + last)
        received = b""
        while piece := connection.recv(1 << 16):
            received += piece
    assert received.count(b"200 OK") == 4
    assert received.rindex(b'"version"') < received.index(b'"object":"list"')
