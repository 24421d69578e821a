"""One WebSocket's session: events are read and carried out here; what takes time is a job."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from octavo.server.body import parse_object, validated
from octavo.server.errors import HttpError
from octavo.server.protocol import realtime as protocol
from octavo.server.protocol.realtime import AnswerParams, ConversationSession, Json, TranscriptionSettings
from octavo.server.realtime.answers import AnswerJob
from octavo.server.realtime.audio import SAMPLE_BYTES, AudioBuffer, decode_audio
from octavo.server.realtime.channel import Channel
from octavo.server.realtime.conversation import Conversation, Item, new_id
from octavo.server.realtime.jobs import Job, TranscribeJob
from octavo.server.state import ServerState
from octavo.server.validation import validation_error

MAX_JOBS = 256  # of a session, waiting
LEAST_SECONDS = 0.1  # of audio that can be committed
GOING_AWAY, FAILED = 1001, 1011  # codes of closing


class Session:
    """A client's settings, audio, conversation and jobs, for as long as it is connected."""

    def __init__(self, server: ServerState, websocket: WebSocket, settings: Json):
        """`settings` are those of its kind, apart from what is the same for all."""
        self.id = new_id("sess")
        self._server, self._websocket, self._channel = server, websocket, Channel(websocket)
        self._settings = protocol.SESSIONS[settings["type"]].model_validate(settings)
        self._buffer = AudioBuffer(self._settings.audio.input)
        self._conversation = Conversation()
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._job: Job | None = None  # the one that runs
        self._answer: AnswerJob | None = None  # the last one that was asked for
        self._waiting_seconds = 0.0  # of audio that was committed
        self._turn: tuple[str, int] | None = None  # the item that is being spoken, and where it began
        self._is_plain = False  # whether the client speaks vLLM's protocol
        self._handlers: dict[str, tuple[type[BaseModel], Callable[[Any], Awaitable[None]]]] = {
            "session.update": (protocol.SessionUpdate, self._update),
            "transcription_session.update": (protocol.SessionUpdate, self._update),
            "input_audio_buffer.append": (protocol.AudioAppend, self._append),
            "input_audio_buffer.commit": (protocol.AudioCommit, self._commit),
            "input_audio_buffer.clear": (protocol.ClientEvent, self._clear),
            "conversation.item.create": (protocol.ItemCreate, self._create),
            "conversation.item.retrieve": (protocol.ItemEvent, self._retrieve),
            "conversation.item.delete": (protocol.ItemEvent, self._delete),
            "response.create": (protocol.AnswerCreate, self._respond),
            "response.cancel": (protocol.AnswerCancel, self._cancel),
        }

    async def run(self, subprotocol: str | None) -> None:
        """Accepts the WebSocket, and goes on until the client leaves or the server ends."""
        self._server.sessions.add(self.leave)
        try:
            await self._websocket.accept(subprotocol)
            await self._serve()
        finally:
            self._server.sessions.discard(self.leave)

    async def _serve(self) -> None:
        reader, worker = (asyncio.create_task(work) for work in (self._read(), self._work()))
        try:
            done, _ = await asyncio.wait({reader, worker}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                with suppress(WebSocketDisconnect):
                    task.result()
            if reader not in done:
                await self._close(GOING_AWAY, "the server is shutting down")
        except Exception:
            await self._close(FAILED, "something went wrong in the server")
            raise
        finally:
            for task in (reader, worker):
                task.cancel()
            await asyncio.gather(reader, worker, return_exceptions=True)
            for job in [self._job, *(self._jobs.get_nowait() for _ in range(self._jobs.qsize()))]:
                if job is not None:
                    job.close()

    def leave(self) -> None:
        """Ends it when all that was asked for is done."""
        self._jobs.put_nowait(None)

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # it may be closed already
            await self._websocket.close(code, reason)

    async def _read(self) -> None:
        await self._channel.send("session.created", session=self._json(), id=self.id, created=int(time.time()))
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            event_id = None
            try:
                event = _parse(message)
                event_id = event.get("event_id")
                await self._handle(event)
            except WebSocketDisconnect:
                raise
            except Exception as error:
                await self._channel.refuse(error, event_id if isinstance(event_id, str) else None)

    async def _work(self) -> None:
        while (job := await self._jobs.get()) is not None:
            self._job = job
            await job.run()
            job.close()
            self._job = None
            if job.recording is not None:
                self._waiting_seconds -= job.recording.seconds

    async def _handle(self, event: Json) -> None:
        """Raises OctavoError for an event that can't be carried out."""
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in self._handlers:
            reason = f"type: must be one of {', '.join(self._handlers)}, got {json.dumps(kind)[:80]}"
            raise HttpError(reason, "type", code="invalid_value")
        form, handler = self._handlers[kind]
        await handler(validated(event, form))

    async def _update(self, event: protocol.SessionUpdate) -> None:
        """All of it, or nothing. Raises HttpError."""
        changes = protocol.renamed(event.session or {})
        if event.session is None and event.model is None:
            raise HttpError("session: this field is required", "session", code="missing_field")
        if is_plain := event.session is None:
            model = self._server.models.find(event.model, "transcribe").id
            pcm = {"type": "audio/pcm", "rate": 16000}
            heard = {"format": pcm, "transcription": {"model": model}, "turn_detection": None}
            changes = {"type": "transcription", "audio": {"input": heard}}
        elif event.type != "session.update":
            changes["type"] = "transcription"
        kind = changes.get("type", self._settings.type)
        same = kind == self._settings.type
        settings = self._settings.model_dump() if same else {"audio": self._settings.audio.model_dump()}
        try:
            form = protocol.SESSIONS[kind] if isinstance(kind, str) else protocol.ConversationSession
            found = form.model_validate(protocol.merged(settings, changes))
        except KeyError:
            reason = f"session.type: must be {' or '.join(protocol.SESSIONS)}, got {json.dumps(kind)[:80]}"
            raise HttpError(reason, "session.type", code="invalid_value") from None
        except ValidationError as error:
            raise _in_session(validation_error(error)) from None
        self._check_models(found)
        self._listen(found)
        self._settings, self._is_plain = found, is_plain
        name = "session" if event.type == "session.update" else "transcription_session"
        flat = {} if name == "session" else protocol.former(found)
        await self._channel.send(f"{name}.updated", session={**self._json(), **flat})

    def _check_models(self, settings: protocol.Session) -> None:
        """Raises HttpError for models that are not served."""
        heard = settings.audio.input.transcription
        if heard is not None and heard.model:
            self._server.models.find(heard.model, "transcribe")
        if isinstance(settings, ConversationSession) and settings.model:
            self._server.models.find(settings.model, "text")

    def _listen(self, settings: protocol.Session) -> None:
        """Makes the buffer what the settings say. Raises HttpError where it holds audio that is none any more."""
        old, new = self._settings.audio.input, settings.audio.input
        if (old.format, old.turn_detection) == (new.format, new.turn_detection):
            return
        if old.format != new.format and (self._buffer.is_speaking or (self._buffer.seconds and self._is_manual)):
            reason = "session.audio.input.format: can't change while the buffer holds audio; commit or clear it"
            raise HttpError(reason, "session.audio.input.format", code="invalid_value")
        start = round(self._buffer.end * new.format.rate / self._buffer.rate)
        held = self._buffer.take() if old.format == new.format and self._is_manual else None
        self._buffer, self._turn = AudioBuffer(new, start), None
        if held is not None:
            held.close()

    @property
    def _is_manual(self) -> bool:
        return self._settings.audio.input.turn_detection is None

    async def _append(self, event: protocol.AudioAppend) -> None:
        """Raises HttpError where it is no audio, or more than may be held."""
        pcm, most = decode_audio(event.audio), self._server.config.max_realtime_seconds
        coming = len(pcm) / SAMPLE_BYTES / self._buffer.rate
        if self._buffer.seconds + self._waiting_seconds + coming > most:
            reason = f"more than {most:g} s of audio are waiting (--max-realtime-seconds); commit it, or send it slower"
            raise HttpError(reason, "audio", code="too_much_audio")
        second = SAMPLE_BYTES * self._buffer.rate
        for at in range(0, len(pcm), second):
            for boundary in self._buffer.append(pcm[at : at + second]):
                if boundary.begins:
                    await self._begin_turn(boundary.at)
                elif self._turn is not None:
                    await self._end_turn(boundary.at)
            await asyncio.sleep(0)  # others have the loop in between

    async def _begin_turn(self, at: int) -> None:
        self._turn = item_id, _ = new_id("item"), at
        milliseconds = self._buffer.milliseconds(at)
        if not self._is_plain:
            await self._tell("speech_started", audio_start_ms=milliseconds, item_id=item_id)
        detection = self._settings.audio.input.turn_detection
        if detection is not None and detection.interrupt_response and self._answer is not None:
            self._answer.cancel("turn_detected")

    async def _end_turn(self, at: int) -> None:
        assert self._turn is not None
        item_id, _ = self._turn
        await self._tell("speech_stopped", audio_end_ms=self._buffer.milliseconds(at), item_id=item_id)
        await self._take_audio(at)
        detection = self._settings.audio.input.turn_detection
        talks = isinstance(self._settings, ConversationSession)
        if talks and detection is not None and detection.create_response and self._may_answer:
            self._start_answer(AnswerParams())

    async def _commit(self, event: protocol.AudioCommit) -> None:
        """Raises HttpError if there is nothing to commit."""
        if self._is_plain and not event.final:
            return
        if self._buffer.seconds < LEAST_SECONDS:
            reason = (
                f"the buffer holds {self._buffer.seconds * 1000:.0f} ms of audio; at least "
                f"{LEAST_SECONDS * 1000:.0f} ms can be committed"
            )
            raise HttpError(reason, code="input_audio_buffer_commit_empty")
        await self._take_audio(self._buffer.end)
        self._buffer.clear()

    async def _take_audio(self, end: int) -> None:
        """Makes an item of what was said until the sample `end`, and has it written down. Raises HttpError."""
        self._check_jobs()
        item_id, start = self._turn or (new_id("item"), 0)
        item = Item("user", id=item_id, is_spoken=True)
        before = self._conversation.last_id
        if not isinstance(self._settings, ConversationSession):
            self._conversation.make_room()  # a session may go on for days
        if not self._is_plain:
            self._conversation.add(item)
        self._turn = None
        recording = self._buffer.take(start, end)
        self._waiting_seconds += recording.seconds
        settings = self._settings.audio.input.transcription or TranscriptionSettings()
        arguments = (item, recording, settings, self._is_plain)
        self._jobs.put_nowait(TranscribeJob(self._server, self._channel, *arguments))
        if not self._is_plain:
            await self._tell("committed", item_id=item_id, previous_item_id=before)
            await self._tell_item(item, before)

    async def _clear(self, event: protocol.ClientEvent) -> None:
        self._buffer.clear()
        self._turn = None
        await self._tell("cleared")

    async def _create(self, event: protocol.ItemCreate) -> None:
        """Raises HttpError."""
        self._check_talks("conversation.item.create")
        item = Item.of(event.item)
        await self._tell_item(item, self._conversation.add(item, event.previous_item_id))

    async def _retrieve(self, event: protocol.ItemEvent) -> None:
        """Raises HttpError."""
        await self._channel.send("conversation.item.retrieved", item=self._conversation.find(event.item_id).json())

    async def _delete(self, event: protocol.ItemEvent) -> None:
        """Raises HttpError."""
        self._conversation.remove(event.item_id)
        await self._channel.send("conversation.item.deleted", item_id=event.item_id)

    async def _respond(self, event: protocol.AnswerCreate) -> None:
        """Raises HttpError."""
        self._check_talks("response.create")
        if not self._may_answer:
            reason = "a response is being made already; wait for response.done, or send response.cancel"
            raise HttpError(reason, code="conversation_already_has_active_response")
        self._start_answer(event.response)

    async def _cancel(self, event: protocol.AnswerCancel) -> None:
        """Raises HttpError."""
        answer = self._answer
        if answer is None or answer.is_over or event.response_id not in (None, answer.id):
            raise HttpError("there is no such response to cancel", "response_id", code="response_cancel_not_active")
        answer.cancel("client_cancelled")

    @property
    def _may_answer(self) -> bool:
        return self._answer is None or self._answer.is_over

    def _start_answer(self, params: AnswerParams) -> None:
        """Raises HttpError."""
        self._check_jobs()
        assert isinstance(self._settings, ConversationSession)
        self._answer = AnswerJob(self._server, self._channel, self._conversation, self._settings, params)
        self._jobs.put_nowait(self._answer)

    def _check_jobs(self) -> None:
        if self._jobs.qsize() >= MAX_JOBS:
            reason = f"{MAX_JOBS} commits and responses of this session are waiting already"
            raise HttpError(reason, code="queue_full")

    def _check_talks(self, event: str) -> None:
        if not isinstance(self._settings, ConversationSession):
            reason = f"type: {event} is for sessions of type realtime; this one is of type {self._settings.type}"
            raise HttpError(reason, "type", code="invalid_value")

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self._channel.send(f"input_audio_buffer.{kind}", **fields)

    async def _tell_item(self, item: Item, before: str | None) -> None:
        """Under all of the names that clients wait for."""
        for kind in ("added", "created"):
            await self._channel.send(f"conversation.item.{kind}", previous_item_id=before, item=item.json())
        await self._channel.send("conversation.item.done", previous_item_id=before, item=item.json())

    def _json(self) -> Json:
        kind = self._settings.type
        head = "realtime.transcription_session" if kind == "transcription" else "realtime.session"
        found = {"id": self.id, "object": head, "expires_at": None, **self._settings.model_dump()}
        if isinstance(self._settings, ConversationSession):
            found["output_modalities"] = ["text"]
            found["max_output_tokens"] = self._settings.max_output_tokens or "inf"
        return found


def _parse(message: Any) -> Json:
    """The event of a message. Raises HttpError."""
    if message.get("text") is None:
        raise HttpError("events are text, and this message was binary", code="invalid_json")
    return parse_object(message["text"].encode(errors="surrogatepass"), "the event")


def _in_session(error: HttpError) -> HttpError:
    """The same, of a field of an event's `session`."""
    param = f"session.{error.param}" if error.param else "session"
    return HttpError(f"session.{error}", param, code=error.code)
