"""What a deployment decides: how a replica starts from each place that a model can be in, and what REST, WebSockets and
an engine inside the application cost beside each other.

    python benchmarks/deployment.py start [--model FOLDER] [--whisper FOLDER] [--octavo COMMAND] [--rounds 5]
    python benchmarks/deployment.py transports [--whisper FOLDER] [--audio FILE.wav] [--rounds 20]
    python benchmarks/deployment.py places [--rounds 20]

`start` measures from the command to /readyz and to the first token of a streamed chat, in seconds, and the memory of
the server then: with everything in the page cache; after that was dropped (which needs root, and touches the whole
machine); and from an S3 on this machine into an empty cache (which needs the packages s3fs and moto[server]).
`--octavo` is how the command is called, for example inside of an image.

`transports` compares a streamed answer over REST with one over WS /v1/realtime, and speech that is sent whole over REST
with speech that arrives as it is spoken. `places` compares an engine in the application's own process with a server
beside it. Workloads that are compared run in turn; figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import wave
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Json = dict[str, Any]
CHAT: Json = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 16, "temperature": 0}
RATE = 16_000  # samples per second of a session of speech
PIECE = 0.1  # seconds of speech in each message
QUIET = 2.0  # seconds without an event, after which all of the text is there
PUT = "import s3fs, sys; s = s3fs.S3FileSystem(); s.mkdir('models'); s.put(sys.argv[1], 'models/m', recursive=True)"


class Server:
    """A process of `octavo serve` on a free port."""

    def __init__(self, octavo: list[str], model: str | None, *flags: str, environment: dict[str, str] | None = None):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [*octavo, "serve", *([model] if model else []), "--port", str(port), "--no-log-requests", *flags]
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
        )

    def __enter__(self) -> Server:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=10):
                self.ready = time.perf_counter() - self.began
                return self
            if self.process.poll() is not None:
                sys.exit(f"octavo serve ended with code {self.process.returncode}")
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def post(self, path: str, body: bytes, kind: str = "application/json") -> Any:
        request = urllib.request.Request(f"{self.url}{path}", body, {"content-type": kind})
        return urllib.request.urlopen(request, timeout=120)

    def first_token(self) -> float:
        """When the first text of a streamed chat is there, by `time.perf_counter()`."""
        with self.post("/v1/chat/completions", json.dumps({**CHAT, "stream": True}).encode()) as answer:
            for line in answer:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    return time.perf_counter()
        raise AssertionError("there was no text")

    def memory(self) -> float:
        """MB of the process that serves, which may be a child of the command."""
        tree = [self.process.pid]
        for process in tree:
            for thread in Path(f"/proc/{process}/task").iterdir():
                tree += map(int, (thread / "children").read_text().split())
        sizes = [Path(f"/proc/{process}/status").read_text().split("VmRSS:") for process in tree]
        return max(int(parts[1].split()[0]) / 1024 for parts in sizes if len(parts) > 1)


class Start(NamedTuple):
    ready: float
    first_token: float
    memory: float


def start(args: argparse.Namespace) -> None:
    octavo = shlex.split(args.octavo)
    models = [("text", args.model, [])]
    if args.whisper:
        models.append(("speech", args.whisper, ["--task", "transcription"]))
    for kind, model, flags in models:
        places: dict[str, Callable[[], Start]] = {"page cache": lambda m=model, f=flags: started(octavo, m, f)}
        if os.access("/proc/sys/vm/drop_caches", os.W_OK):
            places["disk"] = lambda m=model, f=flags: (drop_caches(), started(octavo, m, f))[1]
        with contextlib.ExitStack() as stack:
            if model and Path(model).is_dir() and find_spec("moto") and find_spec("s3fs"):
                bucket = stack.enter_context(s3(Path(model)))
                places["S3, empty cache"] = lambda b=bucket, f=flags: fetched(octavo, b, f)
            figures: dict[str, list[Start]] = {place: [] for place in places}
            for _ in range(args.rounds):
                for place, measure in places.items():
                    figures[place].append(measure())
        for place, all_of in figures.items():
            ready, first, memory = (median(values) for values in zip(*all_of, strict=True))
            text = f"first token {first:.2f} s, " if kind == "text" else ""
            print(f"{kind} from {place}: ready {ready:.2f} s, {text}memory {memory:.0f} MB", flush=True)


def started(octavo: list[str], model: str | None, flags: list[str], environment: dict[str, str] | None = None) -> Start:
    with Server(octavo, model, *flags, environment=environment) as server:
        first = server.ready if flags else server.first_token() - server.began
        return Start(server.ready, first, server.memory())


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def fetched(octavo: list[str], bucket: tuple[str, dict[str, str]], flags: list[str]) -> Start:
    with tempfile.TemporaryDirectory() as cache:
        return started(octavo, bucket[0], flags, {**bucket[1], "OCTAVO_CACHE": cache})


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A server of S3 with the files of a folder: the model's reference, and the environment for it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        subprocess.run([sys.executable, "-c", PUT, f"{folder}/"], check=True, env={**os.environ, **environment})
        yield "s3://models/m", environment
    finally:
        process.kill()
        process.wait()


def transports(args: argparse.Namespace) -> None:
    with Server(shlex.split(args.octavo), args.model) as server:
        rest, socket_ = [], []
        server.first_token()
        for _ in range(args.rounds):
            began = time.perf_counter()
            rest.append(server.first_token() - began)
            socket_.append(asyncio.run(written(server.url)))
        print(f"text, request to first token: REST {ms(rest)}, WebSocket {ms(socket_)} (a new connection for each)")
    if not (args.whisper and args.audio):
        return
    with Server(shlex.split(args.octavo), args.whisper, "--task", "transcription") as server:
        sound = args.audio.read_bytes()
        name = json.load(urllib.request.urlopen(f"{server.url}/v1/models"))["data"][0]["id"]
        whole, live = [], []
        for _ in range(max(1, args.rounds // 10)):
            began = time.perf_counter()
            form = (
                f'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n{name}\r\n'
                '--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            )
            body = form.encode() + sound + b"\r\n--x--\r\n"
            json.load(server.post("/v1/audio/transcriptions", body, "multipart/form-data; boundary=x"))
            whole.append(time.perf_counter() - began)
            live.append(asyncio.run(spoken(server.url, name, args.audio)))
        with wave.open(str(args.audio)) as file:
            length = file.getnframes() / file.getframerate()
        print(f"{length:.1f} s of speech, from its end to the text: REST {ms(whole)}, ", end="")
        print(f"WebSocket, as it is spoken, {ms(live)}")


async def written(url: str) -> float:
    """Seconds from connecting to the first text of an answer."""
    from websockets.asyncio.client import connect

    began = time.perf_counter()
    async with connect(f"ws{url[4:]}/v1/realtime") as session:
        content = [{"type": "input_text", "text": CHAT["messages"][0]["content"]}]
        item = {"type": "message", "role": "user", "content": content}
        await session.send(json.dumps({"type": "conversation.item.create", "item": item}))
        answer = {"max_output_tokens": CHAT["max_tokens"], "temperature": 0}
        await session.send(json.dumps({"type": "response.create", "response": answer}))
        async for message in session:
            if json.loads(message)["type"] == "response.output_text.delta":
                return time.perf_counter() - began
    raise AssertionError("there was no text")


async def spoken(url: str, model: str, audio: Path) -> float:
    """Seconds from the last of the speech, sent at the speed of speaking, to the end of its text."""
    from websockets.asyncio.client import connect

    from octavo.speech.decode import read_audio

    samples = (read_audio(audio) * 32767).clip(-32768, 32767).astype("<i2").tobytes()
    settings = {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {"model": model}}
    session_fields = {"type": "transcription", "audio": {"input": settings}}
    size = int(RATE * PIECE) * 2
    last = 0.0
    async with connect(f"ws{url[4:]}/v1/realtime?intent=transcription", max_size=None) as session:
        await session.send(json.dumps({"type": "session.update", "session": session_fields}))
        began = time.perf_counter()
        for number, place in enumerate(range(0, len(samples), size)):
            data = base64.b64encode(samples[place : place + size]).decode()
            await session.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
            await asyncio.sleep(max(0.0, began + (number + 1) * PIECE - time.perf_counter()))
        ended = time.perf_counter()
        await session.send(json.dumps({"type": "input_audio_buffer.commit"}))
        with contextlib.suppress(TimeoutError):
            while True:
                event = json.loads(await asyncio.wait_for(session.recv(), QUIET))
                if event["type"].endswith("input_audio_transcription.completed"):
                    last = time.perf_counter()
    return max(0.0, last - ended)


def places(args: argparse.Namespace) -> None:
    from octavo import LLM, SamplingParams

    llm = LLM(args.model) if args.model else LLM()
    params = SamplingParams(temperature=0, max_tokens=1)
    inside, beside = [], []
    with Server(shlex.split(args.octavo), args.model) as server:
        for _ in range(args.rounds):
            began = time.perf_counter()
            llm.chat(CHAT["messages"], params, use_tqdm=False)
            inside.append(time.perf_counter() - began)
            began = time.perf_counter()
            beside.append(server.first_token() - began)
        print(f"request to first token: in the application {ms(inside)}, a server beside it {ms(beside)}")
        print(f"memory of the server {server.memory():.0f} MB")


def ms(seconds: list[float]) -> str:
    return f"{1000 * median(seconds):.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=["start", "transports", "places"])
    parser.add_argument("--model", default=None, help="a folder, or what `octavo serve` takes; or the default model")
    parser.add_argument("--whisper", default=None, help="a model of speech")
    parser.add_argument("--audio", type=Path, default=None, help="a WAV file of speech")
    parser.add_argument("--octavo", default=f"{sys.executable} -m octavo", help="how the command is called")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    {"start": start, "transports": transports, "places": places}[args.workload](args)


if __name__ == "__main__":
    main()
