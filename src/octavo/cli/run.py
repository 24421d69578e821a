"""`octavo run [MODEL] PROMPT`: one answer on stdout, streamed, and one line about its speed on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octavo.cli.flag import as_flag
from octavo.cli.inputs import add_prompt, checked_sampling, read_prompt, text_engine_options
from octavo.cli.options import SAMPLING_FLAGS, add_engine_flags, add_flags, report_notes
from octavo.cli.parser import Parser, UsageError

if TYPE_CHECKING:
    from octavo.llm import LLM
    from octavo.request import CompletionOutput, RequestMetrics, RequestOutput
    from octavo.sampling_params import SamplingParams

DEFAULTS = {"temperature": 0.3, "top_p": 0.9, "max_tokens": 1024}  # used where neither user nor model gives a value


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    text = _read_arguments(args)
    sampling = checked_sampling(args, "seed", "logprobs")
    options = text_engine_options(args)
    if args.profile:
        from octavo.cli import profile

        profile.check(options)
    report_notes()

    from octavo.llm import LLM

    llm = LLM(**{"max_num_seqs": 1, **options})
    prompt = _prompt(llm, args, text)
    longest = max(DEFAULTS["max_tokens"], sampling.get("min_tokens", 0))
    params = llm.model.sampling_params(sampling, {**DEFAULTS, "max_tokens": longest})
    profiled = profile.start(llm) if args.profile else None
    request, answer = _generate(llm, prompt, params, echo=not args.json)
    from octavo.plan.estimate import two_lines  # what nobody waits for

    report = _report(llm, request, answer)
    lines = [*two_lines(llm.model, llm.model.plan), _summary(report)]
    if profiled:
        report["profile"] = profile.measured(profiled, llm.model.config)
        lines += ["", profile.table(report["profile"])]
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print("\n".join(lines), file=sys.stderr)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "octavo run",
        "[flags] [MODEL] PROMPT",
        "Answers a prompt on stdout as the answer is made, and says on stderr how fast that was. A PROMPT of "
        "- is read from stdin. Sampling defaults are the model's own; where it has none, "
        + ", ".join(f"{as_flag(name)} {value}" for name, value in DEFAULTS.items())
        + ".",
    )
    add_prompt(parser)
    group = parser.add_argument_group("run")
    toggle = argparse.BooleanOptionalAction
    chat = (
        "take the prompt as a conversation, or as text to continue; by default, whether the model has a chat template"
    )
    group.add_argument("--chat", action=toggle, default=None, help=chat)
    group.add_argument("--system", metavar="TEXT", default=None, help="the system message of a conversation")
    group.add_argument("--json", action="store_true", default=False, help="print one JSON object at the end")
    group.add_argument("--logprobs", type=int, metavar="N", help="with --json, the N likeliest tokens of each position")
    timed = "say where the time went: every op of a step, beside the machine's limits"
    group.add_argument("--profile", action="store_true", default=False, help=timed)
    group.add_argument("--n", type=int, default=1, help=argparse.SUPPRESS)
    add_flags(parser, "sampling", SAMPLING_FLAGS)
    add_engine_flags(parser)
    return parser


def _read_arguments(args: argparse.Namespace) -> str:
    """Checks what can be checked before anything is loaded; returns the prompt's text."""
    if args.n != 1:
        raise UsageError(f"--n {args.n}: octavo run makes one answer; LLM.generate makes several")
    if hasattr(args, "logprobs") and not args.json:
        raise UsageError("--logprobs needs --json")
    if args.system is not None and args.chat is False:
        raise UsageError("--system needs a conversation, leave out --no-chat")
    return read_prompt(args, "run")


def _prompt(llm: LLM, args: argparse.Namespace, text: str) -> Any:
    wants_chat = args.chat or args.system is not None
    if not wants_chat and (args.chat is False or llm.model.chat_template is None):
        return text
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    return llm.chat_prompt([*system, {"role": "user", "content": text}])


def _generate(llm: LLM, prompt: Any, params: SamplingParams, echo: bool) -> tuple[RequestOutput, CompletionOutput]:
    """The last output of the request, and the whole answer; with `echo`, it goes to stdout as it is made."""
    from octavo.request import CompletionOutput

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    whole = CompletionOutput(0, "", [])
    for output in llm.stream(prompt, params):
        if output.error is not None:
            raise output.error
        piece = output.outputs[0]
        whole.text += piece.text
        whole.token_ids += piece.token_ids
        if piece.logprobs is not None:
            whole.logprobs = (whole.logprobs or []) + piece.logprobs
        whole.finish_reason, whole.stop_reason = piece.finish_reason, piece.stop_reason
        if echo and piece.text:
            print(piece.text, end="", flush=True)
    if echo and not whole.text.endswith("\n"):
        print(flush=True)
    return output, whole


def _report(llm: LLM, request: RequestOutput, answer: CompletionOutput) -> dict[str, Any]:
    """What --json prints. Times are in seconds, rates per second; null where there is nothing to measure."""
    assert request.metrics is not None
    return {
        "model": llm.model.name,
        "prompt": request.prompt,
        "prompt_token_ids": request.prompt_token_ids,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
        "logprobs": _logprobs(answer),
        "usage": {"prompt_tokens": len(request.prompt_token_ids), "completion_tokens": len(answer.token_ids)},
        **_speed(llm, request.metrics, len(request.prompt_token_ids), len(answer.token_ids)),
    }


def _logprobs(answer: CompletionOutput) -> list[list[dict[str, Any]]] | None:
    if answer.logprobs is None:
        return None
    return [
        [
            {"token_id": token, "token": entry.decoded_token, "logprob": entry.logprob, "rank": entry.rank}
            for token, entry in position.items()
        ]
        for position in answer.logprobs
    ]


def _speed(llm: LLM, metrics: RequestMetrics, num_read: int, num_written: int) -> dict[str, Any]:
    """Times, and the bytes that decoding read per second: weights and KV cache, at the answer's middle."""
    from octavo.cli import speed
    from octavo.plan.limits import measured_bandwidth

    begin, times = speed.process_start(), speed.latencies(metrics, num_written)
    first, per_token = times["ttft_s"], times.get("tpot_s")
    timings = {
        "first_token": first,
        "first_token_from_command": None if begin is None else metrics.arrival_time + first - begin,
        "total": times["e2e_s"],
        "tokens_per_second": None if per_token is None else 1 / per_token,
    }
    read = limit = None
    if per_token is not None:
        context = num_read + num_written // 2
        read = speed.model_cost(llm.model, [(1, context)], 1).read_bytes / per_token
        limit = measured_bandwidth() if llm.model.config.device == "cpu" else None
    share = read / limit if read and limit else None
    return {"timings": timings, "bandwidth": {"bytes_per_second": read, "machine": limit, "share": share}}


def _summary(report: dict[str, Any]) -> str:
    usage, timings, bandwidth = report["usage"], report["timings"], report["bandwidth"]
    first = f"first token {timings['first_token']:.2f} s"
    if timings["first_token_from_command"] is not None:
        first += f" ({timings['first_token_from_command']:.2f} s from the command)"
    parts = [f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out", first]
    if timings["tokens_per_second"] is not None:
        parts.append(f"{timings['tokens_per_second']:.1f} tok/s")
        rate = f"{bandwidth['bytes_per_second'] / 1e9:.1f} GB/s"
        share = bandwidth["share"]
        parts.append(rate if share is None else f"{rate} = {share:.0%} of this machine's memory bandwidth")
    return " · ".join(parts).replace("%", " %")
