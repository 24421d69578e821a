"""One audio at the engine: decoded on another thread, a few windows ahead of what has become text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, Protocol, Self, TypeVar

from starlette.requests import Request

from octavo.errors import OctavoError
from octavo.request import Prompt
from octavo.server.generation import Generation
from octavo.server.instance import ModelInstance
from octavo.server.state import ServerState
from octavo.speech import SAMPLE_RATE
from octavo.speech.job import TranscribeOptions
from octavo.speech.offline import speech_params
from octavo.speech.reading import Reading
from octavo.speech.result import Transcription
from octavo.speech.sources import Samples

MOST_AHEAD = 16  # windows of one audio at the engine; each holds some megabytes
_decoders = ThreadPoolExecutor(2, "octavo-audio")
T = TypeVar("T")


class AudioFile(Protocol):
    """A file of speech, which is there until `close`."""

    file: IO[bytes]

    def close(self) -> None: ...


class Transcribing(Generation):
    """The windows of an upload, as requests of an engine. Used with `async with`; leaving it closes the upload.

    It may take a second longer than other requests for each second of audio that has become text.
    """

    def __init__(
        self,
        server: ServerState,
        model: ModelInstance,
        request: Request,
        upload: AudioFile,
        options: TranscribeOptions,
        seed: int,
    ):
        params = speech_params()
        params.seed = seed
        super().__init__(server, model, request, [], params, None, None)
        self._stream.max_bytes = MOST_AHEAD << 20  # few may wait, but of each the whole text does
        self._upload, self._options = upload, options
        self._chunks: Generator[Samples, None, None] | None = None
        self._reading: Reading | None = None
        self._seconds_done = 0.0
        self._num_open = 0  # windows at the engine
        self._failure: OctavoError | None = None
        self._work: Future[Any] | None = None  # what a thread does with the upload

    @property
    def timeout(self) -> float:
        return min(self._asked_timeout, self._longest + self._seconds_done)

    @property
    def num_audio_tokens(self) -> int:
        """Positions that the encoder read."""
        return len(self.prompts) * self.model.engine.model.source_positions

    @property
    def result(self) -> Transcription:
        """What has become of the audio so far."""
        assert self._reading is not None
        return self._reading.result()

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._upload.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._work is not None and not self._work.done():
            await asyncio.wait([asyncio.wrap_future(self._work)])
        if self._chunks is not None:
            self._chunks.close()
        self._upload.close()
        self.model.metrics.audio_seconds += self._audio_seconds
        await super().__aexit__(kind, error, trace)

    async def run(self) -> AsyncIterator[Transcription]:
        """What is known whenever a window has become text. Raises what ends the request early."""
        reading = self._reading = await self._in_thread(self._open)
        while not reading.finished:
            if self._may_decode(reading) and not self._stream.has_news:
                await self._decode(reading)
            else:
                await self._take(reading)
                yield reading.result()

    def fail(self, error: OctavoError) -> None:
        self._failure = self._failure or error
        super().fail(error)

    def _expire(self) -> None:
        """Half a recording's text would pass for all of it."""
        self.fail(self._deadline_error)

    def _open(self) -> Reading:
        from octavo.speech.decode import decode  # libav takes a while to load, and not every server needs it

        self._chunks = decode(self._upload.file, name="file")
        return Reading(self.model.engine.model, self._chunks, self._options)

    def _may_decode(self, reading: Reading) -> bool:
        """All requests share the engine's seats: that bounds the windows that are held for them."""
        ahead = min(MOST_AHEAD, self._queue.seats // self._queue.requests)
        return not reading.is_decoded and self._num_open < max(1, ahead)

    async def _decode(self, reading: Reading) -> None:
        """Decodes some more, and gives the engine the next window if there is one."""
        found = await self._in_thread(reading.next)
        if found is None:
            return
        number, prompt = found
        assert number == len(self.prompts)
        self.prompts.append(Prompt(None, prompt.token_ids))  # the engine holds the rest while it needs them
        self._num_open += 1
        self._waiting.add(number)
        self._queue.wait(len(prompt.token_ids))
        self._request.state.client.charge(len(prompt.token_ids))
        self._submit(number, prompt)

    async def _take(self, reading: Reading) -> None:
        """Waits for the text of a window."""
        if self._failure is not None:
            raise self._failure
        output = await self._stream.next()
        number = self._places[output.request_id]
        self._num_open -= 1
        self._note(number, output)
        reading.take(number, output)
        self._seconds_done = reading.seconds_done

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """What `function` returns, on a thread of its own. Raises what has ended the request meanwhile."""
        if self._failure is None:
            self._work = _decoders.submit(function)
            found: T = await asyncio.wrap_future(self._work)
        if self._failure is not None:
            raise self._failure
        return found

    @property
    def _audio_seconds(self) -> float:
        return self._reading.num_samples / SAMPLE_RATE if self._reading is not None else 0.0

    def _log_fields(self) -> dict[str, Any]:
        seconds = round(self._audio_seconds, 3)
        return {**super()._log_fields(), "audio_seconds": seconds, "windows": len(self.prompts)}
