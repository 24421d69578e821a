"""Two replicas behind nginx that are restarted in turn, all the time, under load: does a request fail?

    python benchmarks/rolling_restart.py [MODEL] [--minutes 5] [--load 0.7] [--json FILE]

Starts two `octavo serve` and nginx with the configuration of deploy/compose, measures for a while how many requests per
second they do together, and sends that many times --load, at random times. Meanwhile one replica gets SIGTERM, ends
what it has, is started again, and when it is ready and no request waits any more, the other one's turn comes. Half of
the requests stream, and a quarter leaves something behind (/v1/responses), which is never sent twice. Ends with code 1
if a request failed or a replica did not end with code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from octavo.client.http import Address, HttpClient
from octavo.errors import OctavoError
from octavo.version import __version__

_file = Path(__file__).parents[1] / "deploy/compose/local_nginx.py"
_spec = importlib.util.spec_from_file_location("local_nginx", _file)
assert _spec is not None
assert _spec.loader is not None
local_nginx = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(local_nginx)

PATIENCE = 300.0  # seconds for one answer, or for a replica to begin or to end
SHUTDOWN = 60  # seconds that a replica may take to end what it has
REPORT = 30.0  # seconds between lines


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Replica:
    """A server with a port of its own, which it keeps."""

    def __init__(self, folder: Path, number: int, arguments: argparse.Namespace):
        self.port, self.log = free_port(), folder / f"replica-{number}.log"
        sizes = ["--max-model-len", str(arguments.max_model_len), "--max-num-seqs", str(arguments.max_num_seqs)]
        self._command = [sys.executable, "-m", "octavo", "serve", *([arguments.model] if arguments.model else [])]
        self._command += ["--port", str(self.port), "--served-model-name", "model", *sizes]
        self._command += ["--shutdown-timeout", str(SHUTDOWN), "--gpu-memory-utilization", "0.4"]
        self._environment = os.environ | ({"OCTAVO_NUM_THREADS": str(arguments.threads)} if arguments.threads else {})
        self._http = HttpClient(Address.parse(f"127.0.0.1:{self.port}"), {"connection": "close"})
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await self._get("/readyz"))[0] != 200:
                if self.process.poll() is not None:
                    raise SystemExit(f"a replica ended with code {self.process.returncode}:\n{self.log.read_text()}")
                await asyncio.sleep(0.05)

    async def settled(self) -> None:
        """Until no request waits, or half a minute is over."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            status, body = await self._get("/load")
            if status == 200 and json.loads(body)["waiting"] == 0:
                return
            await asyncio.sleep(0.1)

    async def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    async def _get(self, path: str) -> tuple[int, bytes]:
        try:
            async with self._http.request("GET", path) as answer:
                return answer.status, await answer.read()
        except OctavoError:
            return 0, b""


class Load:
    """Requests to nginx, and what became of them."""

    def __init__(self, port: int, output_len: int):
        # The key of a request says which replica keeps what it leaves behind.
        address, keys = Address.parse(f"127.0.0.1:{port}"), [f"Bearer key-{number}" for number in range(16)]
        self._clients = [HttpClient(address, {"connection": "close", "authorization": key}) for key in keys]
        self._output_len, self._number = output_len, 0
        self.failed: Counter[str] = Counter()
        self.seconds: list[float] = []

    async def one(self) -> None:
        self._number += 1
        words = " ".join(random.choices(["river", "stone", "winter", "song", "night", "star"], k=random.randint(4, 60)))
        text, length = f"{self._number} {words}", self._output_len
        streams, path = self._number % 2 == 0, "/v1/completions"
        body = {"model": "model", "prompt": text, "max_tokens": length, "ignore_eos": True, "stream": streams}
        if self._number % 4 == 1:
            path, body = "/v1/responses", {"model": "model", "input": text, "max_output_tokens": length}
        began = time.monotonic()
        problem = await self._send(path, body, streams)
        self.seconds.append(time.monotonic() - began)
        if problem is not None:
            self.failed[problem] += 1
            print(f"failed: request {self._number}: {problem}", flush=True)

    async def _send(self, path: str, body: dict[str, Any], streams: bool) -> str | None:
        """What is wrong with the answer; None of one that is whole."""
        client = random.choice(self._clients)
        try:
            async with asyncio.timeout(PATIENCE), client.request("POST", path, _bytes(body)) as answer:
                text = await answer.read()
                if answer.status != 200:
                    return f"status {answer.status}: {text[:200].decode(errors='replace')}"
            if streams:
                return None if text.endswith(b"data: [DONE]\n\n") else f"a stream that ends in {text[-80:]!r}"
            whole = json.loads(text)
            if path == "/v1/responses":
                return None if whole["usage"]["output_tokens"] else f"a response that is {whole['status']}"
            made = whole["usage"]["completion_tokens"]
            return None if made == self._output_len else f"{made} tokens"
        except Exception as error:  # also of an answer that is cut, or no JSON
            return type(error).__name__ + " " + str(error)[:100]

    async def capacity(self, seconds: float, concurrency: int) -> float:
        """Requests per second with so many at a time."""
        end, before = time.monotonic() + seconds, len(self.seconds)

        async def ask() -> None:
            while time.monotonic() < end:
                await self.one()

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        return (len(self.seconds) - before) / (time.monotonic() - end + seconds)

    async def keep_up(self, rate: float, end: float) -> None:
        """So many requests per second at random times, whether or not those before have been answered."""
        tasks, due, said = set(), time.monotonic(), time.monotonic()
        while (now := time.monotonic()) < end:
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - now))
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if now - said > REPORT:
                said = now
                print(
                    f"{len(self.seconds)} answered, {len(tasks)} on their way, {self.failed.total()} failed", flush=True
                )
        await asyncio.gather(*tasks)


def _bytes(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def restart(replicas: list[Replica], end: float) -> tuple[int, list[int]]:
    """Restarts them in turn until `end`: how often, and the exit codes that were not 0."""
    count, wrong = 0, []
    while time.monotonic() < end:
        replica = replicas[count % len(replicas)]
        if code := await replica.stop():
            wrong.append(code)
        replica.start()
        await replica.ready()
        for each in replicas:
            await each.settled()
        count += 1
    return count, wrong


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    port, processes = free_port(), []
    replicas = [Replica(folder, number, arguments) for number in (1, 2)]
    try:
        for replica in replicas:
            await replica.ready()
        path = local_nginx.configured(folder, port, [replica.port for replica in replicas])
        with (folder / "nginx.log").open("w") as log:
            processes.append(subprocess.Popen(local_nginx.command(folder, path), stderr=log))
        await asyncio.sleep(0.5)
        load = Load(port, arguments.output_len)
        await load.capacity(2, 4)
        capacity = await load.capacity(arguments.capacity_seconds, 2 * arguments.max_num_seqs)
        rate = arguments.load * capacity
        print(f"{capacity:.1f} requests/s is what they can do; sending {rate:.1f} requests/s", flush=True)
        load.seconds.clear()
        end = time.monotonic() + 60 * arguments.minutes
        (restarts, wrong), _ = await asyncio.gather(restart(replicas, end), load.keep_up(rate, end))
        cuts = [round(cut, 3) for cut in quantiles(load.seconds or [0.0, 0.0], n=100)]
        return {
            "schema": "octavo-bench/1",
            "kind": "rolling-restart",
            "octavo": __version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "requests": len(load.seconds),
            "failed": dict(load.failed),
            "restarts": restarts,
            "exit_codes": wrong,
            "capacity": round(capacity, 2),
            "rate": round(rate, 2),
            "e2e_s": {"p50": cuts[49], "p99": cuts[98]},
        }
    finally:
        for process in [*processes, *(replica.process for replica in replicas)]:
            process.terminate()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="the model (the default model)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (5)")
    parser.add_argument("--load", type=float, default=0.7, help="the share of what two replicas can do (0.7)")
    parser.add_argument("--capacity-seconds", type=float, default=20.0, help="how long that is measured (20)")
    parser.add_argument("--output-len", type=int, default=24, help="tokens of an answer (24)")
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--threads", type=int, help="of each replica (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    arguments = parser.parse_args()
    if local_nginx.program() is None:
        parser.error("nginx is not installed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, too
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(arguments, Path(folder)))
    print(json.dumps(result))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result) + "\n")
    failed = sum(result["failed"].values())
    print(f"{result['requests']} requests, {failed} failed, {result['restarts']} restarts")
    return int(bool(failed or result["exit_codes"]))


if __name__ == "__main__":
    raise SystemExit(main())
