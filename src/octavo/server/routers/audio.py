"""POST /v1/audio/transcriptions and /v1/audio/translations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.server.admission import admit
from octavo.server.form import read_form
from octavo.server.protocol.answers import AudioText, VerboseAudioText
from octavo.server.protocol.audio import (
    AudioRequest,
    TranscriptionRequest,
    TranslationRequest,
    transcription_json,
    verbose_json,
)
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream, event
from octavo.server.state import state_of
from octavo.server.transcribing import Transcribing
from octavo.server.writing import JSONAnswer, dumps
from octavo.speech.formats import FORMATS, write
from octavo.speech.reading import speech_of
from octavo.speech.result import Transcription

router = APIRouter(tags=["audio"])
TEXTS = tuple(format.media_type for name, format in FORMATS.items() if "json" not in name)
ANSWER = AudioText | VerboseAudioText


@router.post("/v1/audio/transcriptions", **endpoint(TranscriptionRequest, ANSWER, streams=True, texts=TEXTS))
async def create_transcription(request: Request) -> Response:
    """Writes down what is said."""
    return await _answer(request, TranscriptionRequest, "transcribe")


@router.post("/v1/audio/translations", **endpoint(TranslationRequest, ANSWER, streams=True, texts=TEXTS))
async def create_translation(request: Request) -> Response:
    """Writes down in English what is said in another language."""
    return await _answer(request, TranslationRequest, "translate")


async def _answer(request: Request, form: type[AudioRequest], task: str) -> Response:
    server = state_of(request)
    server.check_open()
    body = await read_form(request, form, server.config, server.uploads)
    try:
        body.check()
        model = await admit(server, await server.control.find(body.model, task), request, 1)
        body.check_language(speech_of(model.engine.model).tokens)
        transcribing = Transcribing(server, model, request, body.file, body.options(task), body.seed)
    except BaseException:
        body.file.close()
        raise
    if body.stream:
        return EventStream(_events(transcribing, body.response_format == "verbose_json"))
    async with transcribing:
        async for _ in transcribing.run():
            pass
    return _whole(transcribing.result, body)


def _whole(result: Transcription, body: AudioRequest) -> Response:
    if body.response_format == "json":
        return JSONAnswer(transcription_json(result))
    if body.response_format == "verbose_json":
        return JSONAnswer(verbose_json(result, body.granularities))
    media_type = f"{FORMATS[body.response_format].media_type}; charset=utf-8"
    return Response(write(result, body.response_format), headers={"content-type": media_type})


async def _events(transcribing: Transcribing, timed: bool) -> AsyncIterator[bytes]:
    """The text as it grows, window by window, and if `timed`, segments with their times; at the end all of it."""
    async with transcribing:
        sent, num_told = "", 0
        async for result in transcribing.run():
            for segment in result.segments[num_told:] if timed else ():
                times = {"id": str(segment.id), "start": segment.start, "end": segment.end}
                yield event(dumps({"type": "transcript.text.segment", **times, "text": segment.text}))
                num_told += 1
            if len(result.text) > len(sent):
                yield event(dumps({"type": "transcript.text.delta", "delta": result.text[len(sent) :]}))
                sent = result.text
        yield event(dumps({"type": "transcript.text.done", "text": sent, "usage": _usage(transcribing)}))


def _usage(transcribing: Transcribing) -> dict[str, Any]:
    """In tokens, as OpenAI's clients declare it; those of audio are the encoder's."""
    text, audio, written = transcribing.num_prompt_tokens, transcribing.num_audio_tokens, transcribing.num_output_tokens
    return {
        "type": "tokens",
        "input_tokens": text + audio,
        "input_token_details": {"text_tokens": text, "audio_tokens": audio},
        "output_tokens": written,
        "total_tokens": text + audio + written,
    }
