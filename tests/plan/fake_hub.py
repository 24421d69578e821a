"""A Hub on this machine, with models in folders: what its API says of them, and their files by ranges."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class FakeHub:
    """`served` are bytes of files that were sent. `gated` names need a token; `knows_ranges` may be switched off."""

    def __init__(self, root: Path):
        self.root, self.served, self.gated, self.knows_ranges = root, 0, set(), True
        self.more_names: list[str] = []  # of files that every model is said to have
        self.url = ""

    def models(self) -> list[str]:
        return sorted(str(path.parent.relative_to(self.root)) for path in self.root.glob("*/*/config.json"))


@contextmanager
def running_hub(root: Path) -> Iterator[FakeHub]:
    hub = FakeHub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/api/models":
                wanted = parse_qs(url.query).get("search", [""])[0]
                return self.send_json([{"id": name} for name in hub.models() if wanted[:4] in name])
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/revision/[^/]+)?", url.path):
                return self.send_info(match[1])
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", url.path):
                return self.send_file(match[1], hub.root / match[1] / match[2])
            return self.refuse(404, "EntryNotFound")

        def send_info(self, name: str) -> None:
            folder = hub.root / name
            if not folder.is_dir():
                return self.refuse(404, "RepoNotFound")
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            siblings = [{"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
            siblings += [{"rfilename": more, "size": 10} for more in hub.more_names]
            about = {"id": name, "modelId": name, "sha": "0" * 40, "siblings": siblings, "private": False}
            return self.send_json({**about, "tags": [], "downloads": 0, "likes": 0})

        def send_file(self, name: str, file: Path) -> None:
            if name in hub.gated:
                return self.refuse(403, "GatedRepo")
            data = file.read_bytes()
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(match[1]), min(int(match[2]), len(data) - 1)) if match else (0, len(data) - 1)
            if match and hub.knows_ranges:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[first : last + 1]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            hub.served += len(data)
            try:
                self.wfile.write(data)
            except OSError:  # who needs no more of it has closed the connection
                self.close_connection = True

        def send_json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
