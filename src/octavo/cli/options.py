"""Flags of the engine and of sampling, the same for all commands, under the names that vLLM's users type."""

from __future__ import annotations

import argparse
import json
from typing import Any

from octavo.config import NOTED, REFUSED

MODEL_HELP = "directory, .gguf file, Hub id (ORG/NAME[@REVISION]) or pypi:PACKAGE; by default SmolLM2-135M-Instruct"


def size(text: str) -> int:
    """An integer, or one with a suffix: 4k is 4,000, 4K is 4,096 (m and M alike)."""
    units = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}
    factor = units.get(text[-1:], 1)
    return int(float(text[:-1]) * factor) if factor > 1 else int(text)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The flags that become `EngineConfig`; what is not said stays out of `engine_options`."""
    group = parser.add_argument_group("engine")
    add = group.add_argument
    none: Any = argparse.SUPPRESS
    add("--tokenizer", default=none, help="take the tokenizer from another model")
    add("--revision", default=none, help="branch, tag or commit of a Hub model")
    add("--download-dir", default=none, metavar="DIR", help="where fetched models are kept")
    add("--dtype", default=none, help="auto, bfloat16 or float32")
    add("--max-model-len", type=size, default=none, metavar="N", help="tokens of prompt and output together (4k, 4K)")
    add("--max-num-seqs", type=size, default=none, metavar="N", help="sequences that run at once")
    add("--max-num-batched-tokens", type=size, default=none, metavar="N", help="tokens computed in one step")
    add("--block-size", type=int, default=none, metavar="N", help="tokens of a KV cache block")
    for name in ("enable-prefix-caching", "enable-chunked-prefill"):
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=none)
    add("--scheduling-policy", default=none, help="fcfs or priority")
    add("--gpu-memory-utilization", type=float, default=none, metavar="SHARE", help="of free memory; also on a CPU")
    add("--num-gpu-blocks-override", type=size, default=none, metavar="N", help="KV cache blocks")
    add("--generation-config", default=none, help="auto, vllm, or a directory with generation_config.json")
    add("--chat-template", default=none, metavar="FILE", help="a Jinja chat template instead of the model's")
    add("--max-logprobs", type=int, default=none, metavar="N")
    _add_others(parser)


def _add_others(parser: argparse.ArgumentParser) -> None:
    """Flags of other engines: read, then noted or refused by EngineConfig. Their values are optional words."""
    said = {flag for action in parser._actions for flag in action.option_strings}
    for name in (*NOTED, *REFUSED):
        flag = f"--{name.replace('_', '-')}"
        if flag not in said:
            parser.add_argument(
                flag, nargs="?", const=True, type=_value, default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )


def _value(text: str) -> Any:
    """A number, true, false or JSON as what it says; other words as they are."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The engine options among parsed arguments."""
    from octavo.config import EngineConfig

    known = {*EngineConfig.__dataclass_fields__, *NOTED, *REFUSED}
    return {name: value for name, value in vars(args).items() if name in known and name not in ("model", "seed")}


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Flags named like the fields of `SamplingParams`; what is not said comes from the model."""
    group = parser.add_argument_group("sampling")
    none: Any = argparse.SUPPRESS
    for name, kind, text in (
        ("--temperature", float, "0 is greedy"),
        ("--top-p", float, "keep the likeliest tokens that together have this probability"),
        ("--top-k", int, "keep this many tokens"),
        ("--min-p", float, "keep tokens at least this probable, relative to the likeliest"),
        ("--presence-penalty", float, None),
        ("--frequency-penalty", float, None),
        ("--repetition-penalty", float, None),
        ("--min-tokens", int, None),
        ("--seed", int, "same seed, same answer"),
    ):
        group.add_argument(name, type=kind, default=none, help=text)
    group.add_argument("--max-tokens", type=size, default=none, help="longest answer; by default up to the context")
    group.add_argument("--stop", action="append", default=none, metavar="TEXT", help="end before this text; repeatable")
    group.add_argument("--ignore-eos", action="store_true", default=none)


SAMPLING = (
    "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty min_tokens seed max_tokens "
    "stop ignore_eos logprobs"
).split()


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options among parsed arguments."""
    return {name: value for name, value in vars(args).items() if name in SAMPLING}
