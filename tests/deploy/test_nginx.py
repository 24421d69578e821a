"""Two real servers behind nginx, as it is deployed: one is killed, or drains, while requests run."""

import json
import signal
import socket
import subprocess
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from server.running import SECONDS, until

from .conftest import MODEL
from .proxy import Proxy, local_nginx, require

LONG = 60000  # tokens: such requests go on until their clients leave
SHORT = 8


class Asked(threading.Thread):
    """One request to the proxy on a thread of its own: `begun` is set by the first bytes of its answer."""

    def __init__(self, proxy, tokens=SHORT, path="/v1/completions", key="EMPTY", stream=True, **more):
        super().__init__(daemon=True)
        self.id, self.begun, self.status, self.text, self.is_cut = uuid.uuid4().hex, threading.Event(), 0, b"", False
        self._leaves = False
        field = "input" if path == "/v1/responses" else "prompt"
        limit = {"max_output_tokens": tokens} if path == "/v1/responses" else {"max_tokens": tokens, "ignore_eos": True}
        self._body = {"model": MODEL, field: f"A tale of {self.id}", "stream": stream, **limit, **more}
        self._url, self._headers = proxy.url + path, {"x-request-id": self.id, "authorization": f"Bearer {key}"}
        self.start()

    def run(self):
        try:
            with (
                httpx.Client(timeout=SECONDS, trust_env=False) as client,
                client.stream("POST", self._url, json=self._body, headers=self._headers) as answer,
            ):
                self.status = answer.status_code
                for piece in answer.iter_raw():
                    self.text += piece
                    self.begun.set()
                    if self._leaves:
                        return
        except httpx.TransportError:
            self.is_cut = True
        finally:
            self.begun.set()

    def end(self):
        """Itself, when it has ended."""
        self.join(SECONDS)
        assert not self.is_alive()
        return self

    def leave(self):
        """Goes away in the middle of its answer, which goes on until then."""
        before = len(self.text)
        until(lambda: len(self.text) > before or not self.is_alive())
        assert self.is_alive(), self.text[-200:]
        self._leaves = True
        self.end()

    @property
    def is_whole(self):
        ends = (b"data: [DONE]", b"event: response.completed", b"event: response.incomplete")
        return self.status == 200 and not self.is_cut and any(end in self.text for end in ends)


def load(server):
    with server.client() as client:
        return client.get("/load").json()


def busy(replicas, proxy, waiting):
    """Streams that have begun, two on each replica, and `waiting` on each that have not."""
    begun = [Asked(proxy, LONG) for _ in range(4)]
    for one in begun:
        assert one.begun.wait(SECONDS)
    later = [Asked(proxy, SHORT) for _ in range(2 * waiting)]
    counts = {"running": 2, "waiting": waiting}
    for server in replicas:
        until(lambda server=server: counts.items() <= load(server).items(), server.read_log)
    return begun, later


def upstreams(proxy, asked):
    """The ports that a request was sent to, one after the other."""
    return [int(address.rpartition(":")[2]) for address in proxy.entries()[asked.id]["upstream"].split(", ")]


def test_the_configuration_is_valid(tmp_path):
    require("nginx")
    script = local_nginx()
    command = script.command(tmp_path, script.configured(tmp_path, 8080, [1, 2]), "-t")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr


def test_a_killed_replica_loses_only_what_it_had_begun(replicas, proxy):
    begun, later = busy(replicas, proxy, waiting=3)
    killed, other = replicas
    killed.stop(signal.SIGKILL)
    until(lambda: sum(one.is_cut for one in begun) == 2)
    cut = [one for one in begun if one.is_cut]
    assert {one.status for one in cut} == {200}
    for one in begun:
        if one not in cut:
            one.leave()
    for one in later:
        assert one.end().is_whole, (one.status, one.text)
    until(lambda: {one.id for one in begun + later} <= set(proxy.entries()))
    assert {port for one in cut for port in upstreams(proxy, one)} == {killed.port}
    assert {tuple(upstreams(proxy, one)) for one in later} <= {(other.port,), (killed.port, other.port)}
    assert sum(upstreams(proxy, one)[0] == killed.port for one in later) == 3
    assert all(Asked(proxy).end().is_whole for _ in range(4))


def test_a_request_that_leaves_something_behind_is_never_sent_twice(replicas, proxy):
    begun = [Asked(proxy, LONG) for _ in range(4)]
    for one in begun:
        assert one.begun.wait(SECONDS)
    stored = [Asked(proxy, path="/v1/responses", key=f"key-{i}", stream=False) for i in range(12)]
    until(lambda: sum(load(server)["waiting"] for server in replicas) == len(stored))
    on_killed = load(replicas[0])["waiting"]
    assert 0 < on_killed < len(stored)
    replicas[0].stop(signal.SIGKILL)
    until(lambda: sum(one.is_cut for one in begun) == 2)
    for one in begun:
        if not one.is_cut:
            one.leave()
    ended = [one.end() for one in stored]
    assert sorted(one.status for one in ended) == [200] * (len(stored) - on_killed) + [502] * on_killed
    assert {json.loads(one.text)["error"]["code"] for one in ended if one.status == 502} == {"unreachable"}
    again = [Asked(proxy, path="/v1/responses", key=f"key-{i}", stream=False) for i in range(12)]
    assert {one.end().status for one in again} == {200}  # it never got these


def test_a_replica_that_drains_ends_what_it_has_and_the_other_takes_the_rest(replicas, proxy):
    begun, later = busy(replicas, proxy, waiting=1)
    draining = replicas[0]
    draining.process.send_signal(signal.SIGTERM)
    draining.wait("may finish")
    new = [Asked(proxy, key=f"key-{i}", **more) for i in range(6) for more in ({}, {"path": "/v1/responses"})]
    until(lambda: load(replicas[1])["waiting"] == len(new) + 1)
    for one in begun:
        one.leave()
    for one in later + new:
        assert one.end().is_whole, (one.status, one.text)
    assert draining.process.wait(SECONDS) == 0
    until(lambda: {one.id for one in new} <= set(proxy.entries()))
    assert {upstreams(proxy, one)[-1] for one in new} == {replicas[1].port}


def test_a_client_that_leaves_is_told_to_the_replica(replicas, proxy):
    with httpx.Client(base_url=proxy.url, timeout=SECONDS, trust_env=False) as client:
        body = {"model": MODEL, "prompt": "Once", "max_tokens": LONG, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            until(lambda: sum(load(server)["server_load"] for server in replicas) == 1)
    for server in replicas:
        server.settle()


def test_tokens_arrive_one_by_one_and_metrics_are_not_shown(proxy):
    with httpx.Client(base_url=proxy.url, timeout=SECONDS, trust_env=False) as client:
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            assert len(list(answer.iter_raw())) > 20
        assert client.get("/metrics").status_code == 404
        assert client.get("/v1/models").json()["data"][0]["id"] == MODEL
        refused = client.post("/v1/completions", json={"model": "other", "prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")


def test_a_replica_that_says_what_took_too_long_is_heard(replicas, proxy):
    begun, _ = busy(replicas, proxy, waiting=0)
    with httpx.Client(base_url=proxy.url, timeout=SECONDS, trust_env=False) as client:
        for path, field in (("/v1/responses", "input"), ("/v1/completions", "prompt")):
            answer = client.post(path, json={"model": MODEL, field: "a"}, headers={"x-request-timeout": "0.01"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
            assert "retry-after" not in answer.headers
    for one in begun:
        one.leave()


def test_no_model_of_a_single_replica_is_loaded_or_unloaded(proxy):
    with httpx.Client(base_url=proxy.url, timeout=SECONDS, trust_env=False) as client:
        for path in (f"/v1/models/{MODEL}/unload", "/v1/models/a/b/load", "/sleep", "/wake_up?tags=weights"):
            answer = client.post(path, json={})
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
        assert client.get(f"/v1/models/{MODEL}").json()["status"] == "ready"


def test_a_realtime_session_passes(proxy):
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{proxy.port}/v1/realtime?model={MODEL}"
    with connect(address, proxy=None, open_timeout=SECONDS) as session:
        assert json.loads(session.recv(SECONDS))["type"] == "session.created"


def test_without_any_replica_the_answer_is_an_error_in_the_usual_shape(replicas, proxy):
    for server in replicas:
        server.stop(signal.SIGKILL)
    for path in ("/v1/completions", "/v1/responses"):
        asked = Asked(proxy, path=path, stream=False).end()
        assert (asked.status, json.loads(asked.text)["error"]["code"]) == (502, "unreachable")


class Ending(threading.Thread):
    """A replica that says 503 to one request and refuses, or breaks, the connections that come after it."""

    def __init__(self, breaks):
        super().__init__(daemon=True)
        self._breaks, self._listener = breaks, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.start()

    def run(self):
        with self._listener:
            connection, _ = self._listener.accept()
            if not self._breaks:
                self._listener.close()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 503 Ending\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            while self._breaks:
                connection, _ = self._listener.accept()
                with connection:
                    connection.recv(1 << 16)


@pytest.mark.parametrize(("breaks", "tries", "status"), [(False, 3, 200), (True, 2, 502)])
def test_a_request_passes_a_replica_that_ends_after_its_503(start_replica, tmp_path, breaks, tries, status):
    """It is sent to the other one if nothing was sent to the first one again."""
    require("nginx")
    other = start_replica().wait()
    for number in range(20):  # which replica a key has is for nginx to say
        ending = Ending(breaks)
        proxy = Proxy(tmp_path / f"nginx-{number}", [ending.port, other.port])
        try:
            asked = Asked(proxy, path="/v1/responses", stream=False).end()
            until((proxy.folder / "access.log").read_text)
            log = (proxy.folder / "access.log").read_text()
        finally:
            proxy.stop()
        if str(ending.port) in log:
            break
    assert log.count(f":{ending.port}") == tries, log
    assert asked.status == status
    assert (b'"unreachable"' in asked.text) == (status == 502)


def test_requests_wait_nowhere_while_replicas_take_turns_at_starting(replicas, proxy, start_replica):
    """Each is restarted once, on its port, under requests that come without a pause."""
    ended, failed = threading.Event(), []

    def ask():
        while not ended.is_set():
            for path in ("/v1/completions", "/v1/responses"):
                one = Asked(proxy, path=path, stream=False).end()
                if one.status != 200:
                    failed.append((one.status, one.text, proxy.entries().get(one.id)))

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(ask) for _ in range(4)]
        for server in replicas:
            assert server.stop(signal.SIGTERM) == 0
            start_replica("--port", server.port).wait()
        ended.set()
        for task in tasks:
            task.result()
    assert failed == []
