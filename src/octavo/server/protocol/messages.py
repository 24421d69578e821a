"""POST /v1/messages, Anthropic's API: the request, as a chat completion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from octavo.sampling_params import MAX_STOP_STRINGS
from octavo.server.errors import HttpError
from octavo.server.protocol.chat import MAX_MESSAGES, MAX_PARTS
from octavo.server.protocol.common import (
    MAX_INT,
    NOT_YET,
    UNUSED,
    Name,
    Neutral,
    RequestModel,
    ShortText,
    kind_of,
)
from octavo.server.protocol.tools import MAX_TOOLS, ToolName
from octavo.server.protocol.translation import Conversation, Json

# (pattern of a chat completion's fields, what they are called here)
NAMES = (
    (r"max_(completion_)?tokens", "max_tokens"),
    (r"stop", "stop_sequences"),
    (r"tools(\[\d+\])?\.function\.parameters", r"tools\1.input_schema"),
    (r"tools(\[\d+\])?\.function", r"tools\1"),
    (r"tool_choice\.function", "tool_choice"),
    (r"parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
    (r"response_format(\.json_schema)?", "output_config.format"),
    (r"enable_thinking", "thinking.type"),
    (r"reasoning_effort", "output_config.effort"),
    (r"thinking_token_budget", "thinking.budget_tokens"),
    (r"(messages.*)\.tool_call_id", r"\1.tool_use_id"),
)


class Cacheable(RequestModel):
    cache_control: dict[str, Any] | None = Field(None, description="taken, and not used: all prefixes are cached")


class TextBlock(Cacheable):
    type: Literal["text"]
    text: str
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"citations": ((None, []), NOT_YET)}


class ThinkingBlock(RequestModel):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = Field(None, description=UNUSED)


class ToolUseBlock(Cacheable):
    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "caller": ((None, {"type": "direct"}), NOT_YET),
        "toolset_name": ((None,), NOT_YET),
    }


Text = Annotated[Annotated[TextBlock, Tag("<text>")], Discriminator(kind_of)]
Texts = str | Annotated[list[Text], Field(max_length=MAX_PARTS, fail_fast=True)]


class ToolResultBlock(Cacheable):
    type: Literal["tool_result"]
    tool_use_id: Name
    content: Texts | None = None
    is_error: bool | None = Field(None, description="what the model reads begins with 'Error: '")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"toolset_name": ((None,), NOT_YET)}


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")],
    Discriminator(kind_of),
]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(max_length=MAX_PARTS, fail_fast=True)]


class CustomTool(Cacheable):
    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: list[dict[str, Any]] | None = Field(None, description=UNUSED)
    eager_input_streaming: bool | None = Field(None, description=UNUSED)
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "defer_loading": ((None, False), NOT_YET),
        "allowed_callers": ((None, ["direct"]), NOT_YET),
    }


class ToolChoice(RequestModel):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = Field(None, description="the tool, of the type tool")
    disable_parallel_tool_use: bool | None = None


class Thinking(RequestModel):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(None, description="of the type enabled")
    display: Literal["summarized", "omitted"] | None = Field(None, description="omitted: without its text")


class OutputFormat(RequestModel):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(RequestModel):
    user_id: Name | None = Field(None, description=UNUSED)


class MessageFields(Cacheable):
    """A conversation, and how it is to be answered, as far as the prompt depends on it."""

    model: Name | None = Field(None, description="may be left out where one model is served")
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: Texts | None = None
    tools: Annotated[list[CustomTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = Field(None, description="left out, models that can do without thinking do")
    output_config: OutputConfig | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **dict.fromkeys(
            ("container", "diagnostics", "inference_geo", "user_profile_id", "workspace_id"), ((None,), NOT_YET)
        ),
        "mcp_servers": ((None, []), "is not supported: the server fetches nothing"),
        "context_management": ((None,), NOT_YET),
        "speed": ((None, "standard"), NOT_YET),
    }

    def chat(self) -> tuple[Json, list[str]]:
        """The fields of a chat completion, and the places of its messages. Raises HttpError."""
        conversation = Conversation()
        if self.system:
            conversation.say("system", texts_of(self.system), "system")
        for i, message in enumerate(self.messages):
            _read(message, f"messages[{i}]", conversation)
        fields: Json = {"model": self.model, "messages": conversation.messages, **self._options()}
        if conversation.ends_with_assistant:  # the answer goes on with what is there
            fields["continue_final_message"] = True
            if "tool_calls" in conversation.messages[-1]:
                reason = "its blocks of type tool_use need a message after it with their tool_result"
                raise HttpError(f"messages[{len(self.messages) - 1}]: {reason}", "messages", code="invalid_value")
        return fields, conversation.places

    def _options(self) -> Json:
        choice, config, thinking = self.tool_choice, self.output_config or OutputConfig(), self.thinking
        thinks = thinking is not None and thinking.type != "disabled"
        options: Json = {
            "tools": [_tool(tool) for tool in self.tools or []] or None,
            "enable_thinking": None if thinking is not None and thinking.type == "adaptive" else thinks,
            "thinking_token_budget": thinking.budget_tokens if thinking else None,
            "reasoning_effort": config.effort,
        }
        if choice is not None:
            named = {"type": "function", "function": {"name": choice.name}}
            options["tool_choice"] = {"any": "required", "tool": named}.get(choice.type, choice.type)
            options["parallel_tool_calls"] = False if choice.disable_parallel_tool_use else None
        if config.format is not None:
            schema = {"name": "answer", "schema": config.format.schema_, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return options


class CountRequest(MessageFields):
    """A conversation whose tokens are to be counted."""


class MessagesRequest(MessageFields):
    """A conversation to answer."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)]
    stop_sequences: Annotated[list[ShortText], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = Field(None, description=UNUSED)

    def _options(self) -> Json:
        same = ("max_tokens", "stream", "temperature", "top_p", "top_k")
        return {
            **super()._options(),
            **{name: getattr(self, name) for name in same},
            "stop": self.stop_sequences,
        }


def texts_of(content: str | list[TextBlock] | None) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [block.text for block in content or []]


def _read(message: InputMessage, place: str, conversation: Conversation) -> None:
    """Puts what a message says, block by block, into a conversation."""
    role, begins = message.role, True
    if isinstance(message.content, str):
        return conversation.say(role, [message.content], place, joins=role == "user")
    for i, block in enumerate(message.content):
        where = f"{place}.content[{i}]"
        allowed = {"thinking": "assistant", "tool_use": "assistant", "tool_result": "user"}.get(block.type, role)
        if role != allowed:
            reason = f"{where}: a block of type {block.type} belongs to a message of the role {allowed}, not {role}"
            raise HttpError(reason, "messages.content", code="invalid_value")
        match block:
            case TextBlock():
                conversation.say(role, [block.text], where, joins=role == "user" or not begins)
            case ThinkingBlock():
                conversation.think(block.thinking, where)
            case ToolUseBlock():
                conversation.call(block.id, block.name, json.dumps(block.input, ensure_ascii=False), where)
            case ToolResultBlock():
                texts = texts_of(block.content)
                error = ["Error: " + "\n".join(texts)] if block.is_error else texts
                conversation.answer_call(block.tool_use_id, error, where)
        begins = False


def _tool(tool: CustomTool) -> Json:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
