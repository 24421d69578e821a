"""POST /v1/chat/completions: the request, and the JSON of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from octavo.engine.loading import LoadedModel
from octavo.errors import ChatTemplateError
from octavo.sampling_params import SamplingParams
from octavo.server.errors import HttpError
from octavo.server.protocol.common import (
    MAX_INT,
    NOT_YET,
    REFUSED_BY_BOTH,
    UNUSED,
    Name,
    Neutral,
    RequestModel,
    SamplingFields,
)
from octavo.server.protocol.tools import MAX_TOOLS, ToolCall, ToolFields
from octavo.text.chat_template import check_kwargs

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_METADATA = 16


class TextPart(RequestModel):
    type: Literal["text"]
    text: str
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "cache_control": ((None,), NOT_YET),
        **dict.fromkeys(
            ("image_url", "video_url", "input_audio", "file", "refusal"), ((), "is not supported: contents are text")
        ),
    }


Parts = Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]
Content = str | Parts


class Message(RequestModel):
    """One message. What was thought in an earlier answer may be under either of two names."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Content | None = None
    name: Name | None = None
    tool_call_id: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **dict.fromkeys(("refusal", "audio", "function_call"), ((None,), NOT_YET)),
        "annotations": ((None, []), NOT_YET),
    }

    @property
    def text(self) -> str:
        """The content in one piece."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def plain(self) -> dict[str, Any]:
        """The message as a chat template takes it: most templates read a content in any case."""
        return {"content": "", **self.model_dump(exclude_none=True)}


def check_few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise ValueError(f"at most {MAX_METADATA} entries")
    return value


Conversation = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class TemplateFields(RequestModel):
    """What to do with a conversation besides its messages."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None

    def check(self) -> None:
        """What fields say together. Raises HttpError."""
        if self.continue_final_message and self.add_generation_prompt:
            reason = "continue_final_message: not together with add_generation_prompt=true"
            raise HttpError(reason, "continue_final_message", code="invalid_value")

    @property
    def generation_prompt(self) -> bool:
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    def template_options(self) -> dict[str, Any]:
        """What ChatEncoder.encode is told."""
        return {
            "add_generation_prompt": self.generation_prompt,
            "continue_final_message": bool(self.continue_final_message),
            "add_special_tokens": bool(self.add_special_tokens),
            "template_kwargs": self.chat_template_kwargs,
        }


class ChatFields(SamplingFields, ToolFields, TemplateFields):
    """How to answer a conversation."""

    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(None, description="-1: all of them")
    echo: bool | None = Field(None, description="put a last message of the answer's role before the answer")
    add_special_tokens: bool | None = Field(None, description="besides those that the template writes")
    documents: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    metadata: Annotated[dict[str, Name], BeforeValidator(check_few)] | None = Field(None, description=UNUSED)
    safety_identifier: Name | None = Field(None, description=UNUSED)
    prompt_cache_key: Name | None = Field(None, description="taken, and not used: all prefixes are cached")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    enable_thinking: bool | None = Field(None, description="whether the model thinks, where its template can say it")
    thinking_token_budget: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        None, description="thinking is ended after so many tokens; -1: never"
    )
    include_reasoning: bool | None = Field(None, description="whether answers show what was thought; left out: they do")
    PROMPTS = "messages"
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **{name: value for name, value in REFUSED_BY_BOTH.items() if name != "thinking_token_budget"},
        **ToolFields.REFUSED,
        **dict.fromkeys(("audio", "prediction"), ((None,), NOT_YET)),
        "modalities": ((None, ["text"]), "may only be ['text']"),
        "verbosity": ((None, "medium"), NOT_YET),
        "chat_template": ((None,), "of a request is refused; start the server with --chat-template FILE"),
    }

    def check(self) -> None:
        super().check()
        self.check_tools()
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            reason = f"max_completion_tokens={both[1]} contradicts max_tokens={both[0]}; give one of them"
            raise HttpError(reason, "max_completion_tokens", code="invalid_value")
        if self.top_logprobs and not self.logprobs:
            raise HttpError("top_logprobs: only with logprobs=true", "top_logprobs", code="invalid_value")
        for name, limit in (("chat_template_kwargs", 1024), ("documents", 1 << 14)):
            if _num_values(getattr(self, name)) > limit:
                raise HttpError(f"{name}: more than {limit} values", name, code="invalid_value")
        try:
            check_kwargs(self.chat_template_kwargs or {}, {})
        except ChatTemplateError as error:
            raise HttpError(str(error), "chat_template_kwargs", code="invalid_value") from None
        TemplateFields.check(self)

    @property
    def asked_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def params(self, model: LoadedModel) -> SamplingParams:
        more: dict[str, Any] = {}
        if self.asked_tokens is not None:
            more["max_tokens"] = self.asked_tokens
        if self.logprobs:
            more["logprobs"] = self.top_logprobs or 0
        return self.make_params(model, None, more)

    def template_options(self) -> dict[str, Any]:
        return {
            **super().template_options(),
            "documents": self.documents,
            "effort": self.reasoning_effort,
            "enable_thinking": self.enable_thinking,
        }


class ChatRequest(ChatFields):
    """A conversation to answer."""

    messages: Conversation

    @property
    def prompts(self) -> list[list[Message]]:
        return [self.messages]


class ChatBatchRequest(ChatFields):
    """Conversations to answer, each by one choice of the answer."""

    messages: Annotated[list[Conversation], Field(min_length=1, fail_fast=True)]

    def check(self) -> None:
        one_each = {
            "stream": self.stream,
            "n": self.n not in (None, 1),
            "best_of": self.best_of not in (None, 1),
            "use_beam_search": self.use_beam_search,
        }
        for name, is_asked in one_each.items():
            if is_asked:
                reason = f"{name}: not for a batch; each conversation gets one answer, in one piece"
                raise HttpError(reason, name, code="unsupported_parameter")
        super().check()

    @property
    def prompts(self) -> list[list[Message]]:
        return self.messages


def _num_values(value: Any) -> int:
    """The number of values in a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_num_values, value)) + 1 if isinstance(value, list) else 1
