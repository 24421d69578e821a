"""`octavo bench latency|throughput [MODEL]`: how fast the engine is, beside the machine's measured limits.

Prompts are random token ids, the same for the same seed; outputs have their full length; the prefix cache is
off unless it is asked for. What `--output-json` writes is described in benchmarks/schema.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.cli.bench import KINDS, add_number
from octavo.cli.bench.figures import Json, rate_line, statistics, statistics_lines
from octavo.cli.inputs import check_writable, checked_sampling
from octavo.cli.options import (
    MODEL_HELP,
    SAMPLING_FLAGS,
    add_engine_flags,
    add_flags,
    engine_options,
    options_of,
    report_notes,
    take_model,
)
from octavo.cli.parser import Parser

if TYPE_CHECKING:
    from octavo.llm import LLM
    from octavo.request import Prompt, RequestOutput
    from octavo.sampling_params import SamplingParams

SAMPLING = [flag for flag in SAMPLING_FLAGS if flag.name in ("temperature", "top_p", "top_k", "min_p")]


def main(argv: Sequence[str]) -> int:
    kind = argv[0]
    args = _parser(kind).parse(argv[1:])
    take_model(args, args.given)
    if args.output_json is not None:
        check_writable("--output-json", args.output_json)
    checked_sampling(args)
    if args.profile:
        check_profile(args)
    report_notes()

    from octavo.cli import profile, speed

    llm = _load(kind, args)
    limits = speed.measure_limits(llm.model.config)
    profiled = profile.start(llm) if args.profile else None
    bench = {"latency": _latency, "throughput": _throughput}[kind]
    workload, results = bench(llm, args, limits, begin=profiled.begin if profiled else lambda: None)
    if profiled:
        results["profile"] = profile.measured(profiled, llm.model.config, limits)
    report(args, speed.describe(kind, llm, limits, workload, results), _table)
    return 0


def report(args: argparse.Namespace, document: Json, table: Callable[[Json], str]) -> None:
    """Prints the document as a table, and writes what --output-json and --profile ask for."""
    print(table(document))
    if profile := document["results"].get("profile"):
        from octavo.cli.profile import table as profile_table

        print("\n" + profile_table(profile))
        if isinstance(args.profile, Path):
            from octavo.cli.bench.profile_picture import write_profile

            write_profile(args.profile, f"{document['model']['name']}, {document['kind']}", profile)
    if args.output_json is not None:
        args.output_json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _parser(kind: str) -> Parser:
    parser = Parser(f"octavo bench {kind}", "[flags] [MODEL]", f"Measures the engine: {KINDS[kind]}.")
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("workload")

    number = partial(add_number, group)
    number(32 if kind == "latency" else 256, "the tokens of each prompt", "--input-len", "--random-input-len")
    number(128, "the tokens of each output", "--output-len", "--random-output-len")
    if kind == "latency":
        number(1, "the requests of a batch", "--batch-size")
        number(10, "measure N batches", "--num-iters")
        number(2, "run N batches before measuring", "--warmup", "--num-iters-warmup")
    else:
        number(64, "the number of requests", "--num-prompts")
        group.add_argument("--dataset-name", choices=["random"], default="random", help="where prompts come from")
    add_report_flags(group)
    add_flags(parser, "sampling (greedy by default)", SAMPLING)
    add_engine_flags(parser)
    return parser


def add_report_flags(group: argparse._ArgumentGroup, *names: str) -> None:
    """What `report` looks at."""
    about = "a file for the results, in JSON"
    group.add_argument("--output-json", *names, type=Path, default=None, metavar="FILE", help=about)
    timed = "print the time of every op of a step beside the machine's limits; with a .png or .svg, draw it too"
    group.add_argument("--profile", type=Path, nargs="?", const=True, default=None, metavar="FILE", help=timed)


def check_profile(args: argparse.Namespace) -> None:
    """Raises, before anything is loaded, for a picture that can't be drawn, and where ops are not timed."""
    from octavo.cli.bench.picture import check_kind
    from octavo.cli.bench.profile_picture import FILES
    from octavo.cli.profile import check

    check(engine_options(args))
    if isinstance(args.profile, Path):
        check_writable("--profile", args.profile)
        check_kind("--profile", args.profile, FILES)


def _load(kind: str, args: argparse.Namespace) -> LLM:
    from octavo.llm import LLM

    defaults = {"enable_prefix_caching": False, "max_model_len": args.input_len + args.output_len}
    if kind == "latency":
        defaults["max_num_seqs"] = args.batch_size
    return LLM(**{**defaults, **engine_options(args)})


def _latency(llm: LLM, args: argparse.Namespace, limits: Json, begin: Callable[[], None]) -> tuple[Json, Json]:
    """`begin` is called when what follows is measured."""
    from octavo.cli.speed import rates

    prompts = random_prompts(llm, args.batch_size, args.input_len, getattr(args, "seed", 0))
    outputs: list[RequestOutput] = []
    for _ in range(args.warmup):
        _run(llm, prompts, args)
    begin()
    for _ in range(args.num_iters):
        outputs += _run(llm, prompts, args)[0]
    times = _times(outputs)
    size, length, middle = args.batch_size, args.input_len, args.input_len + args.output_len // 2
    results = times | {
        "prefill": rates(llm, [(length, length)] * size, times["ttft_s"], limits),
        "decode": rates(llm, [(1, middle)] * size, times["tpot_s"], limits),
    }
    workload = {"batch_size": size, "iterations": args.num_iters, "warmup": args.warmup}
    return _workload(args, workload), results


def _throughput(llm: LLM, args: argparse.Namespace, limits: Json, begin: Callable[[], None]) -> tuple[Json, Json]:
    """Bytes are estimated: the weights once per step, and the KV cache of the decoding sequences."""
    from octavo.cli.speed import model_cost, shares

    prompts = random_prompts(llm, args.num_prompts, args.input_len, getattr(args, "seed", 0))
    _run(llm, prompts[:1], args)  # memory is touched for the first time before the clock runs
    begin()
    start = time.monotonic()
    outputs, steps = _run(llm, prompts, args)
    seconds = time.monotonic() - start
    tokens = args.input_len + args.output_len
    weights = model_cost(llm.model, [(1, 1)], 1).read_bytes
    per_token = model_cost(llm.model, [(1, args.input_len + args.output_len // 2)], 1).read_bytes - weights
    whole = model_cost(llm.model, [(tokens - 1, tokens - 1)], args.output_len)
    read = steps * weights + len(prompts) * (args.output_len - 1) * per_token
    results = _times(outputs) | {
        "seconds": seconds,
        "steps": steps,
        "requests_per_second": len(prompts) / seconds,
        "total_tokens_per_second": len(prompts) * tokens / seconds,
        "output_tokens_per_second": len(prompts) * args.output_len / seconds,
        "overall": shares(read / seconds, len(prompts) * whole.flops / seconds, limits),
    }
    return _workload(args, {"num_prompts": len(prompts)}), results


def _run(llm: LLM, prompts: list[list[int]], args: argparse.Namespace) -> tuple[list[RequestOutput], int]:
    """Runs all prompts at once; their outputs, and the number of steps that took."""
    from octavo.request import Prompt
    from octavo.sampling_params import RequestOutputKind, SamplingParams

    sampling = {"temperature": 0.0, **options_of(args, SAMPLING)}
    params = SamplingParams(**sampling, max_tokens=args.output_len, ignore_eos=True)
    params.output_kind = RequestOutputKind.FINAL_ONLY
    return run_prompts(llm, [Prompt(None, ids) for ids in prompts], params)


def run_prompts(llm: LLM, prompts: Sequence[Prompt], params: SamplingParams) -> tuple[list[RequestOutput], int]:
    """Runs all prompts at once; their outputs as they end, and the number of steps. Raises the error of any."""
    names = [f"bench-{i}" for i in range(len(prompts))]
    outputs, steps = [], 0
    try:
        for name, prompt in zip(names, prompts, strict=True):
            llm.engine.submit(name, prompt, params)
        while llm.engine.has_work:
            outputs += llm.engine.step()
            steps += 1
    finally:
        for name in names:
            llm.engine.abort(name)
    for output in outputs:
        if output.error is not None:
            raise output.error
    return outputs, steps


def random_prompts(llm: LLM, number: int, length: int, seed: int) -> list[list[int]]:
    import random

    source = random.Random(seed)
    return [source.choices(range(llm.model.vocab_size), k=length) for _ in range(number)]


def _workload(args: argparse.Namespace, more: Json) -> Json:
    lengths = {"input_len": args.input_len, "output_len": args.output_len}
    return more | lengths | {"temperature": 0.0, **options_of(args, SAMPLING)}


def _times(outputs: Sequence[RequestOutput]) -> Json:
    """TTFT, TPOT and whole time of requests, in seconds: mean and percentiles."""
    from octavo.cli.speed import latencies

    found = [latencies(output.metrics, len(output.outputs[0].token_ids)) for output in outputs if output.metrics]
    names = ("ttft_s", "tpot_s", "e2e_s")
    return {name: statistics(sorted(one[name] for one in found if name in one)) for name in names}


def _table(document: Json) -> str:
    from octavo.cli.speed import header, show_rates

    results = document["results"]
    workload = ", ".join(f"{name} {value}" for name, value in document["workload"].items())
    lines = [header(document), workload, ""]
    if "requests_per_second" in results:
        lines.append(f"{rate_line(results)} · {results['seconds']:.2f} s")
    for part in ("prefill", "decode", "overall"):
        if results.get(part) is not None:
            lines.append(f"{part:<24}{show_rates(results[part])}")
    return "\n".join([*lines, "", *statistics_lines(results)])
