"""Transcriptions as people and programs read them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from octavo.speech.languages import LANGUAGES
from octavo.speech.result import Transcription
from octavo.speech.subtitles import Cue, srt, vtt

FormatName = Literal["json", "text", "srt", "vtt", "verbose_json"]


class Format(NamedTuple):
    """How a transcription may be written: a file's suffix, the media type, and whether it needs the segments' times."""

    suffix: str
    media_type: str
    timed: bool


FORMATS: dict[FormatName, Format] = {
    "json": Format(".json", "application/json", False),
    "text": Format(".txt", "text/plain", False),
    "srt": Format(".srt", "application/x-subrip", True),
    "vtt": Format(".vtt", "text/vtt", True),
    "verbose_json": Format(".json", "application/json", True),
}


def write(transcription: Transcription, format: FormatName, *, words: bool = False) -> str:
    """The contents of a file of that format, with a newline at the end; with `words`, their times if there are any.

    Raises ValueError for another format.
    """
    cues = [Cue(segment.start, segment.end, segment.text) for segment in transcription.segments]
    match format:
        case "text":
            return transcription.text + "\n"
        case "json":
            return json.dumps({"text": transcription.text}, ensure_ascii=False) + "\n"
        case "srt":
            return srt(cues)
        case "vtt":
            return vtt(cues)
        case "verbose_json":
            return json.dumps(verbose(transcription, words), ensure_ascii=False) + "\n"
    raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")


def verbose(transcription: Transcription, words: bool = False) -> dict[str, Any]:
    """The `verbose_json` of OpenAI's API. A language is there by its English name."""
    segments = [asdict(segment) for segment in transcription.segments]
    for segment in segments:
        if not words:
            segment.pop("words")
    found: dict[str, Any] = {
        "task": transcription.task,
        "language": LANGUAGES.get(transcription.language, transcription.language).lower(),
        "duration": transcription.duration,
        "text": transcription.text,
        "segments": segments,
    }
    if words:
        found["words"] = [asdict(word) for word in transcription.words or ()]
    return found
