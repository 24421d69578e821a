"""The flags that commands share, in tables: engine options and sampling parameters, by vLLM's names.

Only what was typed is passed on, so that every default is in one place: `EngineConfig`, `SamplingParams`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from typing import Any

from octavo.cli.flag import Flag, as_flag, count, mapping, names
from octavo.cli.parser import UsageError
from octavo.cli.server_flags import SERVER_FLAGS, SERVER_NOTED, SERVER_REFUSED
from octavo.options import NOTED, REFUSED, Options, literal

MODEL_HELP = (
    "a directory, a .gguf file, a Hub id (with @REVISION), pypi:PACKAGE, a URL, s3://, gs://, oci:// or modelscope:ID; "
    "or the default model"
)


MODEL_FLAGS = (
    Flag("model", str, "MODEL", "a directory, a .gguf file, a Hub id, pypi:PACKAGE, or a URL"),
    Flag("task", str, "TASK", "generate, embed, score, classify, reward, transcription, translation; or Jina v3's"),
    Flag(
        "revision",
        str,
        "REV",
        "the branch, tag or commit of a hub's model, also MODEL@REV; or the tag of an oci:// one",
    ),
    Flag("download_dir", str, "DIR", "the folder that fetched models are kept in"),
    Flag("tokenizer", str, "MODEL", "take the tokenizer from another model"),
    Flag("chat_template", str, "FILE", "a Jinja chat template instead of the model's"),
    Flag(
        "tool_call_parser",
        str,
        "NAME",
        "vLLM's name of how the model calls tools, where its template doesn't tell",
    ),
    Flag(
        "reasoning_parser",
        str,
        "NAME",
        "vLLM's name of how the model thinks, where its template doesn't tell",
    ),
    Flag(
        "generation_config",
        str,
        "WHERE",
        "where sampling defaults come from: auto (the model or its authors), vllm (nowhere), or a directory",
    ),
    Flag("hf_overrides", mapping, "JSON", 'fields of config.json that are to be others, as {"rope_theta": 1e6}'),
    Flag("override_generation_config", mapping, "JSON", 'sampling defaults instead of those, as {"temperature": 0.5}'),
)
ENGINE_FLAGS = (
    Flag(
        "device", str, "DEVICE", "where to compute: auto, cpu or cuda; auto takes a GPU if PyTorch and Triton are there"
    ),
    Flag("executor", str, "NAME", "what computes: auto, native (on the CPU) or torch"),
    Flag(
        "model_impl",
        str,
        "NAME",
        "whose layers a model has: octavo (those declared here), transformers (its own, on the torch executor), or "
        "auto: transformers' where there is no declaration",
    ),
    Flag("dtype", str, "TYPE", "the type to compute in: auto, bfloat16, half (float16; bfloat16 if native) or float32"),
    Flag(
        "quantization",
        str,
        "NAME",
        "int8, int4, fp8: quantize the weights while loading; awq, gguf, …: what they must be",
    ),
    Flag("kv_cache_dtype", str, "TYPE", "the type of keys and values: auto (the model's) or int8 (half the memory)"),
    Flag("max_model_len", count, "N", "at most N tokens of prompt and output together; 4k is 4000, 4K is 4096"),
    Flag("max_num_seqs", int, "N", "at most N requests run at once"),
    Flag("max_num_batched_tokens", count, "N", "at most N tokens are computed in one step"),
    Flag("block_size", int, "N", "the tokens of a KV cache block: 16, 32, 64, 128 or 256"),
    Flag("gpu_memory_utilization", float, "SHARE", "the share of a GPU's memory, or a CPU's free memory, that is used"),
    Flag("enforce_eager", None, None, "on a GPU, capture no CUDA graphs"),
    Flag("num_gpu_blocks_override", int, "N", "how many KV cache blocks, instead of as many as are useful and fit"),
    Flag("kv_cache_memory_bytes", count, "N", "the size of the KV cache in bytes, as 4G"),
    Flag("enable_prefix_caching", None, None, "keep the keys and values of prompts' beginnings, and use them again"),
    Flag("prefix_cache_dir", str, "DIR", "keep those in a folder, too: they come back after a restart, and are shared"),
    Flag("prefix_cache_size", str, "SIZE", "at most so much in that folder, as 20GiB, which is the default"),
    Flag("enable_chunked_prefill", None, None, "compute long prompts in pieces"),
    Flag("scheduling_policy", str, "NAME", "the order of waiting requests: fcfs (first come first served) or priority"),
    Flag("logits_processors", names, "LIST", "vLLM's logits processors, each as MODULE:CLASS"),
    Flag("max_logprobs", int, "N", "at most N log-probabilities per token may be asked for"),
    Flag("seed", int, "N", "the seed of the random numbers: the same seed, the same text"),
)
SAMPLING_FLAGS = (
    Flag("temperature", float, "T", "0 always takes the likeliest token"),
    Flag("top_p", float, "P", "keep the likeliest tokens whose probabilities add up to P"),
    Flag("top_k", int, "K", "keep the K likeliest tokens; 0 keeps all"),
    Flag("min_p", float, "P", "keep tokens that are at least P times as probable as the likeliest"),
    Flag("max_tokens", count, "N", "generate at most N tokens"),
    Flag("min_tokens", count, "N", "generate at least N tokens"),
    Flag("stop", str, "TEXT", "end before this text; may be repeated", repeat=True),
    Flag("presence_penalty", float, "X", "subtracted from the logits of tokens that were generated"),
    Flag("frequency_penalty", float, "X", "subtracted once for each time that the token was generated"),
    Flag("repetition_penalty", float, "X", "divides the logits of tokens of the prompt and the output"),
    Flag("ignore_eos", None, None, "do not end at the end-of-sequence token"),
)
ALIASES = {"tensor_parallel_size": "-tp", "pipeline_parallel_size": "-pp", "quantization": "-q"}


def add_flags(parser: argparse.ArgumentParser, title: str, flags: Sequence[Flag]) -> argparse._ArgumentGroup:
    """Adds a group of flags, and returns it for further ones."""
    group = parser.add_argument_group(title)
    for flag in flags:
        name = as_flag(flag.name)
        if flag.convert is None:
            group.add_argument(name, action=argparse.BooleanOptionalAction, help=flag.help)
        else:
            action = "append" if flag.repeat else "store"
            group.add_argument(name, action=action, type=flag.convert, metavar=flag.metavar, help=flag.help)
    return group


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """All options of the engine; those that mean nothing here, or are refused, are hidden from the list."""
    add_flags(parser, "model", MODEL_FLAGS)
    add_flags(parser, "engine", ENGINE_FLAGS)
    add_hidden_flags(parser, {**REFUSED, **NOTED})
    parser.epilog = (
        "All other flags of vLLM's engine are known too: those without a meaning here are noted in one line, those "
        "that ask for what is not there are refused. docs/api.md has the list."
    )


def add_hidden_flags(parser: argparse.ArgumentParser, table: Options) -> None:
    """The options of a table, but for those that the command has as flags of its own."""
    hidden = parser.add_argument_group()  # a group checks no metavars, which takes a while for hundreds
    for name, (neutral, _) in table.items():
        if as_flag(name) in parser._option_string_actions:
            continue
        names = [as_flag(name), *([ALIASES[name]] if name in ALIASES else [])]
        if any(isinstance(value, bool) for value in neutral):
            hidden.add_argument(*names, action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
        else:
            arguments = "+" if [] in neutral else None
            hidden.add_argument(*names, dest=name, type=literal, nargs=arguments, help=argparse.SUPPRESS)


def options_of(args: argparse.Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """What was typed of `flags`."""
    return {flag.name: getattr(args, flag.name) for flag in flags if hasattr(args, flag.name)}


def engine_options(args: argparse.Namespace, without: Collection[str] = ()) -> dict[str, Any]:
    """What was typed of the engine's options, for `LLM(**options)`, but for those that the command uses itself."""
    names = (*(flag.name for flag in (*MODEL_FLAGS, *ENGINE_FLAGS)), *REFUSED, *NOTED)
    return {name: getattr(args, name) for name in names if hasattr(args, name) and name not in without}


def take_model(args: argparse.Namespace, given: str | None) -> None:
    """Makes a model given as an argument the option `model`. Raises UsageError if there is a flag too."""
    if given is not None:
        if not given.strip():
            raise UsageError("MODEL: must not be empty")
        if hasattr(args, "model"):
            raise UsageError(f"two models were given: {given} and --model {args.model}")
        args.model = given


_TABLES = (*ENGINE_FLAGS, *MODEL_FLAGS, *SAMPLING_FLAGS, *SERVER_FLAGS)
_OTHERS = {"config", "served_model_name", "logprobs", "url", "beam_size"}
_OTHERS |= {"dimensions", "truncate_prompt_tokens", "prompt_name"}
_OTHERS |= {"machine", "memory"}
_OTHERS |= {"calibration", "calibration_tokens", "evaluate", "group_size", "symmetric"}
_NAMES = sorted({*(flag.name for flag in _TABLES), *REFUSED, *NOTED, *SERVER_REFUSED, *SERVER_NOTED, *_OTHERS})
_RARE = "|".join(name for name in _NAMES if "_" in name)
# An option's name: at the beginning, as errors and notes have it, or anywhere if it can't be a common word.
_MENTION = re.compile(rf"^({'|'.join(_NAMES)})(?:=True(?=:)|=| (?=must ))|(?<![\w/.'-])({_RARE})(?![\w/.'-])=?")


def spell_flags(message: str) -> str:
    """`message` with options named as flags: max_model_len=8 becomes --max-model-len 8."""

    def flag(match: re.Match[str]) -> str:
        return as_flag(match[1] or match[2]) + (" " if match[0][-1] in "= " else "")

    return _MENTION.sub(flag, message)


def report_notes() -> None:
    """Notes and warnings of the engine go to stderr, one line each."""
    import logging

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return "octavo: " + spell_flags(" ".join(record.getMessage().split()))

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logger = logging.getLogger("octavo")
    logger.handlers, logger.propagate = [handler], False
