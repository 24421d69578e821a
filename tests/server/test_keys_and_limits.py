"""Who may ask, and how much: keys, limits of each key, and the queue."""

import json
import threading
import time

import openai
import pytest

from octavo.errors import ConfigError
from octavo.server.errors import KeyRejectedError, RateLimitError, UnavailableError
from octavo.server.keys import Allowance, Client, read_keys
from octavo.server.limits import Queue
from octavo.server.options import ServerConfig

from .running import exchange
from .test_bad_input import check_error, check_shape
from .test_faults import RUN_BROKEN

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
PUBLIC = ("/livez", "/readyz", "/health", "/ping")
CLOSED = (
    *("/v1/models", "/v1/models/x", "/version", "/load", "/metrics", "/docs", "/openapi.json"),
    *(
        "/nothing",
        *("/ui", "/ui/", "/ui/none.js", "/ui/../v1/models", "//"),
        "/livez/",
        "//livez",
        "/livez/../v1/models",
        "/LIVEZ",
        "/v1/models?x=/livez",
        "/%6civez",
        "/health%2f",
    ),
)


@pytest.fixture(scope="module")
def locked(tiny_model, tmp_path_factory):
    """A server with three keys, one of them in a file and limited."""
    from .running import Server

    folder = tmp_path_factory.mktemp("locked")
    keys = folder / "keys.yaml"
    keys.write_text("slow: {key: slow-key, requests_per_minute: 2}\nfew: {key: few-key, tokens_per_minute: 30}\n")
    server = Server(
        folder / "log",
        *("serve", tiny_model)[1:],
        *("--api-key", "first", "--api-key-file", keys),
        environment={"VLLM_API_KEY": "from-environment"},
    )
    yield server.wait()
    server.stop()


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", PUBLIC)
def test_probes_need_no_key_and_tell_no_names_of_folders(locked, path):
    with locked.client() as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.json()["models"] == {"tiny": "ready"}


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_needs_one_however_it_is_spelled(locked, path):
    data = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    status, headers, body = exchange(locked, data)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert headers["x-request-id"]
    check_shape(body)


def test_a_host_with_a_path_opens_nothing(locked):
    status, _, _ = exchange(locked, b"GET /v1/models HTTP/1.1\r\nHost: a/livez?\r\nConnection: close\r\n\r\n")
    assert status == 400
    status, _, _ = exchange(locked, b"GET http://a/livez/../v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert status == 401


@pytest.mark.parametrize("key", ["first", "from-environment", "slow-key"])
def test_any_of_the_keys_opens(locked, key):
    with locked.client(headers=bearer(key)) as client:
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize("key", ["", "firs", "first2", "FIRST", "first ", " ", "ключ"])
def test_another_key_is_refused(locked, key):
    headers = [(b"authorization", f"Bearer {key}x".encode())]
    with locked.client(headers=headers) as client:
        check_error(client.get("/v1/models"), 401)


def test_openai_s_client_sees_an_authentication_error(locked):
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"


def test_a_key_s_requests_of_a_minute_are_limited_and_another_key_s_are_not(locked):
    with locked.client(headers=bearer("slow-key")) as client:
        codes = [client.post("/v1/chat/completions", json=HELLO) for _ in range(4)]
        assert [answer.status_code for answer in codes] == [200, 200, 429, 429]
        error = check_error(codes[-1], 429)
        assert error["code"] == "rate_limit_exceeded"
        assert 1 <= int(codes[-1].headers["retry-after"]) <= 60
    with locked.client(headers=bearer("first")) as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200


def test_a_key_s_tokens_of_a_minute_are_limited(locked):
    body = {**HELLO, "max_tokens": 40, "ignore_eos": True}
    with locked.client(headers=bearer("few-key")) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        check_error(client.post("/v1/chat/completions", json=body), 429)


def test_an_allowance_refills_steadily(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    allowance = Allowance(60)
    assert allowance.wait() == 0
    allowance.take(65)
    assert allowance.wait() == pytest.approx(6)
    now[0] += 3
    assert allowance.wait() == pytest.approx(3)
    now[0] += 1000
    assert allowance.wait() == 0
    allowance.take(60)
    assert allowance.wait() == pytest.approx(1)


def test_a_client_may_wait_at_most_a_minute():
    client = Client("a", tokens_per_minute=1)
    client.charge(1000)
    with pytest.raises(RateLimitError) as caught:
        client.admit()
    assert caught.value.headers["retry-after"] == "60"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "- a\n",
        "a: 5",
        "a: {}",
        "a: {key: k, unknown: 1}",
        "a: {key: k, tokens_per_minute: 0}",
        "a: k\na: l",
        "a: k\nb: k",
        "a: k\nb: {key: k}",
        "a: 'k l'",
        "a: ''",
    ],
)
def test_a_bad_file_of_keys_is_refused(tmp_path, text):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match="api_key_file"):
        read_keys(ServerConfig(api_key_file=str(file)))


def test_a_key_of_the_file_that_was_typed_too_is_refused_and_not_shown(tmp_path):
    file = tmp_path / "keys"
    file.write_text("ann: secret\nbob: 'other'\n")
    with pytest.raises(ConfigError, match="key-1 and ann have one key") as caught:
        read_keys(ServerConfig(api_keys=("secret",), api_key_file=str(file)))
    assert "secret" not in str(caught.value)


def test_no_keys_let_everyone_in_and_an_empty_one_is_refused():
    assert read_keys(ServerConfig()).identify(None).name == "anyone"
    with pytest.raises(ConfigError, match="api_key=''"):
        ServerConfig(api_keys=("",))
    with pytest.raises(KeyRejectedError):
        read_keys(ServerConfig(api_keys=("a",))).identify(b"Basic a")


def test_a_queue_refuses_beyond_its_limits_and_says_when_to_come_back():
    queue = Queue(2, 100)
    queue.seats = 1
    for _ in range(3):
        queue.admit(1)
        queue.enter(1, 10)
    with pytest.raises(UnavailableError) as caught:
        queue.admit(1)
    assert 1 <= int(caught.value.headers["retry-after"]) <= 60
    queue.leave(1)
    queue.admit(1)
    with pytest.raises(UnavailableError):
        queue.enter(1, 90)
    queue.start(10)
    queue.start(10)
    queue.start(10)
    queue.enter(1, 1000)  # a prompt longer than the limit gets on when nothing else waits


def test_a_full_queue_is_503_and_those_in_it_are_served(start, tiny_model, tmp_path):
    (tmp_path / "told").write_text("slow")
    limits = ("--max-num-seqs", 2, "--max-queued-requests", 3)
    server = start(tmp_path / "told", "serve", tiny_model, *limits, code=RUN_BROKEN)
    body = {**HELLO, "max_tokens": 60, "ignore_eos": True}
    answers = []
    with server.client() as client:

        def ask():
            answers.append(client.post("/v1/chat/completions", json=body).status_code)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        server.until(lambda load: (load["running"], load["waiting"]) == (2, 3))
        refused = client.post("/v1/chat/completions", json=body)
        for thread in threads:
            thread.join()
        assert check_error(refused, 503)["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert answers == [200] * 5
        assert "octavo:requests_refused_total" in client.get("/metrics").text
    server.settle()


def test_a_list_of_more_prompts_than_the_queue_holds_is_taken_when_nothing_waits(start, tiny_model):
    server = start(tiny_model, "--max-num-seqs", 2, "--max-queued-requests", 3, "--max-prompts", 20)
    with server.client() as client:
        answer = client.post("/v1/completions", json={"prompt": ["a"] * 20, "max_tokens": 2})
        assert len(answer.json()["choices"]) == 20
        check_error(client.post("/v1/completions", json={"prompt": ["a"] * 21}), 400, "prompt")


def test_web_pages_may_call_only_as_told(start, tiny_model):
    preflight = {"origin": "http://ui", "access-control-request-method": "POST"}
    closed, told = (
        start(tiny_model),
        start(tiny_model, "--allowed-origins", json.dumps(["http://ui"]), "--api-key", "k"),
    )
    with closed.client() as client:
        assert "access-control-allow-origin" not in client.options("/v1/models", headers=preflight).headers
    with told.client() as client:
        answer = client.options("/v1/chat/completions", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "http://ui"
        other = client.get("/health", headers={"origin": "http://other"})
        assert "access-control-allow-origin" not in other.headers
        refused = client.get("/v1/models", headers={"origin": "http://ui"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "http://ui"
