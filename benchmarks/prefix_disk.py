"""The prefix cache on disk: how soon a long prompt begins after a restart, and what keeping it costs.

    python benchmarks/prefix_disk.py [MODEL] [--prompt-len 2048] [--rounds 5] [--dir DIR]

Each time to the first token is that of a fresh process, after a short request that has nothing to do with it: computed
without the cache on disk, then from disk, with its files in the page cache and without. Rates of prompts and of answers
are those of fresh processes that keep nothing and that keep everything, in turn. Figures are medians over rounds. Ends
with code 1 if a bar is missed: from disk at most 0.25 of computing it, and the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from serving import Report

Json = dict[str, Any]
MOST = 0.25  # of the time to the first token of a prompt that is computed


def main() -> int:
    args = _parser().parse_args()
    if args.child is not None:
        print(json.dumps(CHILDREN[args.child](args)))
        return 0
    report, times = Report(), {name: [] for name in ("computed", "warm", "cold")}
    wrong = 0
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            seed = ["--seed", str(number)]
            computed = child(args, "first", *seed)
            child(args, "first", *seed, "--folder", folder)
            warm = child(args, "first", *seed, "--folder", folder)
            is_cold = forget(Path(folder))
            cold = child(args, "first", *seed, "--folder", folder)
        wrong += sum(one["tokens"] != computed["tokens"] for one in (warm, cold))
        for name, found in (("computed", computed), ("warm", warm), ("cold", cold)):
            times[name].append(found["seconds"])
        seconds = [f"{one['seconds']:.3f} s" for one in (computed, warm, cold)]
        print(
            f"first token of {args.prompt_len}: computed {seconds[0]}, from disk {seconds[1]} "
            f"({warm['cached']} tokens), without the page cache {seconds[2] if is_cold else 'unknown'}",
            flush=True,
        )
    for name in ("warm", "cold"):
        ratio = median(a / b for a, b in zip(times[name], times["computed"], strict=True))
        report.add(f"first token from disk, {name}, beside computing it", ratio, "x", MOST)
    report.add("answers that differ", wrong, "", 0)
    rates(args)
    return int(report.missed)


def rates(args: argparse.Namespace) -> None:
    ratios: dict[str, list[float]] = {"prompts": [], "answers": []}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            seed = ["--seed", str(number)]
            plain, kept = child(args, "rates", *seed), child(args, "rates", *seed, "--folder", folder)
        for name, found in ratios.items():
            found.append(kept[name] / plain[name])
        print(
            f"tok/s of prompts {plain['prompts']:.0f}, kept {kept['prompts']:.0f}; "
            f"of answers {plain['answers']:.0f}, kept {kept['answers']:.0f}; "
            f"{kept['blocks']} blocks, {kept['dropped']} dropped",
            flush=True,
        )
    for name, found in ratios.items():
        print(f"tok/s of {name} where all is kept, beside nothing: {median(found):.3f}x")


def first(args: argparse.Namespace) -> Json:
    """The time to the first token of a prompt in this process."""
    llm, params = load(args), sampling(4)
    prompts = tokens(args.seed, 2, args.prompt_len)
    llm.generate({"prompt_token_ids": prompts[1][:40]}, sampling(2), use_tqdm=False)
    begin, seconds = time.perf_counter(), 0.0
    for output in llm.stream({"prompt_token_ids": prompts[0]}, params):
        seconds = seconds or time.perf_counter() - begin
        cached = output.num_cached_tokens
    whole = llm.generate({"prompt_token_ids": prompts[0]}, params, use_tqdm=False)[0].outputs[0]
    keep(llm)
    return {"seconds": seconds, "cached": cached, "tokens": list(whole.token_ids)}


def rates_of(args: argparse.Namespace) -> Json:
    """Tokens per second of prompts, and of answers, many at once."""
    llm = load(args)
    prompts = [{"prompt_token_ids": ids} for ids in tokens(args.seed, 2 * args.requests, args.prompt_len // 4)]
    llm.generate(prompts[0], sampling(2), use_tqdm=False)
    begin = time.perf_counter()
    llm.generate(prompts[: args.requests], sampling(1), use_tqdm=False)
    middle = time.perf_counter()
    llm.generate([{"prompt_token_ids": one["prompt_token_ids"][:8]} for one in prompts], sampling(128), use_tqdm=False)
    end = time.perf_counter()
    keep(llm)
    store = llm.model.prefix_store
    return {
        "prompts": sum(len(one["prompt_token_ids"]) for one in prompts[: args.requests]) / (middle - begin),
        "answers": 128 * len(prompts) / (end - middle),
        "blocks": store.stats.written_blocks if store else 0,
        "dropped": store.stats.dropped_blocks if store else 0,
    }


CHILDREN = {"first": first, "rates": rates_of}


def load(args: argparse.Namespace) -> Any:
    from octavo import LLM

    kept = {} if args.folder is None else {"prefix_cache_dir": args.folder}
    return LLM(args.model, max_model_len=args.prompt_len + 64, max_num_seqs=max(8, 2 * args.requests), **kept)


def keep(llm: Any) -> None:
    """Waits until all that was computed is on disk."""
    llm.engine.settle()
    if llm.model.prefix_store is not None:
        llm.model.prefix_store.flush()


def sampling(count: int) -> Any:
    from octavo import SamplingParams

    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)


def tokens(seed: int, number: int, length: int) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(20, 250) for _ in range(length)] for _ in range(number)]


def forget(folder: Path) -> bool:
    """Has the page cache forget files; False if it does not."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in (path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return True


def child(args: argparse.Namespace, what: str, *more: str) -> Json:
    sizes = ["--prompt-len", str(args.prompt_len), "--requests", str(args.requests)]
    command = [sys.executable, __file__, *([args.model] if args.model else []), *sizes, "--child", what, *more]
    found: Json = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="as `octavo serve` takes it; or the default model")
    parser.add_argument("--prompt-len", type=int, default=2048, help="tokens")
    parser.add_argument("--requests", type=int, default=16, help="of which the rates are measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="where the folders of the cache are made; or where temporary files are")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
