"""`octavo run`: answer one prompt, show the answer as it is made, and say how fast that was."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octavo.cli.main import Parser
from octavo.cli.options import MODEL_HELP, add_engine_options, add_sampling_options, engine_options, sampling_options
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.engine.inputs import Prompt
    from octavo.llm import LLM
    from octavo.request import RequestOutput

BANDWIDTH_SAMPLE = 128 << 20  # bytes read to measure the machine


def parser() -> Parser:
    p = Parser(
        prog="octavo run",
        usage="octavo run [MODEL] PROMPT [options]",
        description="Answers PROMPT (- reads it from standard input) and ends with one line about speed.",
    )
    p.add_argument("words", nargs="+", metavar="[MODEL] PROMPT", help=MODEL_HELP)
    p.add_argument("--model", default=None, help="the model, instead of the first argument")
    p.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="as a conversation; the default where the model has a chat template",
    )
    p.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    p.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
    p.add_argument("--logprobs", type=int, default=argparse.SUPPRESS, help="log-probabilities, with --json")
    add_sampling_options(p)
    add_engine_options(p)
    return p


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    model, text = _model_and_prompt(args)
    if hasattr(args, "logprobs") and not args.json:
        raise ConfigError("--logprobs", args.logprobs, "is shown only with --json")
    from octavo.engine.defaults import default_sampling_params
    from octavo.llm import LLM

    llm = LLM(model, **engine_options(args))
    params = default_sampling_params(llm.model, **{"max_tokens": None, **sampling_options(args)})
    prompt = _prompt(llm, text, args)
    pieces: list[RequestOutput] = []
    for output in llm.stream(prompt, params):
        if not args.json and output.outputs:
            sys.stdout.write(output.outputs[0].text)
            sys.stdout.flush()
        pieces.append(output)
    if pieces[-1].error is not None:
        raise pieces[-1].error
    report = _report(llm, pieces)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        sys.stdout.write("\n")
        sys.stdout.flush()
        print(_summary(report), file=sys.stderr)
    return 0


def _model_and_prompt(args: argparse.Namespace) -> tuple[str | None, str]:
    words = list(args.words)
    if len(words) > 2 or (len(words) == 2 and args.model):
        parser().error(f"one prompt is wanted, got {len(words)} words; put the prompt in quotes")
    model = args.model or (words.pop(0) if len(words) == 2 else None)
    return model, sys.stdin.read() if words[0] == "-" else words[0]


def _prompt(llm: LLM, text: str, args: argparse.Namespace) -> Prompt | str:
    """A conversation where that is wanted, or possible and not unwanted; else the plain text."""
    chat = llm.model.chat_template is not None if args.chat is None else args.chat
    if not chat:
        if args.system:
            raise ConfigError("--system", args.system, "needs a conversation: leave out --no-chat")
        return text
    system = [{"role": "system", "content": args.system}] if args.system else []
    return llm.chat_prompt([*system, {"role": "user", "content": text}])


def _report(llm: LLM, pieces: list[RequestOutput]) -> dict[str, Any]:
    """All there is to say about one answer. Rates are in tokens per second, times in seconds."""
    from octavo.engine.speed import decode_bytes, memory_bandwidth

    last, completions = pieces[-1], [piece.outputs[0] for piece in pieces if piece.outputs]
    metrics = last.metrics
    assert metrics is not None
    assert metrics.first_token_time is not None
    assert metrics.finished_time is not None
    tokens = [token for completion in completions for token in completion.token_ids]
    seconds = metrics.finished_time - metrics.first_token_time
    rate = (len(tokens) - 1) / seconds if len(tokens) > 1 and seconds > 0 else None
    context = len(last.prompt_token_ids) + len(tokens) // 2
    read = None if rate is None else rate * decode_bytes(llm.model, context)
    limit = memory_bandwidth(BANDWIDTH_SAMPLE)
    report: dict[str, Any] = {
        "model": llm.model.name,
        "text": "".join(completion.text for completion in completions),
        "token_ids": tokens,
        "finish_reason": completions[-1].finish_reason,
        "stop_reason": completions[-1].stop_reason,
        "usage": {"prompt_tokens": len(last.prompt_token_ids), "completion_tokens": len(tokens)},
        "time_to_first_token": metrics.first_token_time - metrics.arrival_time,
        "time_since_command": metrics.first_token_time - _process_start(),
        "tokens_per_second": rate,
        "bytes_per_second": read,
        "memory_bandwidth": limit,
    }
    if completions[-1].logprobs is not None:
        positions = [position for completion in completions for position in completion.logprobs or []]
        report["logprobs"] = [
            {token: dataclasses.asdict(entry) for token, entry in position.items()} for position in positions
        ]
    return report


def _summary(report: dict[str, Any]) -> str:
    usage = report["usage"]
    line = (
        f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out · "
        f"first token {report['time_to_first_token']:.2f} s ({report['time_since_command']:.2f} s from the command)"
    )
    if report["tokens_per_second"] is None:
        return line
    share = report["bytes_per_second"] / report["memory_bandwidth"]
    return (
        f"{line} · {report['tokens_per_second']:.1f} tok/s · {report['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"{share:.0%} of this machine's memory bandwidth"
    )


def _process_start() -> float:
    """When this process began, in seconds of `time.monotonic()`."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
