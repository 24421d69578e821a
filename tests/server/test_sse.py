"""Streams of events: comments in silence, one error at most, and an end that says how it ended."""

import asyncio
import json

import pytest

from octavo.errors import EngineFailedError, PromptError
from octavo.server import sse
from octavo.server.errors import ClientGoneError


def answer(events):
    """What a client would get: (status, pieces of the body, whether it is complete)."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(sse.EventStream(events)({}, None, send))
    start, *bodies = sent
    assert [message["type"] for message in bodies] == ["http.response.body"] * len(bodies)
    return start["status"], [body["body"] for body in bodies], not bodies[-1]["more_body"]


async def say(*pieces, error=None, pause=0.0):
    for piece in pieces:
        yield piece
        await asyncio.sleep(pause)
    if error is not None:
        raise error


def test_a_stream_ends_in_done():
    assert answer(say(b"data: 1\n\n", b"data: 2\n\n")) == (200, [b"data: 1\n\n", b"data: 2\n\n", sse.DONE], True)


@pytest.mark.parametrize("error", [EngineFailedError("secret"), PromptError("bad"), ValueError("/root at 0x7f")])
def test_a_stream_that_fails_ends_in_one_error_and_no_done(error):
    status, (first, last), is_complete = answer(say(b"data: 1\n\n", error=error))
    assert (status, first, is_complete) == (200, b"data: 1\n\n", True)
    told = json.loads(last.removeprefix(b"data: "))["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert "secret" not in told["message"]
    assert "/root" not in told["message"]


def test_what_goes_wrong_before_the_first_event_is_an_ordinary_error():
    with pytest.raises(PromptError):
        answer(say(error=PromptError("bad")))


def test_a_client_that_left_is_told_nothing():
    assert answer(say(b"data: 1\n\n", error=ClientGoneError("gone")))[1] == [b"data: 1\n\n", b""]


def test_silence_is_filled_with_comments(monkeypatch):
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.01)
    _, pieces, _ = answer(say(b"data: 1\n\n", b"data: 2\n\n", pause=0.1))
    assert sse.COMMENT in pieces
    assert sse.COMMENT.startswith(b":")
    assert [piece for piece in pieces if piece != sse.COMMENT] == [b"data: 1\n\n", b"data: 2\n\n", sse.DONE]
