"""Answers as pydantic models, for the OpenAPI schema. The server writes the JSON itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from octavo.speech.result import Word


class Error(BaseModel):
    message: str = Field(max_length=500)
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    error: Error


class PromptTokensDetails(BaseModel):
    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Answer(BaseModel):
    """What the answers of text have in common."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Any]
    usage: Usage
    system_fingerprint: str


class Choice(BaseModel):
    index: int
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: int | str | None
    token_ids: list[int] | None = Field(description="with return_token_ids")


class OfPrompt(BaseModel):
    prompt_logprobs: list[dict[str, Any] | None] | None
    prompt_token_ids: list[int] | None = Field(description="with return_token_ids")


class FunctionCall(BaseModel):
    name: str
    arguments: str = Field(description="the JSON of an object")


class ToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(BaseModel):
    role: str
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] = Field([], description="left out where there are none")
    reasoning: str = Field("", description="what the model thought; left out where that is nothing")
    reasoning_content: str = Field("", description="the same under its older name")


class ChatChoice(Choice):
    message: ChatMessage


class ChatBatchChoice(ChatChoice, OfPrompt):
    pass


class CompletionChoice(Choice, OfPrompt):
    text: str
    logprobs: dict[str, list[Any]] | None


class ChatCompletion(Answer, OfPrompt):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class ChatBatchCompletion(Answer):
    object: Literal["chat.completion"]
    choices: list[ChatBatchChoice] = Field(description="one for each conversation, in their order")
    usage: Usage = Field(description="of all together")


class Completion(Answer):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class MessageUsage(BaseModel):
    input_tokens: int = Field(description="without those that were cached")
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageAnswer(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]] = Field(description="blocks of the types thinking, text and tool_use")
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
    stop_sequence: str | None
    usage: MessageUsage


class InputTokens(BaseModel):
    input_tokens: int


class MessageError(BaseModel):
    type: str
    message: str = Field(max_length=500)


class MessageErrorAnswer(BaseModel):
    type: Literal["error"]
    error: MessageError
    request_id: str | None


class ResponseAnswer(BaseModel):
    id: str
    object: Literal["response"]
    created_at: float
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    model: str
    output: list[dict[str, Any]] = Field(description="items of the types reasoning, message and function_call")
    conversation: dict[str, Any] | None
    previous_response_id: str | None
    usage: dict[str, Any] | None


class Item(BaseModel):
    id: str
    type: Literal["message", "reasoning", "function_call", "function_call_output"]


class ItemList(BaseModel):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokenCount(BaseModel):
    object: Literal["response.input_tokens"]
    input_tokens: int


class ConversationAnswer(BaseModel):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class Deleted(BaseModel):
    id: str
    object: str
    deleted: bool


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None = Field(description="null while nobody knows it")
    status: Literal["unloaded", "loading", "ready", "sleeping", "failed"]
    phase: str = Field(description="what it is doing, in words")
    pinned: bool = Field(description="whether it stays loaded, whatever else is asked for")
    skills: list[str] | None = Field(description="what it can do; null while nobody knows")
    ttl: float | None = Field(description="seconds without a request after which it is unloaded")
    last_used: int | None = Field(description="Unix time of the last request")
    memory: int = Field(description="bytes that are kept for it")
    error: str | None = Field(description="why it failed")
    aliases: list[str] = Field(description="its further names")
    tags: list[str] = Field(description="what the server's operator says of it")
    permission: list[Any]


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class AudioUsage(BaseModel):
    type: Literal["duration"]
    seconds: int


class AudioText(BaseModel):
    text: str
    usage: AudioUsage


class AudioSegment(BaseModel):
    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseAudioText(AudioText):
    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    words: list[Word] = Field([], description="with timestamp_granularities=word")
    segments: list[AudioSegment] = Field([], description="unless only words are asked for")


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = Field(description="as the vocabulary spells them")


class AddedToken(BaseModel):
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class TokenizerInfo(BaseModel):
    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    additional_special_tokens: list[str]
    added_tokens_decoder: dict[str, AddedToken] = Field(description="by token id")
    chat_template: str | None
    model_max_length: int


class Text(BaseModel):
    prompt: str


class Health(BaseModel):
    status: str
    reason: str | None
    models: dict[str, str] = Field(description="the phase of each model")


class Version(BaseModel):
    version: str


class Load(BaseModel):
    server_load: int = Field(description="requests that are being answered")
    running: int
    waiting: int
    kv_cache_usage: float
