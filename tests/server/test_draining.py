"""What requests find while a server ends: nothing that came in time is lost, and clients are sent elsewhere."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .running import exchange, post, read_answer

BODY = b'{"prompt": "Once", "max_tokens": 3}'


@pytest.fixture
def streaming(start, tiny_model):
    """A server with a stream that goes on until it is read to its end."""
    server = start(tiny_model, "--max-num-seqs", "4")
    body = {"prompt": "Once", "max_tokens": 6000, "ignore_eos": True, "stream": True}
    with server.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        yield server


def test_answers_close_their_connections_while_a_server_drains(streaming):
    with streaming.client() as client:
        assert client.get("/readyz").headers.get("connection") != "close"
        streaming.process.send_signal(signal.SIGTERM)
        streaming.wait("may finish")
        refused = client.post("/v1/completions", content=BODY, headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        for answer in (refused, client.get("/readyz"), client.get("/v1/models")):
            assert answer.headers["connection"] == "close"
            assert "x-request-id" in answer.headers


def test_a_server_waits_for_a_request_that_is_still_being_sent(start, tiny_model):
    server = start(tiny_model)
    request = post("/v1/completions", BODY)
    with server.connect() as connection:
        connection.sendall(request[:-5])
        with server.client() as client:
            assert client.get("/livez").status_code == 200  # which came later, and was answered: the other is there
        server.process.send_signal(signal.SIGTERM)
        server.wait("may finish")
        for _ in range(20):  # longer than a server that waits for nothing goes on
            assert httpx.get(f"{server.url}/livez", trust_env=False).status_code == 200
            time.sleep(0.05)
        connection.sendall(request[-5:])
        status, headers, body = read_answer(connection)
    assert (status, headers["connection"]) == (503, "close")
    assert b"shutting_down" in body
    assert server.process.wait(60) == 0


def test_whoever_has_connected_is_answered_before_a_server_ends(start, tiny_model):
    """A connection is answered, or refused: nobody is left to wonder whether a request has begun."""
    server = start(tiny_model)
    server.until(lambda load: load["running"] == 0)  # the address is known
    request = post("/v1/completions", BODY)

    def ask_until_refused():
        statuses = set()
        while True:
            try:
                statuses.add(exchange(server, request)[0])
            except ConnectionRefusedError:
                return statuses

    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(ask_until_refused) for _ in range(8)]
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert set().union(*(task.result() for task in tasks)) == {200, 503}
    assert server.process.wait(60) == 0
