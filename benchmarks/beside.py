"""Streams of chats alone, and beside clients that embed: how much later their tokens come, on one server.

    python benchmarks/beside.py [--embedder MODEL or SHAPE] [--chat MODEL] [--clients 32] [--streams 8] [--rounds 3]

The embedder is a model, or a shape of benchmarks/embedding.py with random weights. Each client sends texts, waits for
the vectors and sends the next; clients and streams are processes of their own. Both loads are run in turn, and ratios
are medians over rounds. Ends with code 1 if a bar is missed: no stream's p99 between tokens above --most times that
alone, and no error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from embedding import SHAPES, write
from serving import Report, Server

from octavo.cli.bench.figures import percentile, statistics
from octavo.cli.bench.load import Measured, Target, measure
from octavo.cli.bench.workload import WORDS, random_samples
from octavo.client.api import COMPLETIONS, EMBEDDINGS, ApiClient, ApiError
from octavo.client.framing import ConnectionFailed

Json = dict[str, Any]
EMBEDDER, CHAT = "embedder", "chat"  # the models' names on the server


def main() -> int:
    args = _parser().parse_args()
    if args.embed is not None:
        print(json.dumps(asyncio.run(embed(args.embed, args))))
        return 0
    report = Report()
    ratios, errors = [], 0
    with serving(args) as url:
        asyncio.run(follow(url, args, 0))  # memory is touched for the first time
        for i in range(args.rounds):
            alone = asyncio.run(follow(url, args, 2 * i + 1))
            with embedding(url, args) as clients:
                beside = asyncio.run(follow(url, args, 2 * i + 2))
            # The slowest stream beside, and what is usual for one alone.
            worst, usual = max(beside["p99"]), median(alone["p99"])
            ratios.append(worst / max(usual, 1e-6))  # tokens of tiny models may come all at once
            errors += alone["errors"] + beside["errors"] + sum(clients["failed"].values())
            both = [f"{1000 * one['itl']['p50']:.1f} and {1000 * one['itl']['p99']:.1f}" for one in (alone, beside)]
            print(f"ms between tokens, p50 and p99: alone {both[0]}, beside {both[1]}; slowest stream's p99 ", end="")
            print(f"{1000 * worst:.1f} = {ratios[-1]:.2f}x; {texts_line(clients)}", flush=True)
    report.add(f"{args.streams} streams beside {args.clients} clients that embed: p99", median(ratios), "x", args.most)
    report.add("errors of streams and of clients", errors, "", 0)
    return int(report.missed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", default="minilm-l6", help=f"as `octavo serve` takes it, or {', '.join(SHAPES)}")
    parser.add_argument("--chat", default=None, help="as `octavo serve` takes it; or the default model")
    parser.add_argument("--clients", type=int, default=32, help="that embed")
    parser.add_argument("--streams", type=int, default=8, help="of chats, each again and again")
    parser.add_argument("--answers", type=int, default=3, help="so many of each stream in a round")
    parser.add_argument("--output-len", type=int, default=128, help="the tokens of an answer")
    parser.add_argument("--batch-size", type=int, default=4, help="the texts of a client's request")
    parser.add_argument("--min-len", type=int, default=16, help="the words of the shortest text")
    parser.add_argument("--max-len", type=int, default=256, help="the words of the longest text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=float, default=2.0, help="the bar of the ratio")
    parser.add_argument("--directory", type=Path, default=Path("~/.cache/octavo-bench/encoders").expanduser())
    parser.add_argument("--embed", metavar="URL", default=None, help=argparse.SUPPRESS)
    return parser


@contextlib.contextmanager
def serving(args: argparse.Namespace) -> Iterator[str]:
    """The address of a server of both models."""
    embedder = args.embedder
    if embedder in SHAPES:
        embedder = str(args.directory / embedder)
        if not (args.directory / args.embedder / "model.safetensors").exists():
            write(args.directory / args.embedder, SHAPES[args.embedder])
    models = [
        {"model": embedder, "served_model_name": EMBEDDER, "task": "embed"},
        {**({"model": args.chat} if args.chat else {}), "served_model_name": CHAT},
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "serve.yaml"
        config.write_text(json.dumps({"models": models}))
        server = Server(None, "--config", str(config), "--no-log-requests")
        try:
            server.wait()
            yield server.url
        finally:
            server.stop()


@contextlib.contextmanager
def embedding(url: str, args: argparse.Namespace) -> Iterator[Json]:
    """Clients that embed meanwhile, in a process of their own; what they did is there when the block is left."""
    process = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--embed", url], stdout=subprocess.PIPE)
    done: Json = {}
    try:
        time.sleep(1.0)  # until all of them wait
        yield done
        process.send_signal(signal.SIGINT)
        done.update(json.loads(process.communicate(timeout=120)[0]))
    finally:
        process.kill()
        process.wait()


async def embed(url: str, args: argparse.Namespace) -> Json:
    """All clients, until SIGINT: the requests that went well, their texts and tokens, and what went wrong."""
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, leave.set)
    client, waits, tokens, failed = ApiClient(url), [], 0, Counter[str]()

    async def one(number: int) -> None:
        nonlocal tokens
        source = random.Random(number)
        while not leave.is_set():
            lengths = [source.randint(args.min_len, args.max_len) for _ in range(args.batch_size)]
            texts = [" ".join(source.choices(WORDS, k=length)) for length in lengths]
            begin = time.perf_counter()
            try:
                body = {"model": EMBEDDER, "input": texts, "encoding_format": "base64"}
                usage = (await client.call("POST", EMBEDDINGS, body))["usage"]
                tokens += usage["prompt_tokens"]
                waits.append(time.perf_counter() - begin)
            except (ApiError, ConnectionFailed) as error:
                failed[str(getattr(error, "status", "connection"))] += 1

    begin = time.perf_counter()
    await asyncio.gather(*map(one, range(args.clients)))
    seconds = time.perf_counter() - begin
    client.close()
    texts = len(waits) * args.batch_size
    return {"texts": texts, "tokens": tokens, "seconds": seconds, "wait": statistics(sorted(waits)), "failed": failed}


async def follow(url: str, args: argparse.Namespace, seed: int) -> Json:
    """Streams, each of several answers: all times between tokens, each stream's p99 of them, and errors."""
    client = ApiClient(url)
    fields = {"model": CHAT, "temperature": 0.0, "ignore_eos": True, "stream_options": {"include_usage": True}}
    target = Target(client, COMPLETIONS, fields, 600.0)
    samples = random_samples(args.streams * args.answers, 64, args.output_len, 0.25, 0, seed, as_ids=False)

    async def one(number: int) -> list[Measured]:
        return [await measure(target, sample) for sample in samples[number :: args.streams]]

    streams = await asyncio.gather(*map(one, range(args.streams)))
    client.close()
    gaps = [sorted(gap for answer in stream for gap in gaps_of(answer)) for stream in streams]
    return {
        "itl": statistics(sorted(gap for stream in gaps for gap in stream)),
        "p99": [percentile(stream, 99) for stream in gaps if stream],
        "errors": sum(answer.error is not None for stream in streams for answer in stream),
    }


def gaps_of(answer: Measured) -> list[float]:
    """The seconds between its tokens."""
    return [after - before for before, after in pairwise(answer.times)]


def texts_line(clients: Json) -> str:
    rate = clients["tokens"] / clients["seconds"]
    wait = "" if clients["wait"] is None else f", p50 of a request {1000 * clients['wait']['p50']:.0f} ms"
    return f"{clients['texts'] / clients['seconds']:.1f} texts/s, {rate:.0f} tok/s{wait}; failed {clients['failed']}"


if __name__ == "__main__":
    sys.exit(main())
