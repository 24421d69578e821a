"""Which formats a model writes: what its chat template writes says it, unless the user does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from octavo.chat_formats.syntax import CallFormat, Thinking
from octavo.chat_formats.table import CALL_FORMATS
from octavo.chat_formats.thinking import THINKING
from octavo.errors import ConfigError, did_you_mean

Entry = TypeVar("Entry", bound=CallFormat | Thinking)


def find_calls(template: str, parser: str | None = None) -> CallFormat:
    """The format of calls that has vLLM's name `parser`, or else that of a chat template.

    Raises ConfigError for a name that is not known, or that says how to write what the template tells no model of.
    """
    found = _detected(template)
    if parser is None or parser in (*found.parsers, found.name):
        return found
    named = _named("tool_call_parser", parser, CALL_FORMATS)
    if found.prompted and template and named.name != "hermes":
        reason = "the chat template tells of no tools; leave it out, or give one that does with chat_template"
        raise ConfigError("tool_call_parser", parser, reason)
    return found if found.prompted else named


def _detected(template: str) -> CallFormat:
    for calls in CALL_FORMATS:
        if any(all(mark in template for mark in marks) for marks in calls.detect):
            return calls
    return _named("tool_call_parser", "hermes" if "tools" in template else "generic", CALL_FORMATS)


def find_thinking(template: str, parser: str | None = None) -> Thinking | None:
    """The marks of thinking that have vLLM's name `parser`, or else those of a chat template. Raises ConfigError."""
    if parser is not None:
        return _named("reasoning_parser", parser, THINKING)
    return next((thinking for thinking in THINKING if (thinking.detect or thinking.end) in template), None)


def check_parsers(tool_call_parser: str | None, reasoning_parser: str | None) -> None:
    """Raises ConfigError for a name that is not known."""
    find_calls("", tool_call_parser)
    find_thinking("", reasoning_parser)


def _named(option: str, name: str, entries: Sequence[Entry]) -> Entry:
    found = next((entry for entry in entries if name in (*entry.parsers, entry.name)), None)
    if found is not None:
        return found
    known = list(dict.fromkeys(_names(entries)))
    raise ConfigError(option, name, f"must be one of {', '.join(known)}{did_you_mean(name, known)}")


def _names(entries: Iterable[CallFormat | Thinking]) -> Iterable[str]:
    for entry in entries:
        yield from entry.parsers or (entry.name,)
