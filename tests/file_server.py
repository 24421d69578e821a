"""A server of files on this machine that can misbehave as networks and servers do, and counts what it sends."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FileServer:
    """`files` by their path. What is set below is how it misbehaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.etags = True
        self.lengths = True  # says how long a file is
        self.redirects: dict[str, str] = {}
        self.statuses: list[int] = []  # of the next answers, before the files are looked at
        self.drop_after: int | None = None  # bytes of a body, then the connection is cut
        self.drops = 0  # how often that is done; below zero: for ever
        self.halt: threading.Event | None = None  # waited for in the middle of each body
        self.reached = threading.Event()  # somebody waits there
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sent: dict[str, int] = {}  # bytes of bodies

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return self.say(request, status)
        if path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[path])
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if path not in self.files:
            return self.say(request, 404)
        self.give(request, path, self.files[path])

    @staticmethod
    def say(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    def give(self, request: BaseHTTPRequestHandler, path: str, content: bytes) -> None:
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
        start, end = 0, len(content)
        if self.ranges and asked and condition in (None, etag):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, end) if last else end
            if start >= len(content):
                return self.say(request, 416)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            request.send_response(200)
        if self.etags:
            request.send_header("ETag", etag)
        if self.lengths:
            request.send_header("Content-Length", str(end - start))
        request.end_headers()
        if end - start > 1:  # not what only asks how long it is
            self.send(request, path, content[start:end])
        else:
            request.wfile.write(content[start:end])

    def send(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        cut = self.drop_after is not None and self.drops != 0 and self.drop_after < len(body)
        if cut:
            self.drops -= 1
            body = body[: self.drop_after]
        if self.halt is not None:
            request.wfile.write(body[: len(body) // 2])
            self.sent[path] = self.sent.get(path, 0) + len(body) // 2
            body = body[len(body) // 2 :]
            self.reached.set()
            self.halt.wait(60)
        request.wfile.write(body)
        self.sent[path] = self.sent.get(path, 0) + len(body)
        if cut:
            request.close_connection = True


@contextmanager
def serving(server: FileServer) -> Iterator[str]:
    """The server's URL while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as the base has it
            try:
                server.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_address[1]}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
