"""Speed on the shapes of other models, with random weights, beside llama.cpp on the same GGUF files.

    python benchmarks/shapes.py [SHAPE…] [--formats Q4_0 Q4_K_M] [--rival PYTHON] [--rounds 3] [--directory DIRECTORY]

PYTHON is an interpreter that has llama-cpp-python. Files are written once, to `--directory`; that of the 8B shape has
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
from typing import Any

import numpy as np

SHAPES = {  # hidden, layers, inner, heads, KV heads
    "qwen2.5-0.5b": (896, 24, 4864, 14, 2),
    "llama-8b": (4096, 32, 14336, 32, 8),
}
WORKLOADS = {"decode1": (16, 64), "prefill512": (512, 1)}  # prompt tokens, output tokens
THREADS = len(os.sched_getaffinity(0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="SHAPE", help=" or ".join(SHAPES))
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q4_K_M"], choices=["Q4_0", "Q4_K_M"])
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
                write(path, *SHAPES[shape], format=format)
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


def measure(generate: Callable[[list[int], int], None]) -> dict[str, float]:
    """Tokens per second of each workload, the better of two tries; and the process's memory after it."""
    rates = {}
    for workload, (prompt, output) in WORKLOADS.items():
        tokens = [int(token) for token in np.random.default_rng(7).integers(100, 40000, prompt)]
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            generate(tokens, output)
            seconds.append(time.perf_counter() - begin)
        rates[workload] = (prompt if output == 1 else output) / min(seconds)
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(line for line in status if line.startswith("VmRSS"))
    return rates | {"GB resident": int(resident.split()[1]) / 1e6}


def run_octavo(path: str) -> dict[str, float]:
    from octavo import LLM, SamplingParams

    llm = LLM(path, max_model_len=1024, max_num_seqs=1, enable_prefix_caching=False)

    def generate(tokens: list[int], output: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=output, ignore_eos=True)
        llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)

    return measure(generate)


def run_llama(path: str) -> dict[str, float]:
    from llama_cpp import Llama

    llama = Llama(path, n_ctx=1024, n_batch=512, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)

    def generate(tokens: list[int], output: int) -> None:
        llama.reset()
        llama.eval(tokens)
        for _ in range(output - 1):
            llama.eval([llama.sample(temp=0)])

    return measure(generate)


def write(path: Path, hidden: int, layers: int, inner: int, heads: int, kv_heads: int, format: str) -> None:
    """A Llama of random weights; Q4_K_M has some matrices in Q6_K, as llama.cpp's has."""
    import gguf

    from octavo.weights import resolve
    from octavo.weights.gguf_file import read_gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    for key, value in read_gguf(resolve(None)).metadata.items():
        if key.startswith("tokenizer."):
            add(writer, key, value)
    vocabulary = len(read_gguf(resolve(None)).metadata["tokenizer.ggml.tokens"])
    width = hidden // heads * kv_heads
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(vocabulary)

    made: dict[tuple[int, int, str], np.ndarray] = {}

    def matrix(name: str, rows: int, columns: int, better: bool = False) -> None:
        kind = format if format == "Q4_0" else "Q4_0" if columns % 256 else "Q6_K" if better else "Q4_K"
        if (rows, columns, kind) not in made:
            made[rows, columns, kind] = random_blocks(rows, columns, kind)
        writer.add_tensor(name + ".weight", made[rows, columns, kind], raw_dtype=gguf.GGMLQuantizationType[kind])

    matrix("token_embd", vocabulary, hidden)
    matrix("output", vocabulary, hidden, better=True)
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for i in range(layers):
        at, better = f"blk.{i}.", i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{at}{name}.weight", np.ones(hidden, np.float32))
        matrix(at + "attn_q", hidden, hidden)
        matrix(at + "attn_k", width, hidden)
        matrix(at + "attn_v", width, hidden, better)
        matrix(at + "attn_output", hidden, hidden)
        matrix(at + "ffn_gate", inner, hidden)
        matrix(at + "ffn_up", inner, hidden)
        matrix(at + "ffn_down", hidden, inner, better)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)


def add(writer: Any, key: str, value: Any) -> None:
    import gguf

    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif len(value) and isinstance(value[0], str):
        writer.add_array(key, list(value))
    else:
        numbers = np.asarray(value)
        kind = gguf.GGUFValueType.FLOAT32 if numbers.dtype.kind == "f" else gguf.GGUFValueType.INT32
        writer.add_key_value(key, numbers.tolist(), gguf.GGUFValueType.ARRAY, sub_type=kind)


def random_blocks(rows: int, columns: int, kind: str) -> np.ndarray:
    """uint8 [rows, bytes]: random codes, with scales that give a row of outputs about the size of its inputs."""
    elements, block_bytes, at, size = {
        "Q4_0": (32, 18, 0, 4.6),
        "Q4_K": (256, 144, 0, 32 * 4.6),
        "Q6_K": (256, 210, 208, 74 * 18.5),
    }[kind]
    blocks = np.random.default_rng(rows).integers(0, 256, (rows, columns // elements, block_bytes), np.uint8)
    scale = np.float16(1 / (size * columns**0.5))
    blocks[:, :, at : at + 2] = np.array([scale]).view(np.uint8)
    if kind == "Q4_K":
        blocks[:, :, 2:4] = np.array([scale * np.float16(7.5)]).view(np.uint8)
    return blocks.reshape(rows, -1)


if __name__ == "__main__":
    sys.exit(main())
