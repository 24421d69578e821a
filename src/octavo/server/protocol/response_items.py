"""The items of OpenAI's Responses API: what conversations are made of there."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from octavo.server.protocol.chat import MAX_MESSAGES, MAX_PARTS
from octavo.server.protocol.common import NOT_YET, UNUSED, Name, Neutral, RequestModel, kind_of
from octavo.server.protocol.translation import Conversation, Json

Status = Annotated[Literal["in_progress", "completed", "incomplete"] | None, Field(description=UNUSED)]
# What the ids of items begin with.
PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class InputText(RequestModel):
    type: Literal["input_text"]
    text: str
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"prompt_cache_breakpoint": ((None,), NOT_YET)}


class OutputText(RequestModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = Field(None, description=UNUSED)
    logprobs: list[Any] | None = Field(None, description=UNUSED)


class SummaryText(RequestModel):
    type: Literal["summary_text"]
    text: str


class ReasoningText(RequestModel):
    type: Literal["reasoning_text"]
    text: str


Part = Annotated[
    Annotated[InputText, Tag("<input_text>")] | Annotated[OutputText, Tag("<output_text>")], Discriminator(kind_of)
]
Texts = str | Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]


class MessageItem(RequestModel):
    type: Literal["message"] = "message"
    id: Name | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Texts
    status: Status = None
    phase: Literal["commentary", "final_answer"] | None = Field(None, description=UNUSED)


class FunctionCall(RequestModel):
    type: Literal["function_call"]
    id: Name | None = None
    call_id: Name
    name: Name
    arguments: str
    status: Status = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "namespace": ((None,), NOT_YET),
        "caller": ((None, {"type": "direct"}), NOT_YET),
    }


class FunctionCallOutput(RequestModel):
    type: Literal["function_call_output"]
    id: Name | None = None
    call_id: Name
    output: Texts
    name: Name | None = Field(None, description=UNUSED)
    status: Status = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = FunctionCall.REFUSED


class ReasoningItem(RequestModel):
    type: Literal["reasoning"]
    id: Name | None = None
    summary: Annotated[list[SummaryText], Field(max_length=MAX_PARTS)] | None = Field(None, description=UNUSED)
    content: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS)] | None = None
    status: Status = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "encrypted_content": ((None,), "is not supported: reasoning is told as it is, in content")
    }


class ItemReference(RequestModel):
    type: Literal["item_reference"] | None = None
    id: Name


def _kind(value: Any) -> str:
    """The tag of an item: what has no type is a message, or the id of an item."""
    if not isinstance(value, dict) or value.get("type") is not None:
        return kind_of(value)
    return "<message>" if "role" in value else "<item_reference>"


InputItem = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[FunctionCallOutput, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[ItemReference, Tag("<item_reference>")],
    Discriminator(_kind),
]
Items = Annotated[list[InputItem], Field(max_length=MAX_MESSAGES, fail_fast=True)]


def items_of(given: str | Iterable[RequestModel] | None) -> list[Json]:
    """Items as they are kept and listed: each with an id, and contents as parts."""
    if given is None:
        return []
    if isinstance(given, str):
        return [_kept({"type": "message", "role": "user", "content": given})]
    return [_kept(item.model_dump(exclude_none=True)) for item in given]


def _kept(item: Json) -> Json:
    if (prefix := PREFIXES.get(item.get("type", ""))) is None:
        return {**item, "type": "item_reference"}
    if isinstance(item.get("content"), str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return {"status": "completed", **item, "id": item.get("id") or f"{prefix}_{uuid.uuid4().hex}"}


def say(items: Iterable[tuple[str, Json]], conversation: Conversation) -> None:
    """Puts items into a conversation, each with its place in the request."""
    for place, item in items:
        match item["type"]:
            case "message":
                conversation.say(item["role"], [part["text"] for part in item["content"]], place)
            case "reasoning":
                conversation.think("\n".join(part["text"] for part in item.get("content", ())), place)
            case "function_call":
                conversation.call(item["call_id"], item["name"], item["arguments"], place)
            case "function_call_output":
                output = item["output"]
                texts = [output] if isinstance(output, str) else [part["text"] for part in output]
                conversation.answer_call(item["call_id"], texts, place)
