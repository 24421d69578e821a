"""How one model writes: what is asked of its chat template, and what reads its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from octavo.chat_formats.detect import find_calls, find_thinking
from octavo.chat_formats.grammar import answer_grammar
from octavo.chat_formats.harmony import HarmonyReader
from octavo.chat_formats.history import prepared
from octavo.chat_formats.ids import id_maker
from octavo.chat_formats.parts import AnswerReader, PlainReader
from octavo.chat_formats.reader import MarkedReader
from octavo.chat_formats.syntax import CallFormat, HarmonyCall, Thinking
from octavo.chat_formats.tools import ToolUse
from octavo.errors import ChatTemplateError, ParameterError
from octavo.structured.budget import ThinkingBudget
from octavo.structured.grammar import Grammar, SpecialTokens
from octavo.text.chat import ChatEncoder, ChatPrompt
from octavo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The formats of a model's calls and of its thinking, with its tokenizer and its chat template."""

    encoder: ChatEncoder
    calls: CallFormat
    thinking: Thinking | None
    special_tokens: frozenset[str]

    @classmethod
    def of(
        cls, encoder: ChatEncoder, tool_call_parser: str | None = None, reasoning_parser: str | None = None
    ) -> ChatFormat:
        """The parsers are vLLM's names of formats; the chat template says what they don't. Raises ConfigError."""
        source = encoder.template.source or ""
        return cls(
            encoder,
            find_calls(source, tool_call_parser),
            find_thinking(source, reasoning_parser),
            special_texts(encoder.tokenizer),
        )

    def __str__(self) -> str:
        return f"calls tools as {self.calls.name}, thinks as {self.thinking.name if self.thinking else 'none'}"

    def with_encoder(self, encoder: ChatEncoder) -> ChatFormat:
        return replace(self, encoder=encoder)

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        use: ToolUse | None = None,
        *,
        effort: str | None = None,
        enable_thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> ChatPrompt:
        """The prompt of a conversation; further `options` are those of ChatEncoder.encode. Raises what that raises.

        `effort` is OpenAI's reasoning_effort. Raises ChatTemplateError where the template can't say it.
        """
        tools = () if use is None else use.tools
        chat, told = prepared(messages, tools, self.calls, self.encoder.template.source or "")
        variables = {**self._thinking_variables(effort, enable_thinking), **(template_kwargs or {})}
        return self.encoder.encode(chat, tools=told, template_kwargs=variables, **options)

    def _thinking_variables(self, effort: str | None, enabled: bool | None) -> dict[str, Any]:
        """What tells the template whether, and how much, the model is to think."""
        known = self.encoder.template.variables if (effort, enabled) != (None, None) else ()
        variables: dict[str, Any] = {}
        if effort is not None:
            enabled = effort != "none" if enabled is None else enabled
            if "reasoning_effort" in known:
                variables["reasoning_effort"] = effort
        if enabled is not None:
            variables |= {name: enabled for name in ("enable_thinking", "thinking") if name in known}
        if enabled and not variables:
            name = "enable_thinking" if effort is None else "reasoning_effort"
            raise ChatTemplateError(f"{name}: the model's chat template has no word for it; leave it out")
        if enabled is False and not variables and self.thinking is not None:
            raise ChatTemplateError("the model thinks, and its chat template has no word against it")
        return variables

    def reader(self, prompt: str, use: ToolUse, drops_special_tokens: bool = True) -> AnswerReader:
        """What reads an answer to a prompt, from text that has its special tokens if `sees_special_tokens` says so."""
        dropped = self.special_tokens if drops_special_tokens else frozenset()
        if isinstance(self.calls.syntax, HarmonyCall):
            return HarmonyReader(use.callable, id_maker(self.calls), dropped)
        thinks = self.thinks(prompt)
        if not use.callable and thinks is False:
            return PlainReader()
        calls = self.calls if use.callable else None
        return MarkedReader(calls, self.thinking, thinks, use.callable, id_maker(self.calls), dropped)

    def grammar(self, prompt: str, use: ToolUse, special: SpecialTokens, body: Grammar | None = None) -> Grammar | None:
        """What an answer to a prompt may be, None where it may be anything. Raises GrammarError with a path in `tools`.

        `body` is what the answer has to be, after thinking, where it calls no tool.
        """
        return answer_grammar(self.calls, self.thinking, self.thinks(prompt), use, special, body)

    def budget(self, prompt: str, num_tokens: int) -> ThinkingBudget | None:
        """That of an answer to a prompt, None if it does not think. Raises ParameterError if the model never does."""
        if self.thinking is None:
            raise ParameterError("thinking_token_budget", num_tokens, "left out: the model does not think")
        thinks, tokenizer = self.thinks(prompt), self.encoder.tokenizer
        if thinks is False:
            return None
        begin, end = self.thinking.texts
        ids = tokenizer.encode(end, add_special_tokens=False)
        return ThinkingBudget(
            num_tokens, begin.encode(), thinks is True, end.encode(), tuple(ids), tokenizer.token_bytes
        )

    def thinks(self, prompt: str) -> bool | None:
        """Whether an answer to a prompt begins inside of thinking; None: where it says so itself."""
        if self.thinking is None:
            return False
        told = prompt.rstrip()
        if told.endswith(self.thinking.begin.rstrip()):
            return True
        if told.endswith(self.thinking.end.rstrip()):
            return False
        return True if self.thinking.always else None

    def sees_special_tokens(self, use: ToolUse) -> bool:
        """Whether special tokens have to be left in the text for the reader."""
        marks = (*self.calls.texts, *(self.thinking.texts if self.thinking else ()))
        reads = bool(use.callable) or self.thinking is not None or isinstance(self.calls.syntax, HarmonyCall)
        return reads and any(token in mark for mark in marks for token in self.special_tokens)


def special_texts(tokenizer: Tokenizer) -> frozenset[str]:
    return frozenset(token.content for token in tokenizer.added_tokens.values() if token.special and token.content)
