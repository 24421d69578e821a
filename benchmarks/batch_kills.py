"""A batch whose server is killed again and again: is every line answered exactly once in the end?

    python benchmarks/batch_kills.py [MODEL] [--lines 500] [--kills 200] [--tokens 64] [--seed 0]

Starts `octavo serve` with a data folder, makes a batch, and kills the server with SIGKILL at random moments: while it
loads, reads the folder, answers, or writes its files. In each of its lives a file is uploaded too. Ends with code 1 if
a line has no answer or two, or a file that was acknowledged is not what it was.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

URL = "/v1/completions"
EARLY = 0.3  # this share of the kills comes before the server is ready
PATIENCE = 600  # seconds for anything that is waited for


class Server:
    """One life of the server."""

    def __init__(self, model: str, folder: Path, concurrency: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        flags = ["--port", str(self.port), "--data-dir", str(folder / "data"), "--no-log-requests"]
        command = [sys.executable, "-m", "octavo", "serve", model, *flags, "--batch-concurrency", str(concurrency)]
        self._log = (folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """Raises OSError or HTTPException while it is not there, ValueError for an answer that is no 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"content-type": kind})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return content

    def upload(self, content: bytes, purpose: str) -> str:
        head = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n%b\r\n' % purpose.encode()
        file = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n--b--\r\n' % content
        answer = self.ask("POST", "/v1/files", head + file, "multipart/form-data; boundary=b")
        return str(json.loads(answer)["id"])

    def batch(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("GET", f"/v1/batches/{batch_id}"))
        return found

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("GET", "/livez")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


class Test:
    """The batch, the files that were acknowledged, and what is wrong."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        self.random = random.Random(args.seed)
        self.files: dict[str, bytes] = {}
        self.ids = [f"line-{number}" for number in range(args.lines)]
        self.batch_id = ""
        self.states: Counter[str] = Counter()  # what the batch was when its server was killed

    def start(self) -> Server:
        return Server(self.args.model, self.folder, self.args.concurrency)

    def begin(self) -> None:
        options = {"max_tokens": self.args.tokens, "temperature": 0, "ignore_eos": True}
        lines = [
            {"custom_id": name, "method": "POST", "url": URL, "body": {"prompt": name, **options}} for name in self.ids
        ]
        server = self.start()
        server.wait()
        file = server.upload("\n".join(map(json.dumps, lines)).encode(), "batch")
        body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
        self.batch_id = json.loads(server.ask("POST", "/v1/batches", json.dumps(body).encode()))["id"]
        server.kill()

    def live(self) -> None:
        """One life, of a length that leaves something to do for the next ones."""
        began, server = time.monotonic(), self.start()
        if self.random.random() < EARLY:
            time.sleep(self.random.uniform(0, 1.5))
            self.states["starting"] += 1
            return server.kill()
        server.wait()
        content = self.random.randbytes(self.random.randrange(1, 100_000))
        self.files[server.upload(content, "user_data")] = content
        done = sum(self.counts(server))
        target = done + self.random.randrange(self.args.lines // self.args.kills + 1)
        while sum(self.counts(server)) < target and server.batch(self.batch_id)["status"] != "completed":
            if time.monotonic() - began > PATIENCE:
                raise TimeoutError("the batch does not go on")
        time.sleep(self.random.uniform(0, 0.02))
        self.states[server.batch(self.batch_id)["status"]] += 1
        server.kill()

    def counts(self, server: Server) -> tuple[int, int]:
        counts = server.batch(self.batch_id)["request_counts"]
        return counts["completed"], counts["failed"]

    def check(self) -> list[str]:
        """Lets the batch finish, and says what is wrong."""
        server = self.start()
        server.wait()
        end = time.monotonic() + PATIENCE
        while (batch := server.batch(self.batch_id))["status"] in ("validating", "in_progress", "finalizing"):
            if time.monotonic() > end:
                return [f"the batch does not end: {batch}"]
            time.sleep(0.1)
        names = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
        entries = [json.loads(line) for name in names for line in self.content(server, name).splitlines()]
        answers = Counter(entry["custom_id"] for entry in entries)
        wrong = [f"{name} is there {answers[name]} times" for name in self.ids if answers[name] != 1]
        wrong += [f"nobody asked for {name}" for name in answers if name not in self.ids]
        wrong += [f"{entry['custom_id']}: {entry['error']}" for entry in entries if entry["error"]]
        if (batch["status"], self.counts(server)) != ("completed", (self.args.lines, 0)):
            wrong.append(f"the batch says {batch}")
        wrong += [
            f"the file {name} is another"
            for name, content in self.files.items()
            if content != self.content(server, name)
        ]
        server.process.send_signal(signal.SIGTERM)
        if server.process.wait(PATIENCE) != 0:
            wrong.append("the server did not end well")
        return wrong

    @staticmethod
    def content(server: Server, name: str) -> bytes:
        return server.ask("GET", f"/v1/files/{name}/content")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--concurrency", type=int, default=2, help="lines at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        test = Test(args, Path(name))
        test.begin()
        for number in range(args.kills):
            test.live()
            if sys.stderr.isatty():
                print(f"\r{number + 1} kills", end="", file=sys.stderr)
        wrong = test.check()
    states = ", ".join(f"{count} while {state}" for state, count in test.states.most_common())
    print(f"{args.lines} lines, {args.kills} kills ({states}), {len(test.files)} files: {len(wrong)} wrong")
    print("\n".join(wrong[:20]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
