"""The client against a server that keeps what it was asked."""

import asyncio

import pytest

from octavo.client.api import CHAT, COMPLETIONS, ApiClient, ApiError, finish_of, text_of
from octavo.client.framing import ConnectionFailed
from octavo.client.http import Address
from octavo.errors import ConfigError


def ask(url, path=COMPLETIONS, times=1, **client_options):
    """The chunks of streamed answers, one request after the other."""

    async def go():
        client = ApiClient(url, **client_options)
        try:
            return [[chunk.json async for chunk in client.stream(path, {"prompt": "x"})] for _ in range(times)]
        finally:
            client.close()

    return asyncio.run(go())


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stream_is_its_chunks_without_comments_and_done(stub_url, path):
    (chunks,) = ask(stub_url, path)
    assert "".join(map(text_of, chunks)) == "Hello, world!"
    assert finish_of(chunks[-1]) == "stop"


def test_connections_are_used_again(stub, stub_url):
    ask(stub_url, times=3)
    assert stub.num_connections == 1


def test_a_connection_that_the_server_closed_is_replaced(stub, stub_url):
    stub.close_idle = True
    assert len(ask(stub_url, times=3)) == 3
    assert len(stub.asked) == 3


def test_the_key_is_sent(stub, stub_url):
    ask(stub_url, api_key="sk-1")
    assert stub.headers[0]["authorization"] == "bearer sk-1"


def test_a_refusal_has_status_code_and_reason(stub, stub_url):
    stub.refuse = lambda body: (404, {"message": "no such\nmodel", "code": "model_not_found", "param": "model"}, {})
    with pytest.raises(ApiError, match="the server says 404: no such model") as caught:
        ask(stub_url)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert not caught.value.is_too_long


@pytest.mark.parametrize("error", [{"error": "a bare text"}, "no JSON object", ["a list"]])
def test_a_refusal_may_have_any_shape(stub, stub_url, error):
    stub.refuse = lambda body: (401, error, {})
    with pytest.raises(ApiError, match="the server says 401"):
        ask(stub_url)


def test_a_context_that_is_too_long_is_known_by_its_code_or_its_words(stub, stub_url):
    for error in (
        {"message": "too long", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 8 tokens", "code": 400},
    ):
        stub.refuse = lambda body, error=error: (400, error, {})
        with pytest.raises(ApiError) as caught:
            ask(stub_url)
        assert caught.value.is_too_long


def test_an_error_in_a_stream_is_raised(stub, stub_url):
    stub.error_after = 2
    with pytest.raises(ApiError, match="the server: the engine failed"):
        ask(stub_url)


def test_a_stream_that_breaks_off_is_an_error(stub, stub_url):
    stub.break_after = 2
    with pytest.raises(ConnectionFailed, match="closed the connection in the middle"):
        ask(stub_url)


def test_nobody_at_the_address_is_an_error():
    with pytest.raises(ConnectionFailed, match="can't connect: Connection refused"):
        ask("http://127.0.0.1:1")


def test_leaving_a_stream_early_closes_its_connection(stub, stub_url):
    stub.tokens, stub.delay = ["x"] * 1000, 0.01

    async def go():
        client = ApiClient(stub_url)
        stream = client.stream(COMPLETIONS, {"prompt": "x"})
        await anext(stream)
        await stream.aclose()
        for _ in range(100):
            if not stub.num_running:
                break
            await asyncio.sleep(0.02)

    asyncio.run(go())
    assert stub.num_running == 0


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("http://h/v1", "http://h:80"),
        ("https://h/api/v1/", "https://h:443/api"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_addresses_are_read_as_people_write_them(url, address):
    assert str(Address.parse(url)) == address


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:99999", "http://u@h", "http://h?x=1", "http://h /"])
def test_other_addresses_are_refused(url):
    with pytest.raises(ConfigError, match="url="):
        Address.parse(url)
