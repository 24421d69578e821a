"""`octavo bench serve --url URL`: load on any OpenAI-compatible server, and what its clients would feel.

Flags have vLLM's names where it has them. The client imports nothing heavy: it shares the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from octavo.cli.bench import KINDS, add_number
from octavo.cli.bench.figures import OBJECTIVES, make_document, summarize, table
from octavo.cli.bench.load import Measured, Target, run_load
from octavo.cli.bench.workload import Sample, arrivals, file_samples, random_samples, sharegpt_samples
from octavo.cli.flag import natural, positive
from octavo.cli.inputs import check_writable
from octavo.cli.parser import Parser, UsageError
from octavo.cli.remote import add_server_flags, api_key
from octavo.client.api import CHAT, COMPLETIONS, ApiClient, ApiError, Json
from octavo.sampling_params import SamplingParams

BUSY = 0.8  # the share of a core above which the client may be what is measured


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv[1:])
    _check(args)
    document, measured = asyncio.run(_bench(args))
    print(table(document))
    if args.json is not None:
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for file in args.picture:
        from octavo.cli.bench.picture import write_picture

        write_picture(file, document, measured)
    return 0 if document["results"]["completed"] else 2


def _parser() -> Parser:
    parser = Parser("octavo bench serve", "--url URL [flags]", f"Puts {KINDS['serve']}.")
    add_server_flags(parser, required=True)
    server = parser.add_argument_group("requests")
    model = "the model's name on the server; left out, its first model"
    server.add_argument("--model", metavar="NAME", default=None, help=model)
    which = "the endpoint: completions (openai, vllm), or chat completions"
    server.add_argument("--backend", choices=["openai", "vllm", "openai-chat"], default="openai", help=which)
    path = f"the endpoint's path, instead of {COMPLETIONS} or {CHAT}"
    server.add_argument("--endpoint", metavar="PATH", default=None, help=path)
    server.add_argument("--temperature", type=float, default=0.0, metavar="T", help="the temperature of sampling (0)")
    toggle = argparse.BooleanOptionalAction
    full = "ask for outputs of full length; the default for random prompts"
    server.add_argument("--ignore-eos", action=toggle, default=None, help=full)
    longest = "a request takes at most so long (600)"
    server.add_argument("--timeout", type=_number, default=600.0, metavar="SECONDS", help=longest)
    _add_load_flags(parser)
    _add_workload_flags(parser)
    group = parser.add_argument_group("results")
    goals = "count the requests that keep all of these objectives in ms, as ttft:250 tpot:60 e2el:5000"
    group.add_argument("--goodput", nargs="+", type=_objective, default=[], metavar="NAME:MS", help=goals)
    names, numbers = ("--json", "--output-json", "--result-filename"), "a file for all numbers"
    group.add_argument(*names, type=Path, default=None, metavar="FILE", help=numbers)
    picture = "draw the distributions into a .png, .svg or .html, with Matplotlib; may be repeated"
    group.add_argument("--picture", action="append", type=Path, default=[], metavar="FILE", help=picture)
    return parser


def _add_load_flags(parser: Parser) -> None:
    group = parser.add_argument_group("load")
    add_number(group, 100, "the number of requests", "--num-prompts")
    add_number(group, 0, "send N requests before measuring", "--num-warmups", convert=natural)
    rate = "send R requests per second; inf, the default, sends all at once"
    group.add_argument("--request-rate", type=_number, default=math.inf, metavar="R", help=rate)
    bursts = "how even arrivals are: 1, the default, is a Poisson process; less is burstier, more is more even"
    group.add_argument("--burstiness", type=_number, default=1.0, metavar="B", help=bursts)
    many = "at most N requests at a time"
    group.add_argument("--max-concurrency", type=positive, default=None, metavar="N", help=many)


def _add_workload_flags(parser: Parser) -> None:
    group = parser.add_argument_group("workload")
    names = "where prompts come from: random tokens; custom, a file of lines of text or JSON; or sharegpt"
    group.add_argument("--dataset-name", choices=["random", "custom", "sharegpt"], default="random", help=names)
    file = "the file of custom and sharegpt"
    group.add_argument("--dataset-path", type=Path, default=None, metavar="FILE", help=file)
    add_number(group, 128, "the tokens of a random prompt", "--random-input-len", "--input-len")
    outputs = "the tokens of each output (128; for sharegpt as many as the conversation's answer has)"
    aliases = ("--output-len", "--custom-output-len", "--sharegpt-output-len")
    group.add_argument("--random-output-len", *aliases, type=positive, default=None, metavar="N", help=outputs)
    ratio = "lengths vary by this share up and down (0)"
    group.add_argument("--random-range-ratio", type=_share, default=0.0, metavar="R", help=ratio)
    add_number(group, 0, "N tokens at the start that all prompts share", "--random-prefix-len", convert=natural)
    add_number(group, 0, "the seed of prompts and arrivals", "--seed", convert=int)


def _check(args: argparse.Namespace) -> None:
    SamplingParams(temperature=args.temperature, seed=args.seed)  # raises for bad ones
    if args.url is None:
        raise UsageError("octavo bench serve needs --url, as --url http://127.0.0.1:8000")
    if (args.dataset_name == "random") != (args.dataset_path is None):
        given = "given" if args.dataset_path else "missing"
        raise UsageError(f"--dataset-path is {given}: custom and sharegpt need it, random does not")
    if args.json is not None:
        check_writable("--json", args.json)
    for file in args.picture:
        from octavo.cli.bench.picture import check_kind

        check_writable("--picture", file)
        check_kind("--picture", file)


async def _bench(args: argparse.Namespace) -> tuple[Json, list[Measured]]:
    from tqdm import tqdm

    client = ApiClient(args.url, api_key(args))
    try:
        model = args.model or (await client.models())[0]["id"]
        path = args.endpoint or (CHAT if args.backend == "openai-chat" else COMPLETIONS)
        all_samples, more = await _settle(client, path, model, args)
        samples, warmups = all_samples[: args.num_prompts], all_samples[args.num_prompts + 1 :]
        target = Target(client, path, {**_fields(model, args), **more}, args.timeout)
        await run_load(target, warmups, [0.0] * len(warmups), None, lambda _: None)
        with tqdm(total=len(samples), unit="req", disable=not sys.stderr.isatty()) as bar:
            begin, due = time.process_time(), arrivals(len(samples), args.request_rate, args.burstiness, args.seed)
            measured = await run_load(target, samples, due, args.max_concurrency, lambda _: bar.update())
            cpu_seconds = time.process_time() - begin
    finally:
        client.close()
    results = summarize(measured, dict(args.goodput), cpu_seconds)
    if results["client_cpu_share"] > BUSY:
        _say(f"this client used {results['client_cpu_share']:.0%} of a core: it may be what was measured")
    # The machine is left out: the server's is not known.
    url, workload = f"{client.address}{path}", _workload(args, samples, bool(more))
    return make_document("serve", url=url, model={"name": model}, workload=workload, results=results), measured


async def _settle(client: ApiClient, path: str, model: str, args: argparse.Namespace) -> tuple[list[Sample], Json]:
    """The samples, and the fields, that the server takes: it is asked with a first request, of one token.

    After --num-prompts samples come the one of that request and those of the warm-up, so that no cache has seen the
    others. Where token ids or ignore_eos are refused, the load does without, and says so. Raises ApiError.
    """
    wants_full = args.ignore_eos if args.ignore_eos is not None else args.dataset_name == "random"
    can_be_ids = args.dataset_name == "random" and not path.endswith(CHAT)
    ways = [(can_be_ids, wants_full), (False, wants_full), (False, False)]
    for i, (as_ids, full) in enumerate(ways):
        samples, more = _samples(args, as_ids), {"ignore_eos": True} if full else {}
        try:
            await _ask(client, path, {**_fields(model, args), **more}, samples[args.num_prompts])
        except ApiError as error:
            # Some servers answer 500 to what they do not know.
            if error.status not in (400, 422, 500) or i == len(ways) - 1 or (args.ignore_eos and not ways[i + 1][1]):
                raise
            continue
        if can_be_ids and not as_ids:
            _say("the server takes no token ids as prompts: prompts are text, of about as many tokens")
        if wants_full and not full:
            _say("the server takes no ignore_eos: outputs may be shorter than asked for")
        return samples, more
    raise AssertionError


async def _ask(client: ApiClient, path: str, fields: Json, sample: Sample) -> None:
    body = {**Target(client, path, fields, 0.0).body(sample), "max_tokens": 1}
    async for _ in client.stream(path, body):
        pass


def _fields(model: str, args: argparse.Namespace) -> Json:
    return {"model": model, "temperature": args.temperature, "stream_options": {"include_usage": True}}


def _samples(args: argparse.Namespace, as_ids: bool) -> list[Sample]:
    output_len, number = args.random_output_len or 128, args.num_prompts + 1 + args.num_warmups
    if args.dataset_name == "custom":
        return file_samples(args.dataset_path, number, output_len)
    if args.dataset_name == "sharegpt":
        return sharegpt_samples(args.dataset_path, number, args.random_output_len, args.seed)
    sizes = (args.random_input_len, output_len, args.random_range_ratio, args.random_prefix_len)
    return random_samples(number, *sizes, args.seed, as_ids)


def _workload(args: argparse.Namespace, samples: Sequence[Sample], has_full_length: bool) -> Json:
    """What was asked for, as benchmarks/schema.md has it: null for what does not apply."""
    is_random, is_paced = args.dataset_name == "random", math.isfinite(args.request_rate)
    return {
        "dataset": args.dataset_name,
        "num_prompts": len(samples),
        "input_len": args.random_input_len if is_random else None,
        "output_len": args.random_output_len or (128 if args.dataset_name != "sharegpt" else None),
        "range_ratio": args.random_range_ratio if is_random else None,
        "prefix_len": args.random_prefix_len if is_random else None,
        "prompts_as": "text" if isinstance(samples[0].prompt, str) else "token ids",
        "request_rate": args.request_rate if is_paced else None,
        "burstiness": args.burstiness if is_paced else None,
        "max_concurrency": args.max_concurrency,
        "temperature": args.temperature,
        "ignore_eos": has_full_length,
        "seed": args.seed,
    }


def _say(text: str) -> None:
    print(f"octavo: {text}", file=sys.stderr)


def _number(text: str) -> float:
    return _checked(text, lambda value: value > 0, "above 0")


def _share(text: str) -> float:
    return _checked(text, lambda value: 0 <= value < 1, "from 0 to below 1")


def _checked(text: str, fits: Callable[[float], bool], what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"must be a number {what}, got {text!r}")
    return value


def _objective(text: str) -> tuple[str, float]:
    name, _, limit = text.partition(":")
    if name not in OBJECTIVES:
        raise argparse.ArgumentTypeError(f"must be {', '.join(OBJECTIVES)} and milliseconds, as ttft:250, got {text!r}")
    return name, _number(limit)
