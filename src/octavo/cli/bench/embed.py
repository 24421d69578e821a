"""`octavo bench embed [MODEL]`: how fast a model makes vectors, in this process or, with --url, on a server.

Texts are random tokens, the same for the same seed, or the lines of a file; then reading them is measured, too. What
`--json` writes is described in benchmarks/schema.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from octavo.cli.bench import KINDS, add_number
from octavo.cli.bench.figures import Json, headline, statistics, statistics_lines
from octavo.cli.bench.offline import add_report_flags, check_profile, report, run_prompts
from octavo.cli.bench.texts import texts_of, workload
from octavo.cli.flag import natural
from octavo.cli.inputs import check_writable
from octavo.cli.options import MODEL_HELP, add_engine_flags, engine_options, report_notes, take_model
from octavo.cli.parser import Parser, UsageError
from octavo.cli.remote import add_server_flags, check_place
from octavo.cli.texts import DEFAULT_EMBEDDER, read_lines

if TYPE_CHECKING:
    from octavo.llm import LLM

Text = str | list[int]


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv[1:])
    take_model(args, args.given)
    _check(args)
    lines = None if args.input is None else read_lines(args.input)
    if args.url is not None:
        from octavo.cli.bench.embed_serve import bench_server

        document = bench_server(args, lines)
        print("\n".join([headline(document), *_lines(document)]))
        if args.output_json is not None:
            args.output_json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return 0 if document["results"]["completed"] else 2
    report_notes()
    report(args, _bench(args, lines), _table)
    return 0


def _parser() -> Parser:
    parser = Parser("octavo bench embed", "[flags] [MODEL]", f"Measures {KINDS['embed']}.")
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("workload")
    add_number(group, 512, "the number of texts", "--num-texts", "--num-prompts")
    add_number(group, 16, "the tokens of the shortest text", "--min-len")
    add_number(group, 256, "the tokens of the longest text", "--max-len")
    file = "take texts from a file's lines, again and again; - is stdin"
    group.add_argument("--input", metavar="FILE", default=None, help=file)
    add_number(group, 32, "the tokens of a text alone", "--latency-len")
    add_number(group, 50, "measure N texts alone", "--num-iters")
    add_number(group, 3, "run N texts before measuring", "--warmup", "--num-warmups", convert=natural)
    add_report_flags(group, "--json")
    load = parser.add_argument_group("load of a server")
    add_number(load, 32, "the texts of a request", "--batch-size")
    add_number(load, 8, "at most N requests at a time", "--max-concurrency")
    add_server_flags(parser)
    add_engine_flags(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises OctavoError before anything is loaded or asked."""
    check_place(args, keeps=("model", "seed"))
    if args.min_len > args.max_len:
        raise UsageError(f"--min-len {args.min_len} is more than --max-len {args.max_len}")
    if args.output_json is not None:
        check_writable("--json", args.output_json)
    if args.profile and args.url is not None:
        raise UsageError("--profile is for a model in this process; leave out --url")
    if args.profile:
        check_profile(args)


def _bench(args: argparse.Namespace, lines: list[str] | None) -> Json:
    from octavo.cli import profile, speed
    from octavo.llm import LLM

    llm = LLM(**{"model": DEFAULT_EMBEDDER, "task": "embed", "enable_prefix_caching": False, **engine_options(args)})
    limits = speed.measure_limits(llm.model.config)
    profiled = profile.start(llm) if args.profile else None
    many, alone = texts_of(args, lines, range(llm.model.vocab_size))
    seconds = [_run(llm, [text])[0] for text in alone][args.warmup :]
    if profiled:
        profiled.begin()
    whole, lengths, steps = _run(llm, many)
    contexts = [(length, length) for length in lengths]
    weights = speed.model_cost(llm.model, [(1, 1)], 1).read_bytes
    cost = speed.model_cost(llm.model, contexts, len(contexts))
    results = {
        "texts": len(many),
        "tokens": sum(lengths),
        "seconds": whole,
        "steps": steps,
        "texts_per_second": len(many) / whole,
        "tokens_per_second": sum(lengths) / whole,
        "latency_s": statistics(sorted(seconds)),
        "overall": speed.shares((cost.read_bytes + (steps - 1) * weights) / whole, cost.flops / whole, limits),
    }
    if profiled:
        results["profile"] = profile.measured(profiled, llm.model.config, limits)
    return speed.describe("embed", llm, limits, workload(args), results)


def _run(llm: LLM, texts: Sequence[Text]) -> tuple[float, list[int], int]:
    """Reads and runs texts at once: the seconds that took, their lengths in tokens, and the number of steps."""
    from octavo.engine.pooling import NOTHING_SAMPLED, pooled
    from octavo.pooling_params import PoolingParams

    begin, params = time.monotonic(), PoolingParams("embed")
    prompts = [pooled(llm.model.reader.read(text), params, llm.model) for text in texts]
    _, steps = run_prompts(llm, prompts, NOTHING_SAMPLED)
    return time.monotonic() - begin, [len(prompt.token_ids) for prompt in prompts], steps


def _table(document: Json) -> str:
    from octavo.cli.speed import header, show_rates

    overall = f"{'overall':<24}{show_rates(document['results']['overall'])}"
    head, *rest = _lines(document)
    return "\n".join([header(document), head, *rest[:2], overall, *rest[2:]])


def _lines(document: Json) -> list[str]:
    """The workload, the rates, and the latencies."""
    results = document["results"]
    asked = ", ".join(f"{name} {value}" for name, value in document["workload"].items() if value is not None)
    failed = ", ".join(f"{number}x {reason}" for reason, number in results.get("failed", {}).items())
    rates = (
        f"{results['texts']} texts of {results['tokens']} tokens in {results['seconds']:.2f} s · "
        f"{results['texts_per_second']:.1f} texts/s · {results['tokens_per_second']:.1f} tok/s"
    )
    return [asked, "", rates + (f"; failed requests: {failed}" if failed else ""), "", *statistics_lines(results)]
