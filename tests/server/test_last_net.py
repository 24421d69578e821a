"""Whatever an endpoint raises is an answer in JSON."""

import asyncio
import json
import logging

import httpx
import pytest
from fastapi.responses import StreamingResponse

from octavo.server.app import make_app, wrap
from octavo.server.middleware import Envelope
from octavo.server.options import ServerConfig
from octavo.server.sse import EventStream
from octavo.server.state import ServerState


class PanicError(BaseException):
    """As what the bindings of Rust libraries raise, which is no Exception."""


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("no words for it")


def nested():
    error = ValueError("outer")
    error.__cause__ = RecursionError("inner")
    return error


ERRORS = {
    "exception": lambda: RuntimeError("a wire came loose in /root/secret"),
    "import": lambda: ImportError("libav.so: no such file"),
    "type": lambda: TypeError("metadata_errors"),
    "panic": lambda: PanicError("stack overflow"),
    "generator": lambda: GeneratorExit(),
    "memory": lambda: MemoryError(),
    "recursion": lambda: RecursionError("too deep"),
    "nested": nested,
    "group": lambda: BaseExceptionGroup("several", [PanicError(), ValueError()]),
    "stop": lambda: StopAsyncIteration(),
    "unspeakable": UnspeakableError,
}


async def ask(error, path="/raise", **request):
    server = ServerState(ServerConfig(), [])
    app = make_app(server)

    @app.get("/raise")
    async def endpoint():
        raise error

    @app.get("/stream")
    async def stream():
        async def events():
            yield b"data: one\n\n"
            raise error

        return EventStream(events())

    @app.get("/half")
    async def half():
        async def pieces():
            yield b"half an answer"
            raise error

        return StreamingResponse(pieces())

    transport = httpx.ASGITransport(wrap(app, server))
    async with httpx.AsyncClient(transport=transport, base_url="http://octavo") as client:
        return await client.get(path, **request)


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("octavo.server").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("octavo.server").setLevel(logging.NOTSET)


@pytest.mark.parametrize("kind", ERRORS)
def test_what_an_endpoint_raises_is_json(kind):
    answer = asyncio.run(ask(ERRORS[kind]()))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text


@pytest.mark.parametrize("kind", ["exception", "panic", "memory"])
def test_what_a_stream_raises_is_its_last_event(kind):
    answer = asyncio.run(ask(ERRORS[kind](), "/stream"))
    one, last, rest = answer.text.split("\n\n")
    assert (one, rest) == ("data: one", "")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"


@pytest.mark.parametrize("kind", ["exception", "panic"])
def test_half_an_answer_is_cut_and_not_ended(kind):
    error = ERRORS[kind]()
    with pytest.raises(type(error)):  # the connection's layer closes it
        asyncio.run(ask(error, "/half"))


def test_a_cancelled_request_is_answered_and_stays_cancelled():
    sent = []

    async def cancelled(scope, receive, send):
        raise asyncio.CancelledError

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Envelope(cancelled, ServerState(ServerConfig(), []))(scope, None, send))
    assert sent[0]["status"] == 500
    assert (b"content-type", b"application/json") in sent[0]["headers"]
