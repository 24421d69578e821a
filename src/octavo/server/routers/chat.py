"""POST /v1/chat/completions and /v1/chat/completions/batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

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
        self._logprobs = ChatLogprobs(self.tokenizer, body.top_logprobs, body)

    def more(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        return {} if isinstance(self.body, ChatBatchRequest) else self._prompt(outputs[0])

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        content = self._echoes[place] + completion.text
        return {
            "index": place * self.num_choices + completion.index,
            "message": {"role": self._roles[place], "content": content, "refusal": None},
            "logprobs": None if completion.logprobs is None else self._logprobs.write(completion.logprobs),
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
            "token_ids": completion.token_ids if self.body.return_token_ids else None,
            **(self._prompt(output) if isinstance(self.body, ChatBatchRequest) else {}),
        }

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        """The role, what is new, and the end."""
        ids = self.body.return_token_ids
        if self.begins(index):
            prompt = b',"prompt_token_ids":' + dumps(output.prompt_token_ids) if ids and self.begun == {index} else b""
            yield self.chunk(_chunk(index, {"role": self._roles[0], "content": ""}), prompt)
            if self._echoes[0]:
                yield self.chunk(_delta(index, self._echoes[0]))
        if completion.text or completion.logprobs or (ids and completion.token_ids):
            logprobs = b"null" if completion.logprobs is None else dumps(self._logprobs.write(completion.logprobs))
            more = b',"token_ids":' + dumps(completion.token_ids) if ids else b""
            yield self.chunk(_delta(index, completion.text, logprobs, more))
        if completion.finish_reason is not None:
            yield self.chunk(_chunk(index, {}, completion.finish_reason, stop_reason=completion.stop_reason))

    def _prompt(self, output: RequestOutput) -> dict[str, Any]:
        """What is told of a prompt."""
        return {
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs),
            "prompt_token_ids": output.prompt_token_ids if self.body.return_token_ids else None,
        }


def _chunk(index: int, delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> bytes:
    return dumps({"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **more})


def _delta(index: int, text: str, logprobs: bytes = b"null", more: bytes = b"") -> bytes:
    head = b'{"index":%d,"delta":{"content":%b},"logprobs":%b' % (index, dumps(text), logprobs)
    return head + b',"finish_reason":null' + more + b"}"
