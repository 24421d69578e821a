"""The errors that the library raises on purpose; cli/, client/ and server/ have further OctavoErrors of their own.

OctavoError
├── ConfigError              an argument, flag or environment variable has a bad value (also a ValueError)
│   └── UnsupportedError     it is known, but not supported here
├── MemoryPlanError          the model and its KV cache do not fit; the message has the arithmetic
├── ModelLoadError           a file of the model is missing, corrupt, truncated or lies
│   └── UnknownArchitectureError
├── ModelNotFoundError       a model reference leads nowhere
├── EngineFailedError        a step failed as a whole, and every request in it with it
└── RequestError             one request can't be carried out; others go on (also a ValueError)
    ├── ParameterError       a sampling parameter is out of range
    │   ├── NoTokenError         the parameters together leave no token to choose
    │   └── GrammarError         a schema, regex or grammar can't be honoured
    ├── PromptError          the prompt is empty, or has token ids outside the vocabulary
    │   ├── PromptTooLongError
    │   └── ChatTemplateError    there is none, or it failed
    ├── AudioError           audio can't be decoded, or is longer, wider or louder than allowed
    ├── NumericalError       the model gave NaN or infinite logits for this request
    ├── RequestFailedError   a mistake of Octavo's own ended it
    └── RequestAbortedError
        └── SlowReaderError      its outputs were not read
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import Any


def one_line(text: str, limit: int = 200) -> str:
    """Text from a file or another program, made fit for an error message; of a long one the middle is left out."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-limit // 2 :]}"
    text = " ".join(text.split())
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Which of `known` look most like `word`, for an error message."""
    return f"the nearest that are: {', '.join(difflib.get_close_matches(word[:200], list(known), 4, 0))}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to an error about an unknown name; nothing if no known one is like it."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


class OctavoError(Exception):
    """Base of all errors raised on purpose; its text is one line made for the user."""


class ConfigError(OctavoError, ValueError):
    """An argument, flag or environment variable has a bad value."""

    def __init__(self, name: str, value: Any, reason: str):
        super().__init__(f"{name}={_shown(value)}: {reason}")
        self.name, self.value, self.reason = name, value, reason


class UnsupportedError(ConfigError):
    """The option is known, but what it asks for is not supported here."""


class MemoryPlanError(OctavoError):
    """The model, its workspace and its KV cache do not fit into the memory that there is.

    `arithmetic` says what does not fit, and the text goes on with what would. `longest` are the tokens of a request
    that would fit with everything else as it is; 0 if none would.
    """

    def __init__(self, arithmetic: str, ways: str = "", longest: int = 0):
        super().__init__(f"{arithmetic}; {ways}" if ways else arithmetic)
        self.arithmetic, self.ways, self.longest = arithmetic, ways, longest


class ModelLoadError(OctavoError):
    """A model file is missing, corrupt, truncated, or contradicts itself.

    `file` is the path, `field` names the part of the file (a header entry, a tensor), `reason` says what is wrong. Both
    may quote the file, so they are made one line of a bounded length here.
    """

    def __init__(self, file: str | os.PathLike[str], field: str, reason: str):
        field, reason = one_line(field), one_line(reason, 800)
        super().__init__(f"{os.fspath(file)}: {field}: {reason}")
        self.file, self.field, self.reason = os.fspath(file), field, reason


class UnknownArchitectureError(ModelLoadError):
    """The checkpoint names an architecture that has no declaration in `octavo.models`."""


class ModelNotFoundError(OctavoError):
    """A model reference leads to no files; `is_uncached` if there was none in the cache, and nobody could be asked."""

    def __init__(self, message: str, *, is_uncached: bool = False):
        super().__init__(message)
        self.is_uncached = is_uncached


class EngineFailedError(OctavoError):
    """A step failed as a whole, and every request in it with it. The next ones may do better."""


class RequestError(OctavoError, ValueError):
    """One request can't be carried out. Others are not disturbed."""


class ParameterError(RequestError):
    """A sampling parameter is out of range."""

    def __init__(self, name: str, value: Any, allowed: str):
        super().__init__(f"{name} must be {allowed}, got {_shown(value)}")
        self.name, self.value, self.allowed = name, value, allowed


class NoTokenError(ParameterError):
    """The parameters `names` of a request together ban every token, from the start or somewhere in its text."""

    def __init__(self, names: Sequence[str]):
        self.name = ", ".join(names)
        reason = "together they leave no token to choose; allow more tokens, or ban fewer"
        RequestError.__init__(self, f"{self.name}: {reason}")


class GrammarError(ParameterError):
    """A schema, regex or grammar can't be honoured. `name` is the path of the field, or of a keyword in it."""

    def __init__(self, name: str, reason: str):
        self.name, self.reason = one_line(name, 300), one_line(reason, 400)
        RequestError.__init__(self, f"{self.name}: {self.reason}")


class PromptError(RequestError):
    """The prompt is empty, or has token ids outside the vocabulary."""


class PromptTooLongError(PromptError):
    """The prompt is longer than the model's context, or leaves no room in it for one new token."""

    def __init__(self, num_tokens: int, max_model_len: int, room: int = 1):
        """`room` is that for an answer."""
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens, but the prompt has {num_tokens}; "
            f"shorten it to at most {max_model_len - room}, or raise max_model_len if the model allows it"
        )
        self.num_tokens, self.max_model_len = num_tokens, max_model_len


class ChatTemplateError(PromptError):
    """The model has no chat template, or the template failed on these messages."""


class AudioError(RequestError):
    """Audio can't be read or decoded, or breaks a limit.

    `name` is the file's name or the field that held it, `reason` says what is wrong.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class NumericalError(RequestError):
    """The model produced NaN or infinite logits for this request."""

    def __init__(self) -> None:
        super().__init__(
            "no token can be chosen: the model gave NaN or infinite logits, or its own rules ban every token"
        )


class RequestFailedError(RequestError):
    """A mistake of Octavo's own ended the request. Others are not disturbed."""


class RequestAbortedError(RequestError):
    """The request was aborted before it finished."""


class SlowReaderError(RequestAbortedError):
    """More outputs waited for their reader than may wait."""


def _shown(value: Any) -> str:
    """`value` as Python writes it, or how it begins."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}…"
