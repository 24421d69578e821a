"""A server under mixed load for a long time, a twentieth of it hostile or cut off: does anything grow or stay behind?

    python benchmarks/soak.py [MODEL] [--minutes 20] [--concurrency 24]

Starts `octavo serve` with a small KV cache, drives it, samples its memory and file descriptors every ten seconds, and
ends with code 1 if an answer was wrong, or a request, block or descriptor was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

HOSTILE_SHARE = 0.05
SAMPLE_SECONDS = 10
SETTLED_MINUTES = 3  # from here on memory must not grow
WORDS = ["the", "of", "a", "night", "river", "stone", "winter", "song", "over", "when", "she", "they", "went", "came"]
SERVE = ["--max-num-seqs", "32", "--max-model-len", "512", "--num-gpu-blocks-override", "300"]


class Target:
    """The server's address, and what its answers were."""

    def __init__(self, port: int):
        self.port = port
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def send(self, path: str, body: bytes, length: int | None = None) -> tuple[Any, Any]:
        """A connection on which a POST has been sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        size = len(body) if length is None else length
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n"
        )
        writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        return reader, writer

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body, chunks joined."""
        reader, writer = await self.send(path, body)
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            rest = re.sub(rb"(?:^|\r\n)[0-9a-f]+\r\n", b"", rest).removesuffix(b"\r\n\r\n")
        return int(head.split()[1]), rest

    def note(self, kind: str, problem: str | None) -> None:
        self.outcomes[kind] += 1
        if problem is not None and len(self.wrong) < 50:
            self.wrong.append(f"{kind}: {problem}")


def text() -> str:
    return " ".join(random.choices(WORDS, k=random.randint(3, 60)))


def chat(**more: Any) -> bytes:
    messages = [{"role": "user", "content": text()}]
    return json.dumps({"messages": messages, "max_tokens": random.randint(2, 12), **more}).encode()


def completion(**more: Any) -> bytes:
    return json.dumps({"prompt": text(), "max_tokens": random.randint(2, 12), **more}).encode()


async def whole(target: Target, path: str, body: bytes, choices: int = 1) -> str | None:
    status, answer = await target.post(path, body)
    if status != 200:
        return f"status {status}: {answer[:200]!r}"
    found = [choice["finish_reason"] for choice in json.loads(answer)["choices"]]
    return None if len(found) == choices and all(found) else f"finish reasons {found}"


async def stream(target: Target, path: str, body: bytes) -> str | None:
    status, answer = await target.post(path, body)
    events = [line[6:] for line in answer.split(b"\n") if line.startswith(b"data: ")]
    if status != 200 or not events or events[-1] != b"[DONE]":
        return f"status {status}, {len(events)} events, the last one {events[-1:]}"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    ends = sum(choice["finish_reason"] is not None for choice in choices)
    return None if ends == 1 else f"{ends} ends"


async def tokens(target: Target) -> str | None:
    status, answer = await target.post("/tokenize", json.dumps({"prompt": text()}).encode())
    return None if status == 200 and json.loads(answer)["count"] > 0 else f"status {status}"


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
Work = Callable[[Target], Coroutine[Any, Any, str | None]]
GOOD: dict[str, Work] = {
    "chat": lambda t: whole(t, CHAT, chat()),
    "chat, streamed": lambda t: stream(t, CHAT, chat(stream=True)),
    "completion": lambda t: whole(t, COMPLETIONS, completion(temperature=0.8, top_p=0.9)),
    "completion, streamed": lambda t: stream(t, COMPLETIONS, completion(stream=True, presence_penalty=0.5)),
    "two samples": lambda t: whole(t, CHAT, chat(n=2, temperature=1.0), 2),
    "log-probabilities": lambda t: whole(t, CHAT, chat(logprobs=True, top_logprobs=3)),
    "two prompts": lambda t: whole(t, COMPLETIONS, completion(prompt=[text(), text()]), 2),
    "tokens": tokens,
}


async def refused(target: Target, body: bytes, expected: int, path: str = CHAT) -> str | None:
    status, answer = await target.post(path, body)
    ok = status == expected and json.loads(answer)["error"]["message"]
    return None if ok else f"status {status}: {answer[:200]!r}"


async def left(target: Target, how: str) -> str | None:
    """A client that goes away while its answer is made, politely or not."""
    reader, writer = await target.send(CHAT, chat(stream=True, max_tokens=200, ignore_eos=True))
    if how == "half-closed":
        writer.write_eof()
        await reader.read()
    elif how == "never read":
        await asyncio.sleep(2)
    else:
        await reader.readuntil(b"data: ")
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    writer.close()
    return None


async def lied(target: Target) -> str | None:
    """Fewer bytes than the header promised."""
    _, writer = await target.send(CHAT, chat(), length=100_000)
    writer.close()
    return None


async def garbage(target: Target) -> str | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(random.randbytes(300) + b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    return None


HOSTILE: dict[str, Work] = {
    "not JSON": lambda t: refused(t, b'{"messages": [', 400),
    "a wrong type": lambda t: refused(t, chat(temperature="hot"), 400),
    "too many samples": lambda t: refused(t, chat(n=10**9), 400),
    "an unknown model": lambda t: refused(t, chat(model="no-such-model"), 404),
    "nested deeply": lambda t: refused(t, b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
    "too long": lambda t: refused(t, completion(prompt="word " * 5000), 400, COMPLETIONS),
    "cut off": lambda t: left(t, "cut off"),
    "reset": lambda t: left(t, "reset"),
    "half-closed": lambda t: left(t, "half-closed"),
    "never read": lambda t: left(t, "never read"),
    "a lying length": lied,
    "garbage": garbage,
}


async def work(target: Target, until: float) -> None:
    """One client after another, until it is time."""
    while time.monotonic() < until:
        kinds = HOSTILE if random.random() < HOSTILE_SHARE else GOOD
        kind = random.choice(list(kinds))
        try:
            problem = await asyncio.wait_for(kinds[kind](target), 60)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        target.note(kind, problem)


def sample(pid: int, port: int) -> dict[str, float]:
    """The server's memory, descriptors and threads, and what its engine holds."""
    import urllib.request

    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    value = {name: float(number) for name, number in re.findall(r"^(\S+?)(?:\{.*\})? ([\d.e+-]+)$", metrics, re.M)}
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "running": value["vllm:num_requests_running"],
        "waiting": value["vllm:num_requests_waiting"],
        "kv_usage": value["vllm:kv_cache_usage_perc"],
    }


async def drive(target: Target, pid: int, minutes: float, concurrency: int) -> list[dict[str, float]]:
    samples = [await asyncio.to_thread(sample, pid, target.port)]  # while nothing runs
    begin = time.monotonic()
    workers = [asyncio.create_task(work(target, begin + 60 * minutes)) for _ in range(concurrency)]
    while any(not worker.done() for worker in workers):
        await asyncio.wait(workers, timeout=SAMPLE_SECONDS, return_when=asyncio.ALL_COMPLETED)
        found = await asyncio.to_thread(sample, pid, target.port) | {"minute": (time.monotonic() - begin) / 60}
        samples.append(found)
        print(f"{sum(target.outcomes.values()):>7} requests  " + "  ".join(f"{k} {v:.4g}" for k, v in found.items()))
    return samples


async def settle(pid: int, port: int) -> dict[str, float]:
    """The last sample, once everything that ran has ended, or ten seconds later."""
    for _ in range(20):
        await asyncio.sleep(0.5)
        last = await asyncio.to_thread(sample, pid, port)
        if not (last["running"] or last["waiting"]):
            break
    return last


def verdict(target: Target, samples: list[dict[str, float]], last: dict[str, float]) -> list[str]:
    """What is wrong, in sentences; prints what was seen."""
    settled = [s["rss_mb"] for s in samples[1:] if s["minute"] >= SETTLED_MINUTES] or [samples[-1]["rss_mb"]]
    print(
        f"\n{sum(target.outcomes.values())} requests, {sum(target.outcomes[kind] for kind in HOSTILE)} of them hostile"
    )
    print(f"memory: {settled[0]:.0f} MB after {SETTLED_MINUTES} minutes, {settled[-1]:.0f} MB at the end")
    print(f"descriptors: {samples[0]['descriptors']:.0f} before, {last['descriptors']:.0f} after")
    problems = list(target.wrong)
    for name in ("running", "waiting", "kv_usage"):
        if last[name]:
            problems.append(f"{name} is {last[name]} with nothing to do")
    if last["descriptors"] > samples[0]["descriptors"]:
        problems.append("file descriptors were left behind")
    if settled[-1] > 1.02 * settled[0]:
        problems.append("memory grew by more than 2 % after it should have settled")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help="as `octavo serve` takes it; or the default model")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--concurrency", type=int, default=24)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "octavo", "serve", *args.model, "--port", str(port), "--disable-log-requests"]
    server = subprocess.Popen([*command, *SERVE], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        target = Target(port)
        asyncio.run(wait_until_ready(target, server))
        samples = asyncio.run(drive(target, server.pid, args.minutes, args.concurrency))
        problems = verdict(target, samples, asyncio.run(settle(server.pid, port)))
    finally:
        server.terminate()
        code = server.wait(60)
    if code != 0:
        problems.append(f"the server ended with code {code}")
    print("\n".join(problems) or "nothing was left behind")
    return 1 if problems else 0


async def wait_until_ready(target: Target, server: subprocess.Popen[bytes]) -> None:
    """Until the server answers, and has seen each kind of good request once."""
    while server.poll() is None:
        with contextlib.suppress(ConnectionError):
            if await whole(target, CHAT, chat()) is None:
                break
        await asyncio.sleep(0.1)
    for kind in GOOD.values():
        await kind(target)


if __name__ == "__main__":
    sys.exit(main())
