"""A transcription as a text of one of the usual formats."""

from __future__ import annotations

import json
from dataclasses import asdict

from octavo.speech.result import Transcription
from octavo.speech.subtitles import Cue, srt, vtt

FORMATS = ("text", "srt", "vtt", "json", "verbose_json")


def write(transcription: Transcription, format: str, *, words: bool = False) -> str:
    """The contents of a file, with a line's end behind them. Raises ValueError for a format that is not of FORMATS."""
    if format == "text":
        return transcription.text + "\n"
    if format in ("srt", "vtt"):
        cues = [Cue(segment.start, segment.end, segment.text) for segment in transcription.segments]
        return (srt if format == "srt" else vtt)(cues)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    value = {"text": transcription.text} if format == "json" else asdict(transcription)
    return json.dumps(value, ensure_ascii=False) + "\n"
