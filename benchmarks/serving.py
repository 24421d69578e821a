"""A server under load, on this machine: throughput, latency, idle connections, overload, and how fast it starts.

    python benchmarks/serving.py [WORKLOAD ...] [--model MODEL] [--rounds 5] [--rival-url URL]

Workloads are throughput (beside the engine without a server, and beside another server if there is one at
--rival-url), latency, idle, overload and start; all of them by default. Where things are compared they are run in turn,
and ratios are medians over rounds: neighbours of a virtual machine make single figures worthless. Ends with code 1 if
a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

Json = dict[str, Any]
STREAMS, INPUT_LEN, OUTPUT_LEN = 32, 128, 128
SIZES = ["--input-len", str(INPUT_LEN), "--output-len", str(OUTPUT_LEN)]
OVERLOAD_SECONDS = 60
OCTAVO = [sys.executable, "-m", "octavo"]


class Server:
    """A process of `octavo serve`, ready."""

    def __init__(self, model: str | None, *flags: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [*OCTAVO, "serve", *([model] if model else []), "--port", self.url.rpartition(":")[2], *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=10):
                return
            if self.process.poll() is not None:
                sys.exit(f"octavo serve ended with code {self.process.returncode}")
            time.sleep(0.01)

    def chat(self) -> None:
        """A request and its whole answer."""
        body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
        asked = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode())
        asked.add_header("content-type", "application/json")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            json.load(answer)

    def rss_mb(self) -> float:
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def serving(model: str | None, *flags: str) -> Iterator[Server]:
    server = Server(model, "--max-num-seqs", str(2 * STREAMS), "--max-model-len", "2048", "--no-log-requests", *flags)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def bench(*arguments: str) -> Json:
    """The results of `octavo bench`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        subprocess.run([*OCTAVO, "bench", *arguments, "--output-json", str(file)], check=True, capture_output=True)
        results: Json = json.loads(file.read_text())["results"]
    return results


def load(url: str, num_prompts: int, seed: int, *flags: str) -> Json:
    """The results of a load; every `seed` has prompts that no prefix cache has seen."""
    return bench("serve", "--url", url, "--num-prompts", str(num_prompts), "--seed", str(seed), *SIZES, *flags)


def peak_of(url: str, seed: int) -> Json:
    return load(url, 2 * STREAMS, seed, "--max-concurrency", str(STREAMS))


class Report:
    """Figures beside their bars."""

    def __init__(self) -> None:
        self.missed = False

    def add(self, what: str, value: float, unit: str, bar: float, at_most: bool = True) -> None:
        met = value <= bar if at_most else value >= bar
        self.missed |= not met
        sign = "≤" if at_most else "≥"
        print(f"{what:<58}{value:>10.4g} {unit:<6} {sign} {bar:g}{'' if met else '   MISSED'}", flush=True)


def throughput(args: argparse.Namespace, report: Report) -> None:
    model = [args.model] if args.model else []
    offline = ["throughput", *model, "--num-prompts", str(2 * STREAMS), "--max-num-seqs", str(STREAMS), *SIZES]
    rates: dict[str, list[float]] = {"octavo": [], "offline": [], "rival": []}
    with serving(args.model) as server:
        server.chat()
        for i in range(args.rounds):
            rates["offline"].append(bench(*offline)["output_tokens_per_second"])
            rates["octavo"].append(peak_of(server.url, i)["output_tokens_per_second"])
            if args.rival_url:
                rates["rival"].append(peak_of(args.rival_url, i)["output_tokens_per_second"])
            print("tok/s: " + "  ".join(f"{name} {found[-1]:.0f}" for name, found in rates.items() if found))
    for name, bar in (("offline", 0.9), ("rival", 1.2)):
        if rates[name]:
            # Whatever slows the machine for a round slows both.
            ratio = median(a / b for a, b in zip(rates["octavo"], rates[name], strict=True))
            report.add(f"{STREAMS} streams: output tok/s beside {name}", ratio, "x", bar, at_most=False)


def latency(args: argparse.Namespace, report: Report) -> None:
    found = []
    with serving(args.model) as server:
        for i in range(args.rounds):
            peak = peak_of(server.url, 2 * i)["requests_per_second"]
            found.append(load(server.url, 100, 2 * i + 1, "--request-rate", f"{0.7 * peak:.3f}"))
    for name, percentile, bar in (("ttft_s", "p50", 0.25), ("ttft_s", "p99", 1.0), ("itl_s", "p99", 0.06)):
        value = median(results[name][percentile] for results in found)
        report.add(f"at 70 % of peak: {name} {percentile}", value, "s", bar)


def idle(args: argparse.Namespace, report: Report) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    memory, ratios = [], []
    with serving(args.model) as server:
        host, port = server.url.rpartition("//")[2].split(":")
        peak_of(server.url, 0)  # touches the memory that a load needs anyway
        for i in range(args.rounds):
            alone = load(server.url, 60, 3 * i + 1, "--max-concurrency", "1", "--output-len", "8")["ttft_s"]["p50"]
            before = server.rss_mb()
            connections = [socket.create_connection((host, int(port))) for _ in range(1000)]
            time.sleep(0.5)
            memory.append(server.rss_mb() - before)
            beside = load(server.url, 60, 3 * i + 2, "--max-concurrency", "1", "--output-len", "8")["ttft_s"]["p50"]
            ratios.append(beside / alone)
            for connection in connections:
                connection.close()
            time.sleep(0.5)
    report.add("1000 idle connections: memory", max(memory), "MB", 50)
    report.add("1000 idle connections: time to first token", median(ratios), "x", 1.1)


def overload(args: argparse.Namespace, report: Report) -> None:
    with serving(args.model) as server:
        peak = [peak_of(server.url, 0)]
        rate = 10 * peak[0]["requests_per_second"]
        under = load(server.url, int(OVERLOAD_SECONDS * rate), 1, "--request-rate", f"{rate:.3f}")
        peak.append(peak_of(server.url, 2))
    expected = median(results["output_tokens_per_second"] for results in peak)
    others = {reason: count for reason, count in under["failed"].items() if reason not in ("429", "503")}
    print(f"{under['completed']} answered, refused or failed: {under['failed']}")
    share = under["output_tokens_per_second"] / expected
    report.add("10x overload for a minute: output tok/s beside peak", share, "x", 0.9, at_most=False)
    report.add("10x overload for a minute: refusals p99", under["refusal_s"]["p99"], "s", 0.05)
    report.add("10x overload for a minute: answers but 200, 429 and 503", sum(others.values()), "", 0)


def start(args: argparse.Namespace, report: Report) -> None:
    seconds = []
    for _ in range(args.rounds):
        begin = time.perf_counter()
        server = Server(args.model)
        try:
            server.wait()
            server.chat()
            seconds.append(time.perf_counter() - begin)
        finally:
            server.stop()
    report.add("from the command to the first answer of a chat", median(seconds), "s", 1.5)


WORKLOADS = {"start": start, "throughput": throughput, "latency": latency, "idle": idle, "overload": overload}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--model", default=None, help="as `octavo serve` takes it; or the default model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rival-url", default=None, help="another server of the same model, for throughput")
    args = parser.parse_args()
    if unknown := set(args.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    report = Report()
    for name in args.workloads or WORKLOADS:
        WORKLOADS[name](args, report)
    return int(report.missed)


if __name__ == "__main__":
    sys.exit(main())
