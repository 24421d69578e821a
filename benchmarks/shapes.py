"""Speed on the shapes of other models, with random weights, beside llama.cpp on the same GGUF files.

    python benchmarks/shapes.py [SHAPE…] [--formats BF16 Q4_0 Q4_K_M] [--rival PYTHON] [--rounds 3] [--directory DIR]

PYTHON is an interpreter that has llama-cpp-python. Files are written once, to `DIR`; that of the 8B shape has
4.7 GB. The tokenizer is the default model's, so the vocabulary is smaller than that of the models that are named.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from shape_files import FORMATS, SHAPES, write

WORKLOADS = {"decode1": (1, 16, 64), "decode16": (16, 16, 32), "prefill512": (1, 512, 1)}  # requests, prompt, output
THREADS = len(os.sched_getaffinity(0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="SHAPE", help=" or ".join(SHAPES))
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q4_K_M"], choices=FORMATS)
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter with llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--directory", type=Path, default=Path("~/.cache/octavo-bench/shapes").expanduser())
    parser.add_argument("--run", nargs=2, metavar=("ENGINE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        engine, path = args.run
        print("RESULT " + json.dumps({"octavo": run_octavo, "rival": run_llama}[engine](path)))
        return 0
    for shape in args.shapes:
        for format in args.formats:
            path = args.directory / f"{shape}.{format}.gguf"
            if not path.exists():
                write(path, SHAPES[shape], format)
            compare(path, {"octavo": sys.executable} | ({"rival": args.rival} if args.rival else {}), args.rounds)
    return 0


def compare(path: Path, pythons: dict[str, str], rounds: int) -> None:
    """Runs the engines in turn, each in processes of its own, and prints the medians."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for engine, python in pythons.items():
            command = [python, __file__, "--run", engine, str(path)]
            output = subprocess.run(command, capture_output=True, text=True)
            results = [line[7:] for line in output.stdout.splitlines() if line.startswith("RESULT ")]
            if not results:
                sys.exit(f"{engine} gave no result for {path}:\n{output.stderr[-2000:]}")
            for workload, rate in json.loads(results[-1]).items():
                found.setdefault((workload, engine), []).append(rate)
    for workload in [*WORKLOADS, "GB resident"]:
        rates = {engine: statistics.median(found[workload, engine]) for engine in pythons}
        ratio = f"   {rates['octavo'] / rates['rival']:.2f}x" if "rival" in rates else ""
        print(f"{path.stem} {workload}:", ", ".join(f"{e} {r:.2f}" for e, r in rates.items()) + ratio, flush=True)


def measure(generate: Callable[[list[list[int]], int], None]) -> dict[str, float]:
    """Tokens per second of each workload, the better of two tries; and the process's memory after it."""
    rates = {}
    for workload, (requests, prompt, output) in WORKLOADS.items():
        prompts = np.random.default_rng(7).integers(100, 40000, (requests, prompt)).tolist()
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            generate(prompts, output)
            seconds.append(time.perf_counter() - begin)
        rates[workload] = requests * (prompt if output == 1 else output) / min(seconds)
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(line for line in status if line.startswith("VmRSS"))
    return rates | {"GB resident": int(resident.split()[1]) / 1e6}


def run_octavo(path: str) -> dict[str, float]:
    from octavo import LLM, SamplingParams

    llm = LLM(path, max_model_len=1024, max_num_seqs=16, enable_prefix_caching=False)

    def generate(prompts: list[list[int]], output: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=output, ignore_eos=True)
        llm.generate([{"prompt_token_ids": tokens} for tokens in prompts], params, use_tqdm=False)

    return measure(generate)


def run_llama(path: str) -> dict[str, float]:
    """By the library's own functions, whose batches have several sequences."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.kv_unified = 2048, 512, 512, True
    params.n_threads = params.n_threads_batch = THREADS
    params.n_seq_max = max(requests for requests, _, _ in WORKLOADS.values())
    context = llama_cpp.llama_init_from_model(model, params)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(512, 0, 1)

    def decode(columns: list[list[int]], position: int) -> list[int]:
        """Tokens of each sequence from a position on; the likeliest next ones."""
        batch.n_tokens = 0
        for sequence, tokens in enumerate(columns):
            for i, token in enumerate(tokens):
                at = batch.n_tokens
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position + i, 1
                batch.seq_id[at][0], batch.logits[at] = sequence, i == len(tokens) - 1
                batch.n_tokens += 1
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        rows = np.cumsum([len(tokens) for tokens in columns]) - 1
        logits = [llama_cpp.llama_get_logits_ith(context, int(row)) for row in rows]
        return [int(np.ctypeslib.as_array(row, (vocabulary,)).argmax()) for row in logits]

    def generate(prompts: list[list[int]], output: int) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        tokens = decode(prompts, 0)
        for step in range(output - 1):
            tokens = decode([[token] for token in tokens], len(prompts[0]) + step)

    return measure(generate)


if __name__ == "__main__":
    sys.exit(main())
