"""Ollama's API: /api/chat and /api/generate as chat completions or completions, and the other requests."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field

from octavo.engine.loading import LoadedModel
from octavo.sampling_params import MAX_STOP_STRINGS, SamplingParams
from octavo.server.errors import HttpError
from octavo.server.protocol.chat import MAX_MESSAGES
from octavo.server.protocol.common import MAX_INT, NOT_YET, UNUSED, Name, Neutral, RequestModel, ShortText
from octavo.server.protocol.completions import CompletionRequest
from octavo.server.protocol.tools import MAX_TOOLS, Tools
from octavo.server.protocol.translation import Conversation, Json

MAX_TOP_LOGPROBS = 20
KEEP_ALIVE = "how long the model stays after this: seconds, or as 5m; 0 unloads it, below 0 it stays"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
# (what an option is called in a completion, what it is called here)
SAMPLING = (
    ("max_tokens", "num_predict"),
    ("repetition_penalty", "repeat_penalty"),
    *((name, name) for name in ("temperature", "top_k", "top_p", "min_p", "seed", "stop")),
    *((name, name) for name in ("presence_penalty", "frequency_penalty")),
)
NAMES = (
    *((ours, f"options.{theirs}") for ours, theirs in SAMPLING),
    (r"response_format(\.json_schema(\.schema)?)?", "format"),
    (r"enable_thinking|reasoning_effort", "think"),
    (r"(messages\[\d+\]\.tool_calls\[\d+\])\.id", r"\1"),
)
IMAGES: Neutral = ((None, []), "is not supported: contents are text")


def seconds_of(keep_alive: float | str) -> float:
    """Seconds of a number, or of a duration as Go writes it: 5m, 1h30m, -1m. Raises HttpError."""
    text = str(keep_alive)
    sign, parts = -1.0 if text.startswith("-") else 1.0, text.lstrip("+-")
    try:
        seconds = sign * float(parts)
    except ValueError:
        matches = list(_PART.finditer(parts)) if len(parts) < 100 else []
        if not matches or "".join(match[0] for match in matches) != parts:
            seconds = math.nan
        else:
            seconds = sign * sum(float(match[1]) * _UNITS[match[2]] for match in matches)
    if math.isnan(seconds):
        reason = f"keep_alive: must be seconds or a duration as 5m, got {text[:40]!r}"
        raise HttpError(reason, "keep_alive", code="invalid_value")
    return seconds


def _check_limit(value: int | None) -> int | None:
    if value == 0:
        raise ValueError("must be at least 1, or -1 for as many as there is room for, got 0")
    return value


class OllamaOptions(RequestModel):
    """What changes the answer is carried out or refused; what is about loading models is taken."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=MAX_INT), AfterValidator(_check_limit)] | None = None
    stop: ShortText | Annotated[list[ShortText], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        None, description="penalties look at all tokens (-1); others only without repeat_penalty"
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    num_ctx: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(
        None, description="taken: the context is that of --max-model-len, and nothing is cut silently"
    )
    # About loading models, or an older engine: taken, and not used.
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "mirostat": ((None, 0), NOT_YET),
        "mirostat_tau": ((None, 5.0), NOT_YET),
        "mirostat_eta": ((None, 0.1), NOT_YET),
        "tfs_z": ((None, 1, 1.0), NOT_YET),
        "typical_p": ((None, 1, 1.0), NOT_YET),
        "penalize_newline": ((None, True), NOT_YET),
        **dict.fromkeys(("logits_all", "vocab_only", "embedding_only"), ((None, False), NOT_YET)),
    }

    def fields(self) -> Json:
        """The sampling fields of a completion. Raises HttpError."""
        if self.repeat_last_n not in (None, -1) and self.repeat_penalty not in (None, 1):
            reason = f"options.repeat_last_n: {self.repeat_last_n} is not supported with a repeat_penalty; -1 is"
            raise HttpError(reason, "options.repeat_last_n", code="unsupported_parameter")
        found = {ours: getattr(self, theirs) for ours, theirs in SAMPLING}
        if (self.num_predict or 0) < 0:
            found["max_tokens"] = None
        return found


class OllamaFields(RequestModel):
    """How to answer."""

    model: Name | None = Field(None, description="may be left out where one model is served")
    stream: bool | None = Field(None, description="left out: true")
    options: OllamaOptions | None = None
    format: Literal["", "json"] | dict[str, Any] | None = Field(None, description="json, or a JSON schema")
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: float | str | None = Field(None, description=KEEP_ALIVE)
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    def sampling(self) -> Json:
        """The fields that chat completions and completions have in common. Raises HttpError."""
        return {
            **(self.options or OllamaOptions.model_validate({})).fields(),
            "model": self.model,
            "stream": self.streams,
        }

    def chat_fields(self) -> Json:
        """Those of chat completions. Raises HttpError."""
        response_format: Json | None = None
        if isinstance(self.format, dict):
            schema = {"name": "format", "schema": self.format}
            response_format = {"type": "json_schema", "json_schema": schema}
        elif self.format:
            response_format = {"type": "json_object"}
        return {
            **self.sampling(),
            "response_format": response_format,
            "enable_thinking": self.think if isinstance(self.think, bool) else None,
            "reasoning_effort": None if isinstance(self.think, bool) else self.think,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs if self.logprobs else None,
        }


class OllamaFunction(RequestModel):
    name: Name
    arguments: dict[str, Any]
    index: int | None = Field(None, description=UNUSED)


class OllamaCall(RequestModel):
    id: Name | None = None
    type: Literal["function"] | None = None
    function: OllamaFunction


class OllamaMessage(RequestModel):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[OllamaCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: Name | None = None
    tool_call_id: Name | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {"images": IMAGES}


class OllamaChatRequest(OllamaFields):
    """A conversation to answer; without messages the model is only to be there."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: Tools | None = None

    def chat(self) -> tuple[Json, list[str]]:
        """The fields of a chat completion, and the places of its messages. Raises HttpError."""
        conversation, waiting = Conversation(), _WaitingCalls()
        for i, message in enumerate(self.messages or ()):
            place = f"messages[{i}]"
            if message.role == "tool":
                conversation.answer_call(waiting.take(message, place), [message.content or ""], place)
                continue
            if message.thinking:
                conversation.think(message.thinking, place)
            conversation.say(message.role, [message.content or ""], place)
            for call in message.tool_calls or ():
                arguments = json.dumps(call.function.arguments, ensure_ascii=False)
                conversation.call(waiting.add(call), call.function.name, arguments, place)
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools or ()] or None
        return {**self.chat_fields(), "messages": conversation.messages, "tools": tools}, conversation.places


class _WaitingCalls:
    """Calls without a result: most clients know them by their names alone."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, str]] = []  # (id, name)
        self._number = 0

    def add(self, call: OllamaCall) -> str:
        """The id of a call."""
        self._number += 1
        self._calls.append((call.id or f"call_{self._number}", call.function.name))
        return self._calls[-1][0]

    def take(self, message: OllamaMessage, place: str) -> str:
        """The id of the first call that a message may be the result of. Raises HttpError if there is none."""
        id, name = message.tool_call_id, message.tool_name
        found = next((one for one in self._calls if id in (None, one[0]) and name in (None, one[1])), None)
        if found is None:
            what = f"of {(id or name or '')[:80]!r} " if id or name else ""
            raise HttpError(f"{place}: no call {what}waits for a result", "messages", code="invalid_value")
        self._calls.remove(found)
        return found[0]


class OllamaGenerateRequest(OllamaFields):
    """A prompt to answer, or with `raw` a text to continue; without a prompt the model is only to be there."""

    prompt: str | None = None
    suffix: str | None = Field(None, description="the text after what is to be filled in")
    system: str | None = None
    raw: bool | None = Field(None, description="the prompt is the whole text, without a chat template")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "images": IMAGES,
        "template": ((None, ""), "of a request is refused; start the server with --chat-template FILE"),
        "context": ((None, []), "is not supported; send the conversation to /api/chat"),
        **dict.fromkeys(("width", "height", "steps"), ((None, 0), "is not supported: no images are made")),
    }

    @property
    def is_raw(self) -> bool:
        return bool(self.raw or self.suffix)

    def chat(self) -> tuple[Json, list[str]]:
        """The fields of a chat completion, and the places of its messages. Raises HttpError."""
        conversation = Conversation()
        if self.system:
            conversation.say("system", [self.system], "system")
        conversation.say("user", [self.prompt or ""], "prompt")
        return {**self.chat_fields(), "messages": conversation.messages}, conversation.places

    def completion(self) -> Json:
        """The fields of a completion. Raises HttpError for what only conversations have."""
        for name in ("system", "format", "think", "logprobs"):
            if getattr(self, name):
                raise HttpError(f"{name}: not with raw or a suffix", name, code="unsupported_parameter")
        return {**self.sampling(), "prompt": self.prompt, "suffix": self.suffix or None}


class OllamaCompletion(CompletionRequest):
    """A text to continue until it ends, or the context does."""

    IS_CUT_BY_CONTEXT: ClassVar[bool] = True

    def params(self, model: LoadedModel) -> SamplingParams:
        return self.make_params(model, None, {} if self.max_tokens is None else {"max_tokens": self.max_tokens})


class OllamaEmbedRequest(RequestModel):
    """Texts to make vectors of."""

    model: Name | None = None
    input: str | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    truncate: bool | None = Field(None, description="cut texts to what the model can read; left out: true")
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    options: OllamaOptions | None = Field(None, description=UNUSED)
    keep_alive: float | str | None = Field(None, description=KEEP_ALIVE)

    def fields(self) -> Json:
        """Those of OpenAI's embeddings."""
        cut = None if self.truncate is False else -1
        return {
            "model": self.model,
            "input": self.input,
            "dimensions": self.dimensions,
            "truncate_prompt_tokens": cut,
        }


class OllamaEmbeddingsRequest(RequestModel):
    """One text to make a vector of: the older request."""

    model: Name | None = None
    prompt: str
    options: OllamaOptions | None = Field(None, description=UNUSED)
    keep_alive: float | str | None = Field(None, description=KEEP_ALIVE)


class OllamaNameRequest(RequestModel):
    """A model, under either of two names of the field."""

    model: Name | None = None
    name: Name | None = Field(None, description="the older name of model")
    verbose: bool | None = Field(None, description=UNUSED)

    @property
    def asked(self) -> str | None:
        return self.model or self.name


class OllamaPullRequest(OllamaNameRequest):
    """A model that is to be there."""

    stream: bool | None = None
    insecure: bool | None = Field(None, description=UNUSED)


class OllamaErrorAnswer(BaseModel):
    error: str = Field(max_length=500)


class OllamaTimes(BaseModel):
    """Times in nanoseconds."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: str
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class OllamaChatAnswer(OllamaTimes):
    message: dict[str, Any]


class OllamaGenerateAnswer(OllamaTimes):
    response: str


class OllamaVectors(BaseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaVector(BaseModel):
    embedding: list[float]


class OllamaModels(BaseModel):
    models: list[dict[str, Any]]


class OllamaModel(BaseModel):
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaVersion(BaseModel):
    version: str


class OllamaStatus(BaseModel):
    status: str
