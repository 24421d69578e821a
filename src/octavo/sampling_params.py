"""vLLM's `SamplingParams` and `BeamSearchParams`, checked when they are made."""

from __future__ import annotations

import enum
import math
import numbers
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from octavo.errors import ParameterError, UnsupportedError
from octavo.structured.params import GuidedDecodingParams, StructuredOutputsParams, read_params

MAX_SEQUENCES = 128  # the most samples or beams of one request
MAX_STOP_STRINGS = 64
MAX_BAD_WORDS = 1024
MAX_PROCESSORS = 64
MAX_TEXT_LENGTH = 1024  # the most characters of a stop string or bad word
MAX_TOKEN_IDS = 2**20  # the most token ids in one list
MAX_LENGTH_PENALTY = 10.0  # the farthest from 0; a length to a larger power is no finite number
known_extra_args: set[str] = set()  # names that rules on logits read there: those of plugins
GREEDY_BELOW = 1e-5  # a smaller temperature means: always the likeliest token
_MAX_INT = 2**31 - 1  # the highest integer of the native sampler


class RequestOutputKind(enum.Enum):
    """What each output of a request holds: all so far, what is new, or nothing before the last."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(slots=True)
class SamplingParams:
    """How to continue a prompt; names, defaults and meaning are vLLM's.

    Raises `ParameterError` for a value out of range, `UnsupportedError` for what is not supported here. A
    field that is set later is checked when the engine takes its `clone()`.
    """

    n: int = 1  # completions to return
    best_of: int | None = None  # completions to make, of which the best `n` are returned; the width of a beam
    presence_penalty: float = 0.0  # subtracted from the logits of tokens that were generated
    frequency_penalty: float = 0.0  # subtracted once for each time that the token was generated
    repetition_penalty: float = 1.0  # divides the logits of tokens of the prompt and the output
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # keep the likeliest tokens whose probabilities add up to this
    top_k: int = 0  # keep this many tokens; 0 and -1 keep all
    min_p: float = 0.0  # keep tokens that are at least this many times as probable as the likeliest
    seed: int | None = None  # None and -1 draw a fresh one
    use_beam_search: bool = False
    length_penalty: float = 1.0  # beam search: exponent of the length that scores are divided by
    early_stopping: bool | Literal["never"] = False  # beam search: when a full set of finished beams ends it
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None: up to the end of the context
    min_tokens: int = 0  # generate at least so many tokens
    logprobs: int | None = None  # likeliest tokens to report per position; 0 is the chosen one only, -1 is all
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logit_bias: dict[int, float] | None = None  # added to the logits of these token ids
    allowed_token_ids: list[int] | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    extra_args: dict[str, Any] | None = None  # what rules of plugins and logits processors read
    structured_outputs: StructuredOutputsParams | dict[str, Any] | None = None  # what the text must be
    guided_decoding: GuidedDecodingParams | dict[str, Any] | None = None  # the old name of `structured_outputs`
    logits_processors: list[Callable[..., Any]] | None = None  # change the logits: (output ids, logits) -> logits
    truncate_prompt_tokens: int | None = None  # keep so many of a prompt's last tokens; -1: as many as fit

    def __post_init__(self) -> None:
        for name, (low, high, optional) in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None or not optional:
                setattr(self, name, _integer(name, value, low, high))
        for name, interval in _NUMBERS.items():
            setattr(self, name, interval.check(name, getattr(self, name)))
        for name in _FLAGS:
            _flag(name, getattr(self, name))
        if self.seed == -1:
            self.seed = None
        self._check_collections()
        self._check_structure()
        self._check_together()
        if not isinstance(self.output_kind, RequestOutputKind):
            raise ParameterError("output_kind", self.output_kind, "a RequestOutputKind")
        self._refuse_unsupported()

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken at every position."""
        return self.temperature < GREEDY_BELOW

    @property
    def num_sequences(self) -> int:
        """Sequences that the request runs at once."""
        return self.n if self.best_of is None else self.best_of

    def clone(self) -> SamplingParams:
        """An independent copy, checked again."""
        return replace(self)

    @classmethod
    def from_optional(cls, **fields: Any) -> SamplingParams:
        """Like the constructor, for a parsed request: None stands for the default, except in `max_tokens`;
        `logit_bias` may have text keys, and is clamped to [-100, 100]."""
        bias = fields.get("logit_bias")
        if isinstance(bias, Mapping):
            fields["logit_bias"] = dict(_parsed_bias(token, value) for token, value in bias.items())
        return cls(**{name: value for name, value in fields.items() if value is not None or name == "max_tokens"})

    def _check_collections(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        self.stop = _texts("stop", self.stop, MAX_STOP_STRINGS)
        self.bad_words = _texts("bad_words", self.bad_words, MAX_BAD_WORDS)
        self.stop_token_ids = _token_ids("stop_token_ids", self.stop_token_ids)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise ParameterError("allowed_token_ids", [], "None or at least one token id")
        if self.logit_bias is not None:
            self.logit_bias = _biases(self.logit_bias)
        processors = _list("logits_processors", self.logits_processors, MAX_PROCESSORS)
        if not all(map(callable, processors)):
            raise ParameterError("logits_processors", self.logits_processors, "a list of functions")

    def _check_structure(self) -> None:
        old, new = self.guided_decoding or None, self.structured_outputs or None
        if old is not None and new is not None:
            raise ParameterError("guided_decoding", old, "None beside structured_outputs, which is its new name")
        name = "structured_outputs" if old is None else "guided_decoding"
        self.structured_outputs, self.guided_decoding = read_params(name, new or old), None
        if self.structured_outputs is not None and self.use_beam_search:
            raise UnsupportedError(name, new or old, "not supported together with beam search")

    def _check_together(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError("min_tokens", self.min_tokens, f"at most max_tokens={self.max_tokens}")
        if self.best_of is not None and self.best_of < self.n:
            raise ParameterError("best_of", self.best_of, f"at least n={self.n}")
        if self.stop and not self.detokenize:
            raise ParameterError("stop", self.stop, "empty where detokenize=False: there is no text to search")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ParameterError("early_stopping", self.early_stopping, 'True, False or "never"')
        if self.use_beam_search:
            self._check_beam_search()
        else:
            self._check_sampling()

    def _check_sampling(self) -> None:
        if self.is_greedy and self.num_sequences > 1:
            name = "n" if self.n > 1 else "best_of"
            raise ParameterError(name, self.num_sequences, "1 for greedy sampling (temperature=0): all would be equal")
        if self.early_stopping is not False:
            raise ParameterError("early_stopping", self.early_stopping, "False without use_beam_search")
        if self.length_penalty != 1.0:
            raise ParameterError("length_penalty", self.length_penalty, "1.0 without use_beam_search")

    def _check_beam_search(self) -> None:
        if self.num_sequences < 2:
            raise ParameterError("best_of", self.best_of, "at least 2 with use_beam_search: it is the beam's width")
        neutral = {
            "temperature": self.is_greedy,
            "top_p": self.top_p == 1,
            "top_k": self.top_k < 1,
            "min_p": self.min_p == 0,
        }
        for name, is_neutral in neutral.items():
            if not is_neutral:
                allowed = f"{1 if name == 'top_p' else 0} with use_beam_search"
                raise ParameterError(name, getattr(self, name), allowed)

    def _refuse_unsupported(self) -> None:
        if not isinstance(self.extra_args, Mapping | None):
            raise ParameterError("extra_args", self.extra_args, "a dict of what rules and logits processors read")
        if self.truncate_prompt_tokens == 0:
            raise ParameterError("truncate_prompt_tokens", 0, "at least 1, or -1")


@dataclass(slots=True)
class BeamSearchParams:
    """Beam search: keep the `beam_width` likeliest continuations at every step."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        self.beam_width = _integer("beam_width", self.beam_width, 1, MAX_SEQUENCES)
        self.max_tokens = _integer("max_tokens", self.max_tokens, 1, _MAX_INT)
        self.temperature = _NUMBERS["temperature"].check("temperature", self.temperature)
        self.length_penalty = _NUMBERS["length_penalty"].check("length_penalty", self.length_penalty)
        _flag("ignore_eos", self.ignore_eos)
        _flag("include_stop_str_in_output", self.include_stop_str_in_output)

    def clone(self) -> BeamSearchParams:
        """An independent copy, checked again."""
        return replace(self)


@dataclass(frozen=True, slots=True)
class _Interval:
    """The finite numbers from `low` to `high`, and how to say that."""

    low: float
    high: float
    allowed: str

    def check(self, name: str, value: Any) -> float:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        try:
            number = float(value) if is_number else math.nan
        except OverflowError:
            number = math.nan
        if not self.low <= number <= self.high:  # also where it is NaN
            raise ParameterError(name, value, self.allowed)
        return number


_LARGEST, _SMALLEST = sys.float_info.max, sys.float_info.min
_FINITE = _Interval(-_LARGEST, _LARGEST, "a finite number")
_NUMBERS = {
    "presence_penalty": _Interval(-2, 2, "a number from -2 to 2"),
    "frequency_penalty": _Interval(-2, 2, "a number from -2 to 2"),
    "repetition_penalty": _Interval(0.01, 100, "a number from 0.01 to 100"),
    "temperature": _Interval(0, _LARGEST, "a finite number, at least 0"),
    "top_p": _Interval(_SMALLEST, 1, "a number above 0, at most 1"),
    "min_p": _Interval(0, 1, "a number from 0 to 1"),
    "length_penalty": _Interval(-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY, "a number from -10 to 10"),
}
_INTEGERS = {  # name: lowest, highest, whether None is allowed
    "n": (1, MAX_SEQUENCES, False),
    "best_of": (1, MAX_SEQUENCES, True),
    "top_k": (-1, _MAX_INT, False),
    "seed": (-(2**63), 2**64 - 1, True),
    "max_tokens": (1, _MAX_INT, True),
    "min_tokens": (0, _MAX_INT, False),
    "logprobs": (-1, _MAX_INT, True),
    "prompt_logprobs": (-1, _MAX_INT, True),
    "truncate_prompt_tokens": (-1, _MAX_INT, True),
}
_FLAGS = (
    "use_beam_search",
    "include_stop_str_in_output",
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        raise ParameterError(name, value, f"an integer from {low} to {high}")
    return int(value)


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ParameterError(name, value, "True or False")


def _list(name: str, value: Any, longest: int) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ParameterError(name, value, "a list")
    if len(value) > longest:
        raise ParameterError(name, f"{len(value)} entries", f"at most {longest} entries")
    return list(value)


def _texts(name: str, value: Any, longest: int) -> list[str]:
    """`value` without repetitions; None is an empty list."""
    texts = _list(name, value, longest)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ParameterError(name, text, "texts of at least one character")
        if len(text) > MAX_TEXT_LENGTH:
            raise ParameterError(name, f"{len(text)} characters", f"texts of at most {MAX_TEXT_LENGTH} characters")
    return list(dict.fromkeys(texts))


def _token_ids(name: str, value: Any) -> list[int]:
    """`value` without repetitions; None is an empty list."""
    tokens = _list(name, value, MAX_TOKEN_IDS)
    return list(dict.fromkeys(_integer(name, token, 0, _MAX_INT) for token in tokens))


def _biases(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise ParameterError("logit_bias", value, "a dict of token ids and numbers")
    return {
        _integer("logit_bias: token id", token, 0, _MAX_INT): _FINITE.check("logit_bias: value", bias)
        for token, bias in value.items()
    }


def _parsed_bias(token: Any, bias: Any) -> tuple[Any, Any]:
    """A JSON entry of `logit_bias`: text and a number to clamp. The constructor refuses what is neither."""
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 10:
        token = int(token)
    is_number = isinstance(bias, numbers.Real) and not isinstance(bias, bool)
    return token, min(100.0, max(-100.0, bias)) if is_number and bias == bias else bias
