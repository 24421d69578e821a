"""POST /v1/responses, OpenAI's API for agents: the request, as a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from octavo.server.errors import HttpError
from octavo.server.protocol.chat import check_few
from octavo.server.protocol.common import (
    MAX_INT,
    NOT_YET,
    UNUSED,
    Name,
    Neutral,
    RequestModel,
    kind_of,
)
from octavo.server.protocol.response_items import Items, say
from octavo.server.protocol.tools import MAX_TOOLS, ToolName
from octavo.server.protocol.translation import Conversation, Json

MAX_TOP_LOGPROBS = 20
LOGPROBS = "message.output_text.logprobs"  # what `include` calls them
# (pattern of a chat completion's fields, what they are called here)
NAMES = (
    (r"max_(completion_)?tokens", "max_output_tokens"),
    (r"tools(\[\d+\])?\.function", r"tools\1"),
    (r"tool_choice\.(function|allowed_tools)", "tool_choice"),
    (r"response_format(\.json_schema)?", "text.format"),
    (r"reasoning_effort", "reasoning.effort"),
    (r"(input.*)\.tool_call_id", r"\1.call_id"),
    (r"(input.*)\.tool_calls(\[\d+\])?(\.function)?", r"\1"),
    (r"messages", "input"),
)
Metadata = Annotated[dict[Name, Name], BeforeValidator(check_few)]


class ResponseTool(RequestModel):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "defer_loading": ((None, False), NOT_YET),
        "allowed_callers": ((None, ["direct"]), NOT_YET),
        "output_schema": ((None,), NOT_YET),
    }


class ResponseToolName(RequestModel):
    type: Literal["function"]
    name: ToolName


class ResponseAllowedTools(RequestModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ResponseToolName], Field(max_length=MAX_TOOLS, fail_fast=True)]


class TextFormat(RequestModel):
    type: Literal["text", "json_object"]


class SchemaFormat(RequestModel):
    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(RequestModel):
    format: (
        Annotated[
            Annotated[TextFormat, Tag("<text>")]
            | Annotated[TextFormat, Tag("<json_object>")]
            | Annotated[SchemaFormat, Tag("<json_schema>")],
            Discriminator(kind_of),
        ]
        | None
    ) = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"verbosity": ((None, "medium"), NOT_YET)}


class ReasoningConfig(RequestModel):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(None, description="taken: reasoning is told whole")
    generate_summary: Literal["auto", "concise", "detailed"] | None = Field(None, description=UNUSED)
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "context": ((None, "auto"), NOT_YET),
        "mode": ((None, "standard"), NOT_YET),
    }


class ConversationId(RequestModel):
    id: Name


class ResponseStreamOptions(RequestModel):
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"include_obfuscation": ((None, False), NOT_YET)}


class ResponseFields(RequestModel):
    """A conversation, and how it is to be answered, as far as the prompt depends on it."""

    model: Name | None = Field(None, description="may be left out where one model is served")
    input: str | Items | None = None
    instructions: str | None = Field(None, description="a system message before all others")
    previous_response_id: Name | None = None
    conversation: Name | ConversationId | None = None
    tools: (
        Annotated[
            list[Annotated[Annotated[ResponseTool, Tag("<function>")], Discriminator(kind_of)]],
            Field(max_length=MAX_TOOLS, fail_fast=True),
        ]
        | None
    ) = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[
            Annotated[ResponseToolName, Tag("<function>")] | Annotated[ResponseAllowedTools, Tag("<allowed_tools>")],
            Discriminator(kind_of),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["disabled"] | None = Field(None, description="nothing is truncated unasked, nor asked")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "prompt": ((None,), "is not supported: there are no stored prompts"),
        "moderation": ((None,), NOT_YET),
        "context_management": ((None, []), NOT_YET),
        "personality": ((None,), NOT_YET),
    }

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationId) else self.conversation

    def chat(self, history: list[Json], items: list[Json]) -> tuple[Json, list[str]]:
        """The fields of a chat completion that goes on with these items, and the places of its messages."""
        conversation = Conversation()
        if self.instructions:
            conversation.say("system", [self.instructions], "instructions")
        before = "previous_response_id" if self.previous_response_id else "conversation"
        places = ["input"] if isinstance(self.input, str) else [f"input[{i}]" for i in range(len(items))]
        say([*((before, item) for item in history), *zip(places, items, strict=True)], conversation)
        if not conversation.messages:
            raise HttpError("input: this field is required", "input", code="missing_field")
        fields = {"model": self.model, "messages": conversation.messages, **self._options()}
        return fields, conversation.places

    def _options(self) -> Json:
        return {
            "tools": [chat_tool(tool) for tool in self.tools or []] or None,
            "tool_choice": chat_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls if self.tools else None,
            "response_format": _chat_format(self.text),
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
        }


class InputTokensRequest(ResponseFields):
    """A conversation whose tokens are to be counted."""


class ResponsesRequest(ResponseFields):
    """A conversation to answer."""

    background: bool | None = Field(None, description="answer at once, and go on without the client")
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(
        None, description="taken: it is about tools of the server, and there are none"
    )
    metadata: Metadata | None = None
    prompt_cache_key: Name | None = Field(None, description="taken, and not used: all prefixes are cached")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(None, description=UNUSED)
    safety_identifier: Name | None = Field(None, description=UNUSED)
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = Field(
        None, description="taken: there is one tier"
    )
    store: bool | None = Field(None, description="whether the answer can be asked for later (true)")
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    user: Name | None = Field(None, description=UNUSED)
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **ResponseFields.REFUSED,
        "prompt_cache_options": ((None,), NOT_YET),
    }

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def check(self) -> None:
        """What fields say together. Raises HttpError."""
        if self.previous_response_id and self.conversation:
            reason = "conversation: not together with previous_response_id"
            raise HttpError(reason, "conversation", code="mutually_exclusive_parameters")
        if self.background and self.store is False:
            raise HttpError("background: only with store=true", "background", code="invalid_value")

    def _options(self) -> Json:
        same = ("stream", "temperature", "top_p", "top_k", "seed")
        wants_logprobs = self.wants_logprobs or self.top_logprobs is not None
        return {
            **super()._options(),
            **{name: getattr(self, name) for name in same},
            "max_tokens": self.max_output_tokens,
            "logprobs": wants_logprobs or None,
            "top_logprobs": (self.top_logprobs or 0) if wants_logprobs else None,
        }


def chat_tool(tool: ResponseTool) -> Json:
    """As a chat completion has it."""
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def chat_choice(choice: str | ResponseToolName | ResponseAllowedTools | None) -> Any:
    """As a chat completion has it."""

    def named(tool: ResponseToolName) -> Json:
        return {"type": "function", "function": {"name": tool.name}}

    match choice:
        case ResponseToolName():
            return named(choice)
        case ResponseAllowedTools(mode=mode, tools=tools):
            allowed = {"mode": mode, "tools": [named(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice


def _chat_format(config: TextConfig | None) -> Json | None:
    if config is None or config.format is None or config.format.type == "text":
        return None
    if isinstance(config.format, TextFormat):
        return {"type": config.format.type}
    schema = config.format.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
    return {"type": "json_schema", "json_schema": schema}
