"""A server in a process of its own, as users start it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import openai

SECONDS = 600  # that anything may take before a test fails, however busy the machine is


class Server:
    """`octavo serve` with `arguments`; `module` is what `python -m` runs. Its log is in `log`."""

    def __init__(self, log, *arguments, module=("octavo", "serve"), environment=None, code=None, **options):
        self.log, self.url = log, None
        start = ["-c", code] if code else ["-m", *module]
        command = [sys.executable, *start, *map(str, arguments)]
        if not {"--uds", "--port"} & set(command):
            command += ["--port", "0"]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
        for name in ("OCTAVO_API_KEY", "VLLM_API_KEY"):
            variables.pop(name, None)
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=variables | (environment or {}), **options
            )

    def wait(self, text="ready: "):
        """Until the log says `text`."""
        end = time.monotonic() + SECONDS
        while text not in self.read_log():
            assert self.process.poll() is None, self.read_log()
            assert time.monotonic() < end, self.read_log()
            time.sleep(0.02)
        if found := re.search(r"(?:listening on|ready:) (https?://[\w.:\[\]]+)", self.read_log()):
            self.url = found[1]
            self.host, port = self.url.rpartition("//")[2].rsplit(":", 1)
            self.port = int(port)
        return self

    def read_log(self):
        return self.log.read_text()

    def client(self, **options):
        return httpx.Client(base_url=self.url, **{"timeout": SECONDS, "trust_env": False, **options})

    def openai(self, key="EMPTY"):
        """OpenAI's own client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def connect(self, **options):
        """A plain socket."""
        connection = socket.socket()
        for option, value in options.items():
            connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        connection.settimeout(SECONDS)
        try:
            connection.connect((self.host, self.port))
        except OSError:
            connection.close()
            raise
        return connection

    def settle(self, key="EMPTY"):
        """Until nothing runs, nothing waits, and no block has an owner."""
        self.until(lambda load: load == IDLE, key)

    def until(self, condition, key="EMPTY"):
        """Until what /load says fulfils `condition`."""
        with self.client(headers={"authorization": f"Bearer {key}"}) as client:
            until(lambda: condition(client.get("/load").json()), self.read_log)

    def num_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, number=signal.SIGTERM):
        """Sends a signal, and returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()


def until(condition, describe=str):
    """Until `condition` is true; `describe` says what is there if it never is."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(0.02)


IDLE = {"server_load": 0, "running": 0, "waiting": 0, "kv_cache_usage": 0.0}


def exchange(server, data, half_close=False):
    """Sends bytes over a plain socket, and returns (status, headers, body) of what comes back."""
    with server.connect() as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_answer(connection)


def read_answer(connection):
    """(status, headers, body) of what comes until the server closes the connection; the status is 0 if nothing does."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            received += piece
    if not received:
        return 0, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def post(path, body, *headers):
    """The bytes of a POST; `body` is bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close"]
    lines += (
        [f"Content-Length: {len(body)}"] if not any(h.lower().startswith("content-length") for h in headers) else []
    )
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body
