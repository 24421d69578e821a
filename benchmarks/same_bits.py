"""Whether a change left every result as it was: tokens and log-probabilities of 200 requests of every kind.

    python benchmarks/same_bits.py record OUT.json --audio RECORDING [--executor native|torch]
    python benchmarks/same_bits.py compare BEFORE.json AFTER.json [--tolerance 0]

Record with the version before and the version after, on one machine, and compare. Results of the native executor must
be the same bits; those of the torch executor in float32 within 1e-5. `compare` ends with code 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from octavo import LLM, SamplingParams
from octavo.speech import SAMPLE_RATE
from octavo.speech.decode import read_audio

TEXT_REQUESTS, SPEECH_REQUESTS = 170, 30
WORDS = ["the", "of", "a", "night", "river", "stone", "winter", "song", "over", "when", "she", "they", "went", "came"]
WORDS += ["under", "light", "and", "no", "more", "than", "it", "was"]


def text_requests() -> Iterator[tuple[str, SamplingParams]]:
    """Prompts of 1 to 400 words, with every parameter that shapes a text."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0, "logprobs": 3},
        {"temperature": 0.8, "top_p": 0.9, "logprobs": 0},
        {"temperature": 1.2, "top_k": 20, "logprobs": 2},
        {"temperature": 1.0, "min_p": 0.05, "logprobs": 1},
        {"temperature": 0.7, "n": 3, "logprobs": 1},
        {"temperature": 0.9, "n": 2, "best_of": 4, "logprobs": 1},
        {"temperature": 0, "n": 3, "best_of": 3, "use_beam_search": True},
        {"temperature": 0, "n": 2, "best_of": 4, "use_beam_search": True, "length_penalty": 0.6},
        {"temperature": 0, "prompt_logprobs": 2, "logprobs": 2},
        {"temperature": 0.6, "presence_penalty": 0.7, "frequency_penalty": 0.4, "logprobs": 1},
        {"temperature": 0, "repetition_penalty": 1.3, "logprobs": 2},
        {"temperature": 0.5, "logit_bias": {28: 4.0, 30: -100.0}, "logprobs": 2},
        {"temperature": 0.9, "allowed_token_ids": list(range(100, 900)), "logprobs": 1},
        {"temperature": 0, "bad_words": ["the", "of a"], "logprobs": 1},
        {"temperature": 1.0, "min_tokens": 4, "stop_token_ids": [28, 30], "logprobs": 1},
        {"temperature": 0.8, "stop": ["e ", "."], "logprobs": 1},
        {"temperature": 1.0, "top_k": 50, "top_p": 0.8, "min_p": 0.01, "logprobs": 5, "prompt_logprobs": 0},
    ]
    for number in range(TEXT_REQUESTS):
        choice = random.Random(number)
        length = choice.choice([1, 3, 9, 20, 33, 64, 150, 400])
        prompt = " ".join(choice.choice(WORDS) for _ in range(length))
        kind = kinds[number % len(kinds)]
        yield prompt, SamplingParams(max_tokens=choice.choice([4, 12, 24]), seed=number, **kind)


def speech_options() -> Iterator[dict[str, Any]]:
    kinds: list[dict[str, Any]] = [
        {},
        {"timestamps": False},
        {"word_timestamps": True},
        {"beam_size": 3},
        {"beam_size": 4, "timestamps": False, "word_timestamps": True},
        {"temperature": 0.6},
        {"sequential": True, "prompt": "Harvard sentences"},
        {"temperature": 1.0, "word_timestamps": True, "logprob_threshold": None},
        {"compression_ratio_threshold": 0.5, "logprob_threshold": 0.0},
        {"no_speech_threshold": None, "sequential": True},
    ]
    for number in range(SPEECH_REQUESTS):
        yield kinds[number % len(kinds)]


def speech_samples(recording: Path) -> list[np.ndarray[Any, Any]]:
    """A recording, parts of it, and what is no speech at all."""
    samples = read_audio(recording)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, 5 * SAMPLE_RATE).astype(np.float32)
    tone = (0.2 * np.sin(np.arange(3 * SAMPLE_RATE) / 6)).astype(np.float32)
    parts = [samples[at * SAMPLE_RATE : (at + 4) * SAMPLE_RATE] for at in (0, 3, 7, 11)]
    twice = np.concatenate([samples, np.zeros(2 * SAMPLE_RATE, np.float32), samples])
    return [samples, *parts, noise, tone, twice, samples + np.resize(noise, len(samples))]


def of_text(llm: LLM) -> list[Any]:
    prompts, params = zip(*text_requests(), strict=True)
    found = []
    for output in llm.generate(list(prompts), list(params), use_tqdm=False):
        assert output.error is None, output.error
        completions = [
            [list(one.token_ids), one.finish_reason, one.cumulative_logprob, _entries(one.logprobs)]
            for one in output.outputs
        ]
        found.append([completions, _entries(output.prompt_logprobs)])
    return found


def of_speech(llm: LLM, recording: Path) -> list[Any]:
    """Alone, and side by side."""
    samples, found = speech_samples(recording), []
    for number, options in enumerate(speech_options()):
        first = samples[number % len(samples)]
        given = [first] if number % 3 else [first, samples[(number + 4) % len(samples)]]
        for result in llm.transcribe(given, **options):
            assert result.error is None, result.error
            segments = [
                [s.tokens, s.start, s.end, s.temperature, s.avg_logprob, s.compression_ratio, s.no_speech_prob]
                + [[w.word, w.start, w.end, w.probability] for w in s.words or ()]
                for s in result.segments
            ]
            found.append([result.text, result.language, segments])
    return found


def _entries(positions: Any) -> list[Any]:
    return [
        sorted([token, entry.rank or 0, entry.logprob] for token, entry in at.items()) if at else None
        for at in positions or ()
    ]


def record(args: argparse.Namespace) -> None:
    dtype = "float32" if args.executor == "torch" else "bfloat16"
    options: dict[str, Any] = {"executor": args.executor, "dtype": dtype, "seed": 0, "max_logprobs": 20}
    text = of_text(LLM(args.model, max_num_seqs=48, max_num_batched_tokens=512, max_model_len=1024, **options))
    speech = of_speech(LLM(args.speech_model, max_num_seqs=16, **options), args.audio)
    Path(args.output).write_text(json.dumps({"text": text, "speech": speech}))
    print(f"{len(text)} texts and {len(speech)} recordings in {args.output}")


def differences(before: Any, after: Any, tolerance: float, where: str) -> Iterator[str]:
    """Where two results differ: numbers that are no integers by more than `tolerance`, all else at all."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, tolerance, f"{where}[{number}]")
    elif isinstance(before, float) and isinstance(after, float):
        if before != after and not math.isclose(before, after, rel_tol=0, abs_tol=tolerance):
            yield f"{where}: {before!r} and {after!r}"
    elif before != after:
        yield f"{where}: {str(before)[:200]} and {str(after)[:200]}"


def compare(args: argparse.Namespace) -> None:
    before, after = (json.loads(Path(path).read_text()) for path in (args.before, args.after))
    for kind in ("text", "speech"):
        found = list(differences(before[kind], after[kind], args.tolerance, kind))
        print(f"{kind}: {len(before[kind])} results, {len(found)} differences", *found[:10], sep="\n  ")
        args.failed = args.failed or bool(found)
    sys.exit(1 if args.failed else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    recorder = commands.add_parser("record")
    recorder.add_argument("output")
    recorder.add_argument("--audio", type=Path, required=True, help="a recording of speech")
    recorder.add_argument("--executor", default="native", choices=["native", "torch"])
    recorder.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    recorder.add_argument("--speech-model", default="openai/whisper-tiny.en")
    recorder.set_defaults(run=record)
    comparer = commands.add_parser("compare")
    comparer.add_argument("before")
    comparer.add_argument("after")
    comparer.add_argument("--tolerance", type=float, default=0.0)
    comparer.set_defaults(run=compare, failed=False)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
