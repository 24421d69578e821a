"""Turns a conversation into token ids, so that what users write never becomes a control token."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import AddedToken

from octavo.errors import ChatTemplateError
from octavo.text.chat_template import ChatTemplate, check_kwargs, check_messages, plain
from octavo.text.tokenizer import Tokenizer

_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "model")


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered conversation, and its token ids."""

    text: str
    token_ids: list[int]


class ChatEncoder:
    """Renders and tokenizes conversations. It can be used from several threads.

    Control tokens are the tokenizer's special tokens, and its other added tokens that the template writes.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None = None):
        """`template` is the tokenizer's own unless another one is given."""
        self.tokenizer = tokenizer
        if template is None:
            template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
        self.template = template

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> ChatPrompt:
        """The prompt of a conversation. Raises ChatTemplateError, or PromptError if it is not Unicode.

        The ids are those of the rendered text, unless a string of the caller spells a control token: that is
        encoded as the plain text it is. `add_special_tokens` puts those of a text around what the template wrote.
        """
        source = self.template.source or ""
        chat = check_messages(messages, has_developer_role="developer" in source)
        self._check_roles(chat)
        check_kwargs(template_kwargs or {}, self.template.special_tokens)
        inputs = {"messages": chat, "tools": tools, "documents": documents, **(template_kwargs or {})}
        inputs = plain(inputs, "chat template variables")

        def render(inputs: dict[str, Any]) -> str:
            return self.template.render(
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **inputs,
            )

        if not any(self._control.search(text) for text in _strings(inputs)):
            text = render(inputs)
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            # Control tokens that the text does not spell come from its normalization.
            if sum(i in self._control_ids for i in ids) == sum(1 for _ in self._control.finditer(text)):
                return self._finished(ChatPrompt(text, ids), add_special_tokens)
        return self._finished(self._encode_carefully(render, inputs), add_special_tokens)

    def _finished(self, prompt: ChatPrompt, add_special_tokens: bool) -> ChatPrompt:
        ids = prompt.token_ids
        return ChatPrompt(prompt.text, self.tokenizer.with_special_tokens(ids)) if add_special_tokens else prompt

    def _encode_carefully(self, render: Callable[[dict[str, Any]], str], inputs: dict[str, Any]) -> ChatPrompt:
        """Renders with marks around the control tokens that users spell, and encodes those as text."""
        # Letters and digits stay as they are in JSON and in repr, and nobody can forge the marks.
        nonce = secrets.token_hex(8)
        before, after = f"a{nonce}", f"z{nonce}"
        marked = render(_map_strings(inputs, lambda text: self._control.sub(rf"{before}\g<0>{after}", text)))
        backend, private, original = self._literal_backend
        # [text, what is between two marks, text, …], with None for a mark whose partner the template cut off.
        pieces = re.split(f"{before}((?:(?!{before}).)*?){after}|{before}|{after}", marked, flags=re.S | re.I)
        protected = [
            piece if i % 2 and piece in private else self._control.sub(lambda found: private[found[0]], piece)
            for i, piece in enumerate(pieces)
            if piece
        ]
        ids = backend.encode_batch_fast(["".join(protected)], add_special_tokens=False)[0].ids  # without the GIL
        if spelled := self._control_ids.intersection(ids):
            token = self.tokenizer.token(min(spelled))
            raise ChatTemplateError(f"a message spells the control token {token!r}, and the tokenizer can't avoid it")
        return ChatPrompt("".join(filter(None, pieces)), [original.get(i, i) for i in ids])

    @cached_property
    def _control_texts(self) -> list[str]:
        """Longest first, so that a token wins over those that are part of it."""
        source = self.template.source or ""
        texts = {
            token.content
            for token in self.tokenizer.added_tokens.values()
            if token.special or (token.content in source and not token.content.isspace())
        }
        return sorted(texts, key=lambda text: (-len(text), text))

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._control_texts)) or "(?!)")

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        texts = set(self._control_texts)
        return frozenset(i for i, token in self.tokenizer.added_tokens.items() if token.content in texts)

    def _check_roles(self, chat: list[dict[str, Any]]) -> None:
        """Templates glue roles into control tokens, as in `'<|' + message['role'] + '|>'`."""
        for i, message in enumerate(chat):
            role = message["role"]
            if role not in _ROLES and any(role in text for text in self._control_texts):
                raise ChatTemplateError(f"messages[{i}].role must not be {role[:40]!r}, a part of a control token")

    @cached_property
    def _literal_backend(self) -> tuple[tokenizers.Tokenizer, dict[str, str], dict[int, int]]:
        """(a tokenizer that has private names for control tokens, text → private name, its ids → usual ids).

        It shares the model with the usual one, so a control token's text is plain text to it, and all rules
        about what happens beside an added token are the same.
        """
        usual = self.tokenizer.backend
        backend = tokenizers.Tokenizer(usual.model)
        if usual.normalizer is not None:
            backend.normalizer = usual.normalizer
        if usual.pre_tokenizer is not None:
            backend.pre_tokenizer = usual.pre_tokenizer
        nonce = secrets.token_hex(16)  # nobody can write a private name
        private: dict[str, str] = {}
        names: dict[str, int] = {}
        added: list[AddedToken] = []
        for token_id, token in sorted(self.tokenizer.added_tokens.items()):
            name, normalized = token.content, token.normalized
            if token_id in self._control_ids:
                name, normalized = f"\ue0c4{nonce}.{token_id}\ue0c5", False
                private[token.content] = name
            names[name] = token_id
            flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
            added.append(AddedToken(name, normalized=normalized, special=False, **flags))
        backend.add_tokens(added)
        return backend, private, {_id(backend, name): token_id for name, token_id in names.items()}


def _id(backend: tokenizers.Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    assert found is not None  # it was added
    return found


def _strings(value: Any) -> Iterator[str]:
    """All strings in a plain value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _map_strings(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return function(value)
    if isinstance(value, dict):
        return {function(key): _map_strings(item, function) for key, item in value.items()}
    return [_map_strings(item, function) for item in value] if isinstance(value, list) else value
