"""What the page costs: its bytes, the time to its first paint, and what the engine room takes of the throughput.

    python benchmarks/page.py [MODEL] [--rounds 7] [--requests 16] [--tokens 256] [--without-browser]

A server of MODEL (the default one) is started on a free port. The first paint is that of Chromium, from localhost, in a
new profile for each round; playwright drives it (`pip install '.[ui]'`). The throughput is that of so many requests at
once, answered whole, with and without somebody who reads /engine/events ten times a second, in turn; the reader takes
bytes and draws nothing, so that a browser's work is not counted. Figures are medians, with their bars.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from deployment import Server

import octavo

FOLDER = Path(octavo.__file__).parent / "ui"
PAINT, BUNDLE, LOSS = 0.3, 200_000, 0.02  # bars: seconds, bytes, share of the throughput
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome")


def ask(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def first_paints(url: str, rounds: int) -> list[float]:
    """Seconds from the navigation to the first pixel that is not the background."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)))
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for _ in range(rounds + 1):
            page = browser.new_context().new_page()
            page.goto(url)
            page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
            found.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
            page.context.close()
        browser.close()
    return found[1:]  # the browser itself was cold before


def throughput(url: str, requests: int, tokens: int) -> float:
    """Tokens per second of requests that are answered together."""
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    began = time.perf_counter()
    with ThreadPoolExecutor(requests) as pool:
        answers = list(pool.map(lambda _: ask(f"{url}/v1/completions", body), range(requests)))
    seconds = time.perf_counter() - began
    return sum(answer["usage"]["completion_tokens"] for answer in answers) / seconds


@contextmanager
def watching(url: str, interval: float = 0.1):
    """Somebody reads the events meanwhile; gives the list of their sizes, which grows."""
    sizes: list[int] = []
    stream = urllib.request.urlopen(f"{url}/engine/events?interval={interval}", timeout=600)

    def read() -> None:
        try:
            while line := stream.readline():
                if line.startswith(b"data:"):
                    sizes.append(len(line))
        except (OSError, ValueError, AttributeError):  # it was closed below
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield sizes
    finally:
        stream.fp.raw._sock.shutdown(2)
        reader.join()
        stream.close()


def compare(url: str, options: argparse.Namespace) -> None:
    alone, watched, sizes = [], [], []
    throughput(url, options.requests, options.tokens)
    for number in range(options.rounds):
        for is_watched in (False, True) if number % 2 else (True, False):
            if not is_watched:
                alone.append(throughput(url, options.requests, options.tokens))
                continue
            with watching(url) as seen:
                watched.append(throughput(url, options.requests, options.tokens))
            sizes += seen
    loss = median(1 - with_it / without for with_it, without in zip(watched, alone, strict=True))  # pairs in turn
    print(f"{options.requests} requests alone: {median(alone):.1f} tok/s ({min(alone):.1f} to {max(alone):.1f})")
    events = f"{len(sizes)} events of {median(sizes):.0f} bytes"
    print(f"watched: {median(watched):.1f} tok/s ({min(watched):.1f} to {max(watched):.1f}), {events}")
    print(f"the engine room takes {loss:.1%} ≤ {LOSS:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--without-browser", action="store_true")
    options = parser.parse_args()
    sizes = {path.name: path.stat().st_size for path in sorted(FOLDER.iterdir())}
    print(f"bundle: {sum(sizes.values())} bytes in {len(sizes)} files ≤ {BUNDLE}")
    with Server(["octavo"], options.model, "--max-num-seqs", str(options.requests)) as server:
        if not options.without_browser:
            paints = first_paints(f"{server.url}/", options.rounds)
            print(f"first paint: {median(paints):.3f} s ({min(paints):.3f} to {max(paints):.3f}) ≤ {PAINT} s")
        compare(server.url, options)


if __name__ == "__main__":
    main()
