"""Whisper on this machine: one recording, many at once, and one that is long.

    python benchmarks/speech.py RECORDING [--model MODEL] [--quantization int8] [--copies 16] [--minutes 30]

Beside RECORDING lies a .txt with what is said in it, for the word error rates. The long recording is RECORDING again
and again, with silences of one to eight seconds between.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from octavo import LLM
from octavo.speech import SAMPLE_RATE
from octavo.speech.decode import read_audio

TRIES = 3


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, the median of TRIES, and what came of it."""
    seconds = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begin)
    return median(seconds), result


def words(text: str) -> list[str]:
    return re.sub(r"[^\w\s']", " ", text.lower()).split()


def word_error_rate(found: str, expected: str) -> float:
    """Insertions, deletions and substitutions, per expected word (Levenshtein 1966)."""
    said = words(expected)
    row = np.arange(len(said) + 1)
    for heard in words(found):
        above, row = row, row + 1
        kept = above[:-1] + (np.array(said) != heard)
        row[1:] = np.minimum(row[1:], kept)
        row = np.minimum.accumulate(row - np.arange(len(row))) + np.arange(len(row))
    return float(row[-1] / len(said))


def long_recording(samples: np.ndarray, minutes: float) -> tuple[np.ndarray, int]:
    """The samples repeated with silences, and how many times."""
    random, parts, total = np.random.default_rng(0), [], 0
    while total < minutes * 60 * SAMPLE_RATE:
        parts += [samples, np.zeros(int(random.uniform(1, 8) * SAMPLE_RATE), np.float32)]
        total += len(parts[-1]) + len(samples)
    return np.concatenate(parts), len(parts) // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="openai/whisper-tiny.en")
    parser.add_argument("--quantization", metavar="NAME")
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=30)
    args = parser.parse_args()
    expected = args.recording.with_suffix(".txt").read_text(encoding="utf-8")
    llm, samples = LLM(args.model, quantization=args.quantization), read_audio(args.recording)
    length = len(samples) / SAMPLE_RATE

    def show(what: str, audio_seconds: float, seconds: float, errors: float) -> None:
        rate = audio_seconds / seconds
        print(
            f"{what:<24}{audio_seconds:>8.1f} s of audio in {seconds:>7.3f} s  {rate:>7.1f}x  word errors {errors:.2%}"
        )

    llm.transcribe(args.recording)
    seconds, result = timed(lambda: llm.transcribe(args.recording))
    show("one", length, seconds, word_error_rate(result.text, expected))
    seconds, results = timed(lambda: llm.transcribe([args.recording] * args.copies))
    worst = max(word_error_rate(result.text, expected) for result in results)
    show(f"{args.copies} at once", args.copies * length, seconds, worst)
    long, count = long_recording(samples, args.minutes)
    seconds, result = timed(lambda: llm.transcribe(long))
    show("long", len(long) / SAMPLE_RATE, seconds, word_error_rate(result.text, " ".join([expected] * count)))


if __name__ == "__main__":
    main()
