"""`octavo bench`: what a model does on this machine, beside what the machine can do."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.cli.main import Parser
from octavo.cli.options import MODEL_HELP, add_engine_options, engine_options, size
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.llm import LLM
    from octavo.request import RequestOutput

BANDWIDTH_SAMPLE = 512 << 20  # bytes read to measure the machine


def parser() -> Parser:
    p = Parser(prog="octavo bench", description="Measures the engine with random tokens, without prefix caching.")
    commands = p.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="{latency,throughput}")
    latency = commands.add_parser("latency", help="one batch at a time: time to first token, time per token")
    _add_common(latency, input_len=32)
    latency.add_argument("--batch-size", type=size, default=1, metavar="N")
    latency.add_argument("--num-iters", type=size, default=10, metavar="N", help="batches that are measured")
    latency.add_argument("--num-iters-warmup", type=size, default=2, metavar="N", help="batches before that")
    throughput = commands.add_parser("throughput", help="many requests at once: tokens per second")
    _add_common(throughput, input_len=256)
    throughput.add_argument("--num-prompts", type=size, default=64, metavar="N")
    throughput.add_argument("--dataset-name", default="random", choices=["random"])
    return p


def _add_common(p: argparse.ArgumentParser, input_len: int) -> None:
    p.add_argument("words", nargs="?", metavar="MODEL", help=MODEL_HELP)
    p.add_argument("--model", help="the model, instead of the argument")
    p.add_argument("--input-len", "--random-input-len", type=size, default=input_len, metavar="N")
    p.add_argument("--output-len", "--random-output-len", type=size, default=128, metavar="N")
    p.add_argument("--output-json", metavar="FILE", help="write all figures; benchmarks/README.md has the schema")
    p.add_argument("--seed", type=int, default=0, help="of the random prompts")
    add_engine_options(p)


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    from octavo.llm import LLM

    options = {"enable_prefix_caching": False, **engine_options(args)}
    llm = LLM(args.model or args.words, **options)
    longest = args.input_len + args.output_len
    if longest > llm.model.max_model_len:
        reason = f"{args.input_len} + {args.output_len} tokens do not fit max_model_len {llm.model.max_model_len}"
        raise ConfigError("--input-len", args.input_len, reason)
    report = (_latency if args.command == "latency" else _throughput)(llm, args)
    print(_show(report))
    if args.output_json:
        Path(args.output_json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _latency(llm: LLM, args: argparse.Namespace) -> dict[str, Any]:
    run = _workload(llm, args, args.batch_size)
    for _ in range(args.num_iters_warmup):
        run()
    begin = time.perf_counter()
    outputs = [output for _ in range(args.num_iters) for output in run()]
    seconds = (time.perf_counter() - begin) / args.num_iters
    return _report(llm, args, outputs, args.batch_size, seconds)


def _throughput(llm: LLM, args: argparse.Namespace) -> dict[str, Any]:
    run = _workload(llm, args, args.num_prompts)
    begin = time.perf_counter()
    outputs = run()
    return _report(llm, args, outputs, args.num_prompts, time.perf_counter() - begin)


def _workload(llm: LLM, args: argparse.Namespace, count: int) -> Callable[[], list[RequestOutput]]:
    """A function that generates `output_len` tokens for each of `count` random prompts, all at once."""
    from octavo.sampling_params import SamplingParams

    rng = random.Random(args.seed)
    ids = range(llm.model.vocab_size)
    prompts = [{"prompt_token_ids": rng.choices(ids, k=args.input_len)} for _ in range(count)]
    params = SamplingParams(temperature=0, max_tokens=args.output_len, ignore_eos=True, detokenize=False)
    return lambda: llm.generate(prompts, params, use_tqdm=False)


def _report(
    llm: LLM, args: argparse.Namespace, outputs: list[RequestOutput], count: int, seconds: float
) -> dict[str, Any]:
    """All figures; `seconds` is the time of one run of `count` requests."""
    from octavo import __version__, _native
    from octavo.engine.speed import cost, matmul_flops, memory_bandwidth

    model, read, written = llm.model, args.input_len, args.output_len
    ttft, tpot, total = (list(column) for column in zip(*map(_times, outputs), strict=True))
    batch = min(count, model.config.max_num_seqs)
    prefill = cost(model, [(read, read)] * batch, batch)
    decode = cost(model, [(1, read + written // 2)] * batch, batch)
    step = statistics.median(tpot) if written > 1 else None
    first = max(ttft) if count <= model.config.max_num_seqs else None
    return {
        "command": args.command,
        "version": __version__,
        "model": model.name,
        "dtype": model.config.compute_dtype,
        "isa": _native.isa(),
        "threads": _native.num_threads(),
        "requests": count,
        "input_len": read,
        "output_len": written,
        "seconds": seconds,
        "requests_per_second": count / seconds,
        "tokens_per_second": count * (read + written) / seconds,
        "output_tokens_per_second": count * written / seconds,
        "prefill_tokens_per_second": None if first is None else count * read / first,
        "decode_tokens_per_second": None if step is None else batch / step,
        "ttft": _spread(ttft),
        "tpot": _spread(tpot) if written > 1 else None,
        "end_to_end": _spread(total),
        "prefill_flops": None if first is None else prefill.flops / first,
        "decode_flops": None if step is None else decode.flops / step,
        "decode_bytes_per_second": None if step is None else decode.read_bytes / step,
        "machine_flops": matmul_flops(model.config.compute_dtype == "float32"),
        "machine_bytes_per_second": memory_bandwidth(BANDWIDTH_SAMPLE),
    }


def _times(output: RequestOutput) -> tuple[float, float, float]:
    """Seconds to the first token, per further token, and in all."""
    metrics = output.metrics
    assert metrics is not None
    assert metrics.first_token_time is not None
    assert metrics.finished_time is not None
    further = max(1, len(output.outputs[0].token_ids) - 1)
    return (
        metrics.first_token_time - metrics.arrival_time,
        (metrics.finished_time - metrics.first_token_time) / further,
        metrics.finished_time - metrics.arrival_time,
    )


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)

    def percentile(p: int) -> float:
        return ordered[min(len(ordered) - 1, round(p / 100 * (len(ordered) - 1)))]

    return {"mean": statistics.fmean(ordered)} | {f"p{p}": percentile(p) for p in (50, 90, 99)}


def _show(r: dict[str, Any]) -> str:
    lines = [
        f"{r['command']}: {r['requests']} x ({r['input_len']} in, {r['output_len']} out), {r['model']}, {r['dtype']}, "
        f"{r['isa']}, {r['threads']} threads"
    ]
    for name, label in (("ttft", "time to first token"), ("tpot", "time per token"), ("end_to_end", "end to end")):
        if r[name]:
            values = "  ".join(f"{key} {1000 * value:.2f} ms" for key, value in r[name].items())
            lines.append(f"  {label:22}{values}")
    if r["prefill_flops"]:
        share = r["prefill_flops"] / r["machine_flops"]
        lines.append(
            f"  {'prefill':22}{r['prefill_tokens_per_second']:.0f} tok/s  {r['prefill_flops'] / 1e9:.0f} GFLOP/s, "
            f"{share:.0%} of the {r['machine_flops'] / 1e9:.0f} measured"
        )
    if r["decode_flops"]:
        share = r["decode_bytes_per_second"] / r["machine_bytes_per_second"]
        lines.append(
            f"  {'decode':22}{r['decode_tokens_per_second']:.0f} tok/s  {r['decode_bytes_per_second'] / 1e9:.1f} GB/s, "
            f"{share:.0%} of the {r['machine_bytes_per_second'] / 1e9:.1f} measured; "
            f"{r['decode_flops'] / 1e9:.0f} GFLOP/s, {r['decode_flops'] / r['machine_flops']:.0%}"
        )
    lines.append(
        f"  {'in all':22}{r['requests_per_second']:.2f} requests/s  {r['tokens_per_second']:.0f} tok/s, "
        f"{r['output_tokens_per_second']:.0f} of them output"
    )
    return "\n".join(lines)
