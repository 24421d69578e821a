"""What a session has to do, one after the other: to write down what was said, and to answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.websockets import WebSocketDisconnect

from octavo.server.admission import admit
from octavo.server.protocol.realtime import TranscriptionSettings
from octavo.server.realtime.audio import Recording
from octavo.server.realtime.channel import Channel, told
from octavo.server.realtime.conversation import Item
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
        self._leases = ExitStack()

    def request(self) -> Request:
        """For what it has the model do; what that holds is let go when the job is over."""
        return self._channel.request(self._leases)

    @abstractmethod
    async def run(self) -> None:
        """Tells the client how it ended, whatever happens. Raises WebSocketDisconnect."""

    def close(self) -> None:
        """It is over, or will never begin."""
        self._leases.close()
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
        settings, request = self._settings, self.request()
        served = await self._server.control.find(settings.model, "transcribe")
        model = await admit(self._server, served, request, 1)
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
