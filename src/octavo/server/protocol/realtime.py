"""WS /v1/realtime: what a session is set to, and the events that clients send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag

from octavo.server.protocol.chat import MAX_MESSAGES, MAX_PARTS
from octavo.server.protocol.common import MAX_INT, NOT_YET, Name, Neutral, RequestModel, kind_of
from octavo.server.protocol.responses import ResponseTool, ResponseToolName
from octavo.server.protocol.tools import MAX_TOOLS

DEFAULT_RATE: Final = 24_000
WITHOUT_SOUND = "is not supported: answers are text"
Json = dict[str, Any]


class AudioFormat(RequestModel):
    """16-bit little-endian samples of one channel."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[16000, 24000] = DEFAULT_RATE


class TranscriptionSettings(RequestModel):
    model: Name | None = None
    language: Name | None = None
    prompt: Annotated[str, Field(max_length=4096)] | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "delay": ((None,), NOT_YET),
        "keywords": ((None, []), "is not supported; write the words into prompt"),
        "languages": ((None, []), "is not supported; say one language, or none to have it found"),
    }


class TurnDetection(RequestModel):
    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=20, le=60_000)] = 500
    create_response: bool | None = True
    interrupt_response: bool | None = True
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "idle_timeout_ms": ((None,), NOT_YET),
        "eagerness": ((None,), "is not supported: turns end with pauses (silence_duration_ms)"),
    }


class AudioInput(RequestModel):
    format: AudioFormat = AudioFormat()
    transcription: TranscriptionSettings | None = None
    turn_detection: TurnDetection | None = TurnDetection()
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"noise_reduction": ((None,), "is not supported; leave it out")}


class Audio(RequestModel):
    input: AudioInput = AudioInput()
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"output": ((None, {}), WITHOUT_SOUND)}


class TranscriptionSession(RequestModel):
    """A session in which what is said is written down."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"include": ((None, []), NOT_YET)}


Modalities = Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)]
MaxTokens = Annotated[int, Field(ge=1, le=MAX_INT)] | Literal["inf"]
Tools = Annotated[
    list[Annotated[Annotated[ResponseTool, Tag("<function>")], Discriminator(kind_of)]],
    Field(max_length=MAX_TOOLS, fail_fast=True),
]
_OF_ANSWERS: dict[str, Neutral] = {
    "prompt": ((None,), NOT_YET),
    "reasoning": ((None,), NOT_YET),
    "voice": ((None,), WITHOUT_SOUND),
}


class AnswerFields(RequestModel):
    """How to answer, for a session or for one answer."""

    instructions: str | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolName | None = None
    parallel_tool_calls: bool | None = None
    output_modalities: Modalities | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class ConversationSession(AnswerFields):
    """A session in which messages, written or spoken, are answered in text."""

    type: Literal["realtime"] = "realtime"
    model: Name | None = None
    audio: Audio = Audio()
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **_OF_ANSWERS,
        "include": ((None, []), NOT_YET),
        "tracing": ((None,), NOT_YET),
        "truncation": ((None, "disabled"), "may only be 'disabled': conversations are not truncated"),
    }


Session = TranscriptionSession | ConversationSession
SESSIONS: dict[str, type[Session]] = {"transcription": TranscriptionSession, "realtime": ConversationSession}


ItemId = Annotated[str, Field(min_length=1, max_length=64)]


class Content(RequestModel):
    type: Literal["input_text", "output_text", "text"]
    text: str
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **dict.fromkeys(("audio", "transcript"), ((None,), "is not supported; send input_audio_buffer.append")),
        **dict.fromkeys(("image_url", "detail"), ((None,), "is not supported: contents are text")),
    }


class MessageItem(RequestModel):
    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Content], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class CallItem(RequestModel):
    """The call of a tool; `arguments` is JSON."""

    type: Literal["function_call"]
    name: Name
    arguments: str
    call_id: Name | None = None
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class CallOutputItem(RequestModel):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: Name
    output: str
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class ItemReference(RequestModel):
    """An item of the conversation."""

    type: Literal["item_reference"]
    id: Name


GivenItem = MessageItem | CallItem | CallOutputItem
_Item = (
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[CallOutputItem, Tag("<function_call_output>")]
)


class ClientEvent(RequestModel):
    type: str
    event_id: Name | None = None


class SessionUpdate(ClientEvent):
    """OpenAI's `session`, or vLLM's `model` alone."""

    session: Json | None = None
    model: Name | None = None


class AudioAppend(ClientEvent):
    audio: str


class AudioCommit(ClientEvent):
    final: bool = Field(True, description="vLLM's: false begins a text whose audio is still to come")


class ItemCreate(ClientEvent):
    item: Annotated[_Item, Discriminator(kind_of)]
    previous_item_id: Name | None = None


class ItemEvent(ClientEvent):
    """An event about one item."""

    item_id: Name


_InputItem = Annotated[
    _Item | Annotated[ItemReference, Tag("<item_reference>")],
    Discriminator(kind_of),
]


class AnswerParams(AnswerFields):
    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[_InputItem], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    metadata: Annotated[dict[str, Name], Field(max_length=16)] | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {**_OF_ANSWERS, "audio": ((None, {}), WITHOUT_SOUND)}


class AnswerCreate(ClientEvent):
    response: AnswerParams = AnswerParams()


class AnswerCancel(ClientEvent):
    response_id: Name | None = None


# Names of sessions before there was `audio`, and where these fields are now.
_FORMER = {
    "input_audio_format": ("audio", "input", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "modalities": ("output_modalities",),
    "max_response_output_tokens": ("max_output_tokens",),
}
_FORMER_FORMATS = {"pcm16": {"type": "audio/pcm", "rate": DEFAULT_RATE}}


def merged(settings: Json, changes: Json) -> Json:
    """`settings` with `changes`, field by field at any depth."""
    found = dict(settings)
    for name, value in changes.items():
        old = found.get(name)
        found[name] = merged(old if isinstance(old, dict) else {}, value) if isinstance(value, dict) else value
    return found


def renamed(session: Json) -> Json:
    """A client's `session`, with what it calls by a former name where it is now."""
    found: Json = {name: value for name, value in session.items() if name not in _FORMER}
    for name in session.keys() & _FORMER.keys():
        value = session[name]
        if name == "input_audio_format":
            value = _FORMER_FORMATS.get(str(value), {"type": value})
        for step in reversed(_FORMER[name]):
            value = {step: value}
        found = merged(value, found)
    return found


def former(session: Session) -> Json:
    """The settings of a session of transcription under their former names."""
    heard = session.audio.input
    return {
        "input_audio_format": "pcm16",
        "input_audio_transcription": heard.transcription and heard.transcription.model_dump(),
        "turn_detection": heard.turn_detection and heard.turn_detection.model_dump(),
    }
