"""The plan beside what is measured: memory with a full KV cache, and tokens per second, of models of several kinds.

    python benchmarks/plan.py [MODEL…] [--without-speed] [--scale 1.0] [--rounds 3] [--directory DIR]
        [--output-json FILE]

Each model is planned from the headers of its files, then loaded in a process of its own, whose cache is filled by as
many requests as there is room for; what it holds then is compared with the plan's total. Then it decodes alone and with
others, and reads prompts. It ends with 1 where memory is off by more than 5 % or a rate by more than 30 %. Rates mean
something on a machine that does nothing else. Figures are medians of the rounds, each with a plan of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from shape_files import SHAPES, Shape, write

MEMORY_BAR, SPEED_BAR = 0.05, 0.30
COLUMNS = "{:<28}{:<14}{:>12}{:>12}{:>9}"
FEW = {"max_num_seqs": 16, "max_model_len": 1024}


@dataclass(frozen=True)
class Case:
    """A model: a shape that is written as GGUF, or a reference; and the options that it is loaded with."""

    shape: Shape | None = None
    format: str = "BF16"
    reference: str | None = None
    options: dict[str, Any] = field(default_factory=lambda: dict(FEW))


DENSE = Shape("llama", 1024, 16, 2816, 16, 8, 64, is_tied=True)
CASES = {
    "dense, bfloat16": Case(DENSE),
    "dense, GGUF Q4_K_M": Case(DENSE, "Q4_K_M"),
    "dense, int8 at load": Case(DENSE, options={**FEW, "quantization": "int8"}),
    "experts": Case(Shape("olmoe", 1024, 8, 512, 16, 16, 64, more={"expert_count": 16, "expert_used_count": 4})),
    "recurrent and attention": Case(replace(SHAPES["qwen3.5-0.8b"], layers=12)),
    "sliding windows": Case(replace(SHAPES["gemma3-1b"], layers=12)),
    "embedder": Case(reference="bge-base", options={"max_num_seqs": 16}),
    "whisper": Case(reference="tiny.en", options={"max_num_seqs": 16}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", default=list(CASES), metavar="MODEL", help=f"{', '.join(CASES)}; or any reference"
    )
    parser.add_argument("--without-speed", action="store_true", help="compare memory alone")
    parser.add_argument("--scale", type=float, default=1.0, help="of the shapes' layers, for a quick try")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--directory", type=Path, default=Path("~/.cache/octavo-bench/plan").expanduser())
    parser.add_argument("--output-json", type=Path, metavar="FILE")
    parser.add_argument("--run", metavar="JSON", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print("RESULT " + json.dumps(measure(**json.loads(args.run))))
        return 0
    print(COLUMNS.format("model", "", "planned", "measured", "off"))
    found = [
        row
        for name in args.models
        for row in compare(name, CASES.get(name, Case(reference=name, options={"max_num_seqs": 16})), args)
    ]
    if args.output_json:
        args.output_json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = [row for row in found if abs(row["off"]) > row["bar"]]
    print(f"{len(found) - len(missed)} of {len(found)} within {MEMORY_BAR:.0%} of memory and {SPEED_BAR:.0%} of speed")
    return 1 if missed else 0


def compare(name: str, case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of what is planned and measured, each of which is printed."""
    model = model_of(name, case, args)
    plans, measured = [], []
    for _ in range(args.rounds):  # limits are measured anew in each: other programs' share of the machine changes
        plans.append(planned(name, model, case))
        speed = None if args.without_speed else plans[-1]["speed"]
        wanted = {"model": model, "options": case.options, "speed": speed, "kv_tokens": plans[-1]["kv_tokens"]}
        measured.append(run(wanted))
    rows = [("memory, MB", "memory", [plan["total"] / 1e6 for plan in plans], MEMORY_BAR)]
    if not args.without_speed:
        names = {"decode_alone": "one, tok/s", "decode_together": "many, tok/s", "prefill": "prompts, tok/s"}
        wanted_keys = [(label, key) for key, label in names.items() if key in measured[0]]
        rows += [(label, key, [plan["speed"][key] for plan in plans], SPEED_BAR) for label, key in wanted_keys]
    found = []
    for label, key, expected, bar in rows:
        figures = [one[key] for one in measured]
        off = statistics.median(one / other - 1 for one, other in zip(expected, figures, strict=True))
        plan, figure = statistics.median(expected), statistics.median(figures)
        more = f"  (peak {measured[0]['peak']:,.0f})" if key == "memory" else ""
        print(COLUMNS.format(name, label, f"{plan:,.0f}", f"{figure:,.0f}", f"{off:+.1%}") + more, flush=True)
        found.append({"model": name, "what": key, "planned": plan, "measured": figure, "off": off, "bar": bar})
    return found


def planned(name: str, model: str, case: Case) -> dict[str, Any]:
    """What `octavo plan` says."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in case.options.items()]
    command = [sys.executable, "-m", "octavo", "plan", model, "--json", "--measure", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        sys.exit(f"{name}: {done.stderr}")
    return dict(json.loads(done.stdout)["asked"])


def model_of(name: str, case: Case, args: argparse.Namespace) -> str:
    """Where the model is; its file is written if it is not there."""
    if case.shape is None:
        if case.reference == "bge-base":
            from embedding import SHAPES as ENCODERS
            from embedding import write as write_encoder

            folder = args.directory / "bge-base"
            if not (folder / "model.safetensors").exists():
                write_encoder(folder, ENCODERS["bge-base"])
            return str(folder)
        return case.reference or ""
    shape = replace(case.shape, layers=max(4, round(case.shape.layers * args.scale) // 4 * 4))
    file = args.directory / f"{shape.architecture}-{shape.hidden}-{shape.layers}-{case.format}.gguf"
    if not file.exists():
        write(file, shape, case.format)
    return str(file)


def run(wanted: dict[str, Any]) -> dict[str, float]:
    """What a process of its own measures."""
    command = [sys.executable, __file__, "--run", json.dumps(wanted)]
    output = subprocess.run(command, capture_output=True, text=True)
    results = [line[7:] for line in output.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        sys.exit(f"{wanted['model']} gave no result:\n{output.stderr[-3000:]}")
    return json.loads(results[-1])


def measure(model: str, options: dict[str, Any], speed: dict[str, Any] | None, kv_tokens: int) -> dict[str, float]:
    """Loads the model, fills its cache, and takes its time."""
    from octavo import LLM

    llm = LLM(model, **options)
    if llm.model.pooler is not None:
        return measure_embedder(llm, speed)
    if llm.model.encoder is not None:
        return measure_whisper(llm, speed)
    length, number = llm.model.max_model_len, options["max_num_seqs"]
    for _ in range(2):  # so many tokens that the first are not done before the last have begun
        generate(llm, number, length - 64, 60)
    found = memory()
    if speed is not None:
        context = speed["context"]
        found["decode_alone"] = rate_of_decoding(llm, 1, context)
        found["decode_together"] = rate_of_decoding(llm, speed["together"], context)
        found["prefill"] = speed["prompt"] / generate(llm, 1, speed["prompt"], 1)
    return found


def generate(llm: Any, number: int, prompt: int, output: int) -> float:
    """The seconds that so many requests take, each with a prompt of its own."""
    from octavo import SamplingParams

    rng = np.random.default_rng()  # no two prompts begin alike
    prompts = [{"prompt_token_ids": rng.integers(5, 1000, prompt).tolist()} for _ in range(number)]
    begin = time.perf_counter()
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=output, ignore_eos=True), use_tqdm=False)
    return time.perf_counter() - begin


def rate_of_decoding(llm: Any, number: int, context: int) -> float:
    """Tokens per second of steps that only decode, around a context of so many tokens."""
    few, many = 4, min(68, context)
    prompt = max(1, context - many // 2)
    short = min(generate(llm, number, prompt, few) for _ in range(2))
    long = min(generate(llm, number, prompt, many) for _ in range(2))
    return number * (many - few) / max(1e-9, long - short)


def measure_embedder(llm: Any, speed: dict[str, Any] | None) -> dict[str, float]:
    """Texts as long as the model allows, as many at once as may run."""
    rng = np.random.default_rng(7)
    length = llm.model.max_model_len

    def embed(number: int, tokens: int) -> float:
        prompts = [{"prompt_token_ids": rng.integers(5, 1000, tokens).tolist()} for _ in range(number)]
        begin = time.perf_counter()
        llm.embed(prompts, use_tqdm=False)
        return time.perf_counter() - begin

    embed(16, length)
    found = memory()
    if speed is not None:
        found["prefill"] = speed["prompt"] / min(embed(1, speed["prompt"]) for _ in range(3))
    return found


def measure_whisper(llm: Any, speed: dict[str, Any] | None) -> dict[str, float]:
    """As many windows of noise at once as may be read, with texts as long as they may be."""
    from octavo import SamplingParams

    rng = np.random.default_rng(7)
    noise = (0.1 * rng.standard_normal(16000 * 30)).astype(np.float32)
    prompt = {"prompt": "<|startoftranscript|>", "multi_modal_data": {"audio": (noise, 16000)}}

    def listen(number: int, output: int) -> float:
        begin = time.perf_counter()
        params = SamplingParams(temperature=0, max_tokens=output, ignore_eos=True)
        llm.generate([prompt] * number, params, use_tqdm=False)
        return time.perf_counter() - begin

    listen(llm.model.config.max_num_seqs, llm.model.max_model_len - 8)
    found = memory()
    if speed is not None:
        middle = 2 * speed["context"]
        for key, number in (("decode_alone", 1), ("decode_together", speed["together"])):
            short, long = (min(listen(number, count) for _ in range(2)) for count in (8, min(middle, 408)))
            found[key] = number * (min(middle, 408) - 8) / max(1e-9, long - short)
    return found


def memory() -> dict[str, float]:
    """What this process holds now, and the most that it has, in MB of 1000².

    The most has mapped pages of the files of weights, which the system takes back when it needs them.
    """
    text = Path("/proc/self/status").read_text()
    sizes = {name: re.search(rf"{name}:\s+(\d+)", text) for name in ("VmRSS", "VmHWM")}
    found = {name: int(match[1]) * 1024 / 1e6 for name, match in sizes.items() if match is not None}
    return {"memory": found["VmRSS"], "peak": found["VmHWM"]}


if __name__ == "__main__":
    sys.exit(main())
