"""HTTP answers and events, whole and in pieces, good and bad."""

import pytest

from octavo.client.framing import MAX_HEAD, AnswerParser, ConnectionFailed, EventParser

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n8;name=value\r\n, world!\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
SIZED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello"
EVENTS = b': comment\r\n\r\ndata: {"a": 1}\r\n\r\nid: 7\nevent: x\ndata:first\ndata: second\n\n\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "status", "body", "keeps_open"),
    [(CHUNKED, 200, b"hello, world!", True), (SIZED, 404, b"hello", False)],
)
def test_an_answer_is_the_same_however_it_is_cut(data, status, body, keeps_open, size):
    parser = AnswerParser()
    got = b"".join(parser.feed(data[i : i + size]) for i in range(0, len(data), size))
    assert (parser.status, got, parser.ended, parser.keeps_open) == (status, body, True, keeps_open)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_they_are_cut(size):
    parser = EventParser()
    events = [event for i in range(0, len(EVENTS), size) for event in parser.feed(EVENTS[i : i + size])]
    assert events == [b'{"a": 1}', b"first\nsecond", b"[DONE]"]


def test_an_interim_answer_is_passed_over():
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED) == b"hello"
    assert parser.status == 404


def test_a_body_without_a_length_ends_with_the_connection():
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.0 200 OK\r\n\r\nsome") == b"some"
    assert not parser.ended
    parser.close()
    assert parser.ended
    assert not parser.keeps_open


@pytest.mark.parametrize("cut", [0, 10, 60, len(CHUNKED) - 3, len(SIZED)])
def test_an_answer_that_breaks_off_is_an_error(cut):
    parser = AnswerParser()
    parser.feed(CHUNKED[:cut])
    with pytest.raises(ConnectionFailed, match="closed the connection"):
        parser.close()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP server"),
        (b"x" * (MAX_HEAD + 1), "not an HTTP server"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n", "body is not HTTP: .*chunk size"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "not an HTTP server"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n", "body is not HTTP: .*chunk size"),
    ],
)
def test_what_is_not_http_is_an_error(data, says):
    with pytest.raises(ConnectionFailed, match=says):
        AnswerParser().feed(data)


def test_a_large_chunk_comes_as_it_arrives():
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\nsome") == b"some"
    assert parser.feed(b" more") == b" more"
    assert not parser.ended


def test_what_follows_an_answer_is_none_of_it():
    for rest in (b"junk", SIZED):
        parser = AnswerParser()
        assert parser.feed(CHUNKED + rest) == b"hello, world!"
        assert (parser.status, parser.ended, "x-trailer" in parser.headers) == (200, True, False)
        assert not parser.keeps_open
