"""What a session has to do, one after the other: to write down what was said, and to answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from starlette.websockets import WebSocketDisconnect

from octavo.server.answering import begin
from octavo.server.body import validated
from octavo.server.chatting import ChatWriter
from octavo.server.errors import ClientGoneError, HttpError
from octavo.server.generation import Generation, admit
from octavo.server.protocol.chat import ChatRequest
from octavo.server.protocol.realtime import AnswerParams, ConversationSession, ItemReference, TranscriptionSettings
from octavo.server.realtime.audio import Recording
from octavo.server.realtime.channel import Channel, told
from octavo.server.realtime.conversation import Conversation, Item, new_id
from octavo.server.state import ServerState
from octavo.server.transcribing import Transcribing
from octavo.speech.job import TranscribeOptions
from octavo.speech.result import Transcription

Json = dict[str, Any]
HEARD = "conversation.item.input_audio_transcription"


class Job(ABC):
    """Something to do when all before it is done."""

    recording: Recording | None = None

    def __init__(self, server: ServerState, channel: Channel):
        self._server, self._channel = server, channel

    @abstractmethod
    async def run(self) -> None:
        """Tells the client how it ended, whatever happens. Raises WebSocketDisconnect."""

    def close(self) -> None:
        """It is over, or will never begin."""
        if self.recording is not None:
            self.recording.close()


class TranscribeJob(Job):
    """Writes down what was committed as `item`. With `plain`, events are vLLM's."""

    def __init__(
        self,
        server: ServerState,
        channel: Channel,
        item: Item,
        recording: Recording,
        settings: TranscriptionSettings,
        plain: bool,
    ):
        super().__init__(server, channel)
        self.recording: Recording = recording
        self._item, self._settings, self._plain = item, settings, plain

    async def run(self) -> None:
        try:
            result, transcribing = await self._transcribe()
        except WebSocketDisconnect:
            raise
        except Exception as error:
            await self._fail(error)
        else:
            self._item.text = result.text
            if self._plain:
                await self._channel.send("transcription.done", text=result.text, usage=_plain_usage(transcribing))
            else:
                usage = {"type": "duration", "seconds": math.ceil(result.duration)}
                await self._send("completed", transcript=result.text, usage=usage)

    async def _transcribe(self) -> tuple[Transcription, Transcribing]:
        """Tells each window's text when it is known. Raises OctavoError."""
        settings, request = self._settings, self._channel.request()
        model = self._server.models.find(settings.model, "transcribe")
        admit(self._server, model, request, 1)
        options = TranscribeOptions(language=settings.language or None, prompt=settings.prompt or None)
        transcribing = Transcribing(self._server, model, request, self.recording, options, seed=0)
        sent = ""
        async with transcribing:
            async for result in transcribing.run():
                if delta := result.text[len(sent) :]:
                    sent = result.text
                    await self._tell(delta)
            return transcribing.result, transcribing

    async def _tell(self, delta: str) -> None:
        if self._plain:
            await self._channel.send("transcription.delta", delta=delta)
        else:
            await self._send("delta", delta=delta)

    async def _fail(self, error: Exception) -> None:
        if self._plain:
            await self._channel.refuse(error)
        else:
            await self._send("failed", error=told(error))

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._channel.send(f"{HEARD}.{kind}", item_id=self._item.id, content_index=0, **fields)


def _plain_usage(transcribing: Transcribing) -> Json:
    read, written = transcribing.num_prompt_tokens, transcribing.num_output_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class AnswerJob(Job):
    """Answers a conversation in text. `cancel` may come at any time."""

    def __init__(
        self,
        server: ServerState,
        channel: Channel,
        conversation: Conversation,
        settings: ConversationSession,
        params: AnswerParams,
    ):
        super().__init__(server, channel)
        self.id = new_id("resp")
        self.is_over = False
        self._conversation, self._settings, self._params = conversation, settings, params
        self._generation: Generation | None = None
        self._item = Item("assistant", "", status="in_progress")
        self._status: Json = {"status": "in_progress", "status_details": None}
        self._has_item = False

    def cancel(self, reason: str) -> None:
        """What was written stays. `reason` is client_cancelled or turn_detected."""
        if not self.is_over:
            self._end("cancelled", reason=reason)
            if self._generation is not None:
                self._generation.fail(ClientGoneError("the response was cancelled"))

    async def run(self) -> None:
        await self._channel.send("response.created", response=self._json())
        try:
            if not self.is_over:
                await self._answer()
        except WebSocketDisconnect:
            raise
        except Exception as error:
            if not self.is_over:
                self._end("failed", error=told(error))
        if self._has_item:
            await self._finish_item()
        await self._channel.send("response.done", response=self._json())

    async def _answer(self) -> None:
        """Raises OctavoError."""
        self._generation = await begin(self._channel.request(), self._body(), ChatWriter)  # type: ignore[type-abstract]
        async with self._generation as generation:
            async for _, output in generation.outputs():
                (completion,) = output.outputs
                await self._begin_item()
                if completion.text and not self.is_over:
                    self._item.text = (self._item.text or "") + completion.text
                    await self._send("output_text.delta", content_index=0, delta=completion.text)
                if completion.finish_reason == "length":
                    self._end("incomplete", reason="max_output_tokens")
        if not self.is_over:
            self._end("completed")

    def _body(self) -> ChatRequest:
        """The conversation as a chat completion would be asked for. Raises HttpError."""
        params, settings = self._params, self._settings
        given = {**settings.model_dump(exclude_none=True), **params.model_dump(exclude_none=True)}
        instructions = given.get("instructions")
        messages = [{"role": "system", "content": instructions}] if instructions else []
        messages += self._conversation.messages() if params.input is None else self._given()
        if not messages:
            raise HttpError("there is no message to answer: send conversation.item.create", code="no_messages")
        fields = {
            "model": settings.model,
            "messages": messages,
            "stream": True,
            "temperature": given.get("temperature"),
        }
        if isinstance(limit := given.get("max_output_tokens"), int):
            fields["max_completion_tokens"] = limit
        return validated(fields, ChatRequest)

    def _given(self) -> list[dict[str, str]]:
        """The messages of the event's own `input`."""
        return [
            (self._conversation.find(one.id, "input") if isinstance(one, ItemReference) else Item.of(one)).message()
            for one in self._params.input or ()
        ]

    async def _begin_item(self) -> None:
        if self._has_item:
            return
        self._has_item, item = True, {**self._item.json(), "content": []}
        await self._send("output_item.added", item=item)
        if self._joins:
            before = self._conversation.add(self._item)
            for kind in ("added", "created"):
                await self._channel.send(f"conversation.item.{kind}", previous_item_id=before, item=item)
        await self._send("content_part.added", content_index=0, part={"type": "text", "text": ""})

    async def _finish_item(self) -> None:
        text = self._item.text or ""
        self._item.status = "completed" if self._status["status"] == "completed" else "incomplete"
        await self._send("output_text.done", content_index=0, text=text)
        await self._send("content_part.done", content_index=0, part={"type": "text", "text": text})
        await self._send("output_item.done", item=self._item.json())
        if self._joins:
            await self._channel.send("conversation.item.done", item=self._item.json())

    @property
    def _joins(self) -> bool:
        """Whether the answer becomes part of the conversation."""
        return self._params.conversation != "none"

    async def _send(self, kind: str, **fields: Any) -> None:
        place = {"response_id": self.id, "item_id": self._item.id, "output_index": 0}
        await self._channel.send(f"response.{kind}", **place, **fields)

    def _end(self, status: str, **details: Any) -> None:
        self.is_over = True
        self._status = {"status": status, "status_details": {"type": status, **details}}

    def _json(self) -> Json:
        limit = self._params.max_output_tokens or self._settings.max_output_tokens or "inf"
        return {
            **{"id": self.id, "object": "realtime.response", **self._status},
            "output": [self._item.json()] if self._has_item else [],
            "conversation_id": self._conversation.id if self._joins else None,
            **{"output_modalities": ["text"], "max_output_tokens": limit, "metadata": self._params.metadata},
            "usage": self._usage(),
        }

    def _usage(self) -> Json | None:
        if (generation := self._generation) is None or not self.is_over:
            return None
        read, written = generation.num_prompt_tokens, generation.num_output_tokens
        cached = generation.num_cached_tokens
        return {
            **{"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
            "input_token_details": {"text_tokens": read, "audio_tokens": 0, "cached_tokens": cached},
            "output_token_details": {"text_tokens": written, "audio_tokens": 0},
        }
