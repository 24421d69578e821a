"""POST /v1/chat/completions and /v1/chat/completions/batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.chat_formats.parts import Answer, CallArguments, CallBegin, Content, Part, Reasoning
from octavo.request import CompletionOutput, RequestOutput
from octavo.server.answering import answer
from octavo.server.chatting import ChatWriter
from octavo.server.protocol.answers import ChatBatchCompletion, ChatCompletion
from octavo.server.protocol.chat import ChatBatchRequest, ChatFields, ChatRequest
from octavo.server.protocol.logprobs import ChatLogprobs, prompt_logprobs_json
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import dumps

router = APIRouter(tags=["chat"])
REASONING = ("reasoning", "reasoning_content")  # what was thought has two names, and clients know one of them


@router.post("/v1/chat/completions", **endpoint(ChatRequest, ChatCompletion, streams=True))
async def create_chat_completion(request: Request) -> Response:
    """Answers a conversation."""
    return await answer(request, ChatRequest, _Writer)


@router.post("/v1/chat/completions/batch", **endpoint(ChatBatchRequest, ChatBatchCompletion))
async def create_chat_batch(request: Request) -> Response:
    """Answers several conversations; choice i is the answer to conversation i."""
    return await answer(request, ChatBatchRequest, _Writer)


class _Writer(ChatWriter[ChatFields]):
    ID, WHOLE, CHUNK = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, request: Request, *args: Any):
        super().__init__(request, *args)
        body, role = self.body, state_of(request).config.response_role
        lasts = [messages[-1] for messages in body.prompts]
        self._roles = [role if body.generation_prompt else last.role for last in lasts]
        self._echoes = [
            last.text if body.echo and last.role == role else "" for last, role in zip(lasts, self._roles, strict=True)
        ]
        self._shows_reasoning = body.include_reasoning is not False
        self._logprobs = ChatLogprobs(self.tokenizer, body.top_logprobs, body)

    def more(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        return {} if isinstance(self.body, ChatBatchRequest) else self._prompt(outputs[0])

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        index = place * self.num_choices + completion.index
        self.parts(index, completion)
        return {
            "index": index,
            "message": self._message(place, self.answers[index]),
            "logprobs": None if completion.logprobs is None else self._logprobs.write(completion.logprobs),
            "finish_reason": self.finish_reason(index, completion),
            "stop_reason": completion.stop_reason,
            "token_ids": completion.token_ids if self.body.return_token_ids else None,
            **(self._prompt(output) if isinstance(self.body, ChatBatchRequest) else {}),
        }

    def _message(self, place: int, answer: Answer) -> dict[str, Any]:
        content = self._echoes[place] + answer.content
        message: dict[str, Any] = {"role": self._roles[place], "content": content, "refusal": None}
        if answer.calls:
            message["content"] = content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls
            ]
        if answer.reasoning and self._shows_reasoning:
            message |= dict.fromkeys(REASONING, answer.reasoning)
        return message

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        """The role, what is new, and the end."""
        ids = self.body.return_token_ids
        if self.begins(index):
            prompt = b',"prompt_token_ids":' + dumps(output.prompt_token_ids) if ids and self.begun == {index} else b""
            yield self.chunk(_chunk(index, {"role": self._roles[0], "content": ""}), prompt)
            if self._echoes[0]:
                yield self.chunk(_delta(index, _content(self._echoes[0])))
        deltas = self._deltas(self.parts(index, completion))
        logprobs = b"null" if completion.logprobs is None else dumps(self._logprobs.write(completion.logprobs))
        more = b',"token_ids":' + dumps(completion.token_ids) if ids else b""
        if not deltas and (completion.logprobs or (ids and completion.token_ids)):
            deltas = [_content("")]
        for delta in deltas:  # the first has what is told of tokens
            yield self.chunk(_delta(index, delta, logprobs, more))
            logprobs, more = b"null", b',"token_ids":[]' if ids else b""
        if completion.finish_reason is not None:
            reason = self.finish_reason(index, completion)
            yield self.chunk(_chunk(index, {}, reason, stop_reason=completion.stop_reason))

    def _deltas(self, parts: list[Part]) -> list[bytes]:
        """The JSON of deltas: one for what was thought, one for text, one for calls, as they come."""
        deltas = []
        for kind, group in groupby(parts, lambda part: CallBegin if isinstance(part, CallArguments) else type(part)):
            if kind is CallBegin:
                deltas.append(dumps({"tool_calls": _calls(group)}))
                continue
            text = "".join(part.text for part in group if isinstance(part, Content | Reasoning))
            if kind is Content:
                deltas.append(_content(text))
            elif self._shows_reasoning:
                deltas.append(dumps(dict.fromkeys(REASONING, text)))
        return deltas

    def _prompt(self, output: RequestOutput) -> dict[str, Any]:
        """What is told of a prompt."""
        return {
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs),
            "prompt_token_ids": output.prompt_token_ids if self.body.return_token_ids else None,
        }


def _chunk(index: int, delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> bytes:
    return dumps({"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **more})


def _delta(index: int, delta: bytes, logprobs: bytes = b"null", more: bytes = b"") -> bytes:
    return b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":null%b}' % (index, delta, logprobs, more)


def _content(text: str) -> bytes:
    return b'{"content":%b}' % dumps(text)


def _calls(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """What is new of each call: its id and its name once, and more of its arguments."""
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        match part:
            case CallBegin(index, id, name):
                function = {"name": name, "arguments": ""}
                calls[index] = {"index": index, "id": id, "type": "function", "function": function}
            case CallArguments(index, text):
                call = calls.setdefault(index, {"index": index, "function": {"arguments": ""}})
                call["function"]["arguments"] += text
    return list(calls.values())
