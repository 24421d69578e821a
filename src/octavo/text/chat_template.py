"""Turns a conversation into a prompt with the model's own Jinja template."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from octavo.errors import ChatTemplateError

if TYPE_CHECKING:
    import jinja2

MAX_SOURCE = 1 << 18
MISSING = (
    "the model has no chat template: pass one with the chat_template= argument or --chat-template FILE, "
    "or complete plain text instead, with generate or --no-chat"
)
# Names that belong to `render` or to Hugging Face's `apply_chat_template`: a request must not change them.
_RESERVED = """
    messages tools documents add_generation_prompt continue_final_message chat_template tokenize return_dict
    return_tensors padding truncation max_length return_assistant_tokens_mask tokenizer_kwargs conversation
    raise_exception strftime_now range dict namespace loop self caller varargs kwargs
"""
RESERVED = frozenset(_RESERVED.split())
# Appended to the message that is to be continued, then found again in the prompt. The space shows whether the
# template trims its messages.
_CONTINUE_HERE = "\ue0c0continue\ue0c1 "


class ChatTemplate:
    """A chat template. It is compiled when it is first used; `render` can be called from several threads.

    `special_tokens` (bos_token, eos_token …) are variables of the template.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str] | None = None):
        self.source = source
        self.special_tokens = dict(special_tokens or {})
        self._template: jinja2.Template | None = None
        self._lock = threading.Lock()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt of a conversation, as transformers' `apply_chat_template(tokenize=False)` makes it.

        `continue_final_message` leaves the last message open, and needs `add_generation_prompt=False`.
        `kwargs` are further variables of the template. Raises ChatTemplateError if there is no template, if
        messages or variables are malformed, or if the template fails or goes beyond its limits.
        """
        template = self._compiled()
        chat = check_messages(messages, has_developer_role="developer" in (self.source or ""))
        check_kwargs(kwargs, self.special_tokens)
        variables = plain({"tools": tools, "documents": documents, **kwargs}, "chat template variables")
        if continue_final_message:
            _mark_final_message(chat, add_generation_prompt)
        # The limit follows from what goes in: a prompt is the messages and a little around them.
        max_chars = 4 * (text_size(chat) + text_size(variables)) + (1 << 20)
        prompt = self._run(
            template,
            max_chars,
            {
                **self.special_tokens,
                **variables,
                "messages": chat,
                "add_generation_prompt": add_generation_prompt,
            },
        )
        return _cut_at_mark(prompt) if continue_final_message else prompt

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template reads. Raises ChatTemplateError if there is none, or if it is malformed."""
        self._compiled()
        from jinja2.meta import find_undeclared_variables

        from octavo.text.template_sandbox import ChatTemplateEnvironment

        return frozenset(find_undeclared_variables(ChatTemplateEnvironment().parse(self.source or "")))

    def _compiled(self) -> jinja2.Template:
        with self._lock:
            if self._template is None:
                if self.source is None:
                    raise ChatTemplateError(MISSING)
                if len(self.source) > MAX_SOURCE:
                    raise ChatTemplateError(f"the chat template has more than {MAX_SOURCE} characters")
                from octavo.text.template_sandbox import ChatTemplateEnvironment

                try:
                    self._template = ChatTemplateEnvironment().from_string(self.source)
                except Exception as error:
                    raise ChatTemplateError(f"the chat template is malformed: {_one_line(error)}") from None
            return self._template

    def _run(self, template: jinja2.Template, max_chars: int, variables: dict[str, Any]) -> str:
        from octavo.text.template_limits import limited

        pieces: list[str] = []
        size = 0
        try:
            with limited(max_chars):
                for piece in template.generate(variables):
                    pieces.append(piece)
                    size += len(piece)
                    if size > max_chars:
                        raise ChatTemplateError(f"the chat template makes more than {max_chars} characters")
        except ChatTemplateError:
            raise
        except Exception as error:
            raise ChatTemplateError(f"the chat template failed: {_one_line(error)}") from None
        return "".join(pieces)


def check_messages(messages: Any, has_developer_role: bool = True) -> list[dict[str, Any]]:
    """A copy of the messages for a template, or ChatTemplateError.

    The text parts of a content are joined by newlines, and keys without a value are dropped, since many
    templates can't handle them. The role `developer` becomes `system` unless the template has it.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ChatTemplateError("messages must be a non-empty list of objects with a role and a content")
    return [_message(message, f"messages[{i}]", has_developer_role) for i, message in enumerate(messages)]


def _message(message: Any, name: str, has_developer_role: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"{name} must be an object with a role and a content")
    if not isinstance(message.get("role"), str):
        raise ChatTemplateError(f"{name}.role must be a string")
    checked: dict[str, Any] = {k: v for k, v in plain(message, name).items() if v is not None}
    if checked["role"] == "developer" and not has_developer_role:
        checked["role"] = "system"
    content = checked.get("content")
    if isinstance(content, list):
        checked["content"] = "\n".join(_part(part, f"{name}.content[{i}]") for i, part in enumerate(content))
    elif content is not None and not isinstance(content, str):
        raise ChatTemplateError(f"{name}.content must be a string, null or a list of parts")
    return checked


def _part(part: Any, name: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        raise ChatTemplateError(f"{name}.text must be a string")
    raise ChatTemplateError(f"{name} is of type {str(kind)[:40]!r}; this model takes only parts of type 'text'")


def check_kwargs(kwargs: Mapping[str, Any], special_tokens: Mapping[str, str]) -> None:
    """Raises ChatTemplateError for a variable that a request may not set."""
    for name in kwargs:
        if name in RESERVED or name in special_tokens or name.startswith("_"):
            raise ChatTemplateError(f"chat template variable {name!r} is reserved")


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy made of JSON's types only: the sandbox can't know what the methods of other objects do."""
    if depth > 64:
        raise ChatTemplateError(f"{name} is nested more than 64 deep")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): plain(item, name, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name, depth + 1) for item in value]
    raise ChatTemplateError(f"{name} has a {type(value).__name__}, which is not JSON")


def text_size(value: Any) -> int:
    """The characters in all strings of a plain value, and a few for everything else."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + text_size(item) for key, item in value.items())
    return sum(map(text_size, value)) if isinstance(value, list) else 8


def _mark_final_message(chat: list[dict[str, Any]], add_generation_prompt: bool) -> None:
    if add_generation_prompt:
        raise ChatTemplateError("continue_final_message=True needs add_generation_prompt=False")
    if "content" not in chat[-1]:
        raise ChatTemplateError("continue_final_message=True, but the last message has no content to continue")
    chat[-1]["content"] += _CONTINUE_HERE


def _cut_at_mark(prompt: str) -> str:
    cut = prompt.rfind(_CONTINUE_HERE.strip())
    if cut < 0:
        raise ChatTemplateError("continue_final_message=True, but the template changes or drops the last message")
    is_trimmed = not prompt.startswith(_CONTINUE_HERE, cut)
    return prompt[:cut].rstrip() if is_trimmed else prompt[:cut]


def _one_line(error: Exception) -> str:
    return " ".join(f"{error or type(error).__name__}".split())[:300]
