"""POST /v1/audio/…: the form, with OpenAI's fields and vLLM's on top, and the JSON of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from octavo.errors import ParameterError
from octavo.server.errors import HttpError
from octavo.server.protocol.common import NOT_YET, Name, Neutral, RequestModel, tell_refused
from octavo.server.protocol.forms import BOOLEAN, INTEGER, NUMBER, FormFile, FormRequest
from octavo.speech.formats import FORMATS, FormatName, verbose
from octavo.speech.job import TranscribeOptions
from octavo.speech.result import Transcription
from octavo.speech.tokens import SpeechTokens

SPEAKERS = ("known_speaker_names", "known_speaker_references")
SAMPLED = "is not supported: leave it out; temperature and seed are what there is"


def _describe(schema: dict[str, Any], model: type[RequestModel]) -> None:
    """Lists may have brackets behind their names, as OpenAI's clients write them."""
    tell_refused(schema, model)
    properties = schema["properties"]
    properties["timestamp_granularities[]"] = properties["timestamp_granularities"]


class AudioRequest(FormRequest):
    """A form with a file of speech."""

    model_config = ConfigDict(json_schema_extra=_describe)

    file: FormFile = Field(
        description="wav, mp3, m4a, mp4, flac, ogg, opus, webm, mkv, aac, aiff or amr, of any length"
    )
    model: Name = Field("", description="may be left out where one model can do it")
    language: Name = Field("", description="what is spoken, as a code (en) or a name; left out: detected")
    prompt: str = Field("", description="what was said before, or names and spellings that may occur")
    response_format: FormatName = "json"
    temperature: Annotated[float, Field(ge=0, le=1), NUMBER] = Field(
        0.0, description="0: and higher ones where a text looks wrong; another: only that"
    )
    stream: Annotated[bool, BOOLEAN] = Field(False, description="with json, text and verbose_json")
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), INTEGER] = 0
    timestamp_granularities: list[Literal["segment", "word"]] = Field(
        [], description="with verbose_json; may be repeated; left out: segment"
    )

    CONTENT, EMPTY = "the audio", "invalid_audio"
    LISTS: ClassVar[frozenset[str]] = frozenset(
        {"timestamp_granularities", "include", "keywords", "languages", *SPEAKERS}
    )
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "include": ((), "is not supported: there are no log-probabilities; verbose_json has avg_logprob"),
        "chunking_strategy": (("auto",), "is not supported but for auto: audio is cut in its pauses"),
        **dict.fromkeys(SPEAKERS, ((), "is not supported: speakers are not told apart")),
        "keywords": ((), "is not supported: say words that may occur in 'prompt'"),
        "languages": ((), "is not supported: say one in 'language', or none to detect it"),
        "to_language": (("en",), "is not supported but for en: Whisper translates into English only"),
        "stream_include_usage": (("true", "false"), "must be true or false; the last event always has the usage"),
        "stream_continuous_usage_stats": (("false",), NOT_YET),
        "max_completion_tokens": ((), "is not supported: all that is said is written"),
        "hotwords": ((), "is not supported: say them in 'prompt'"),
        "n": (("1",), SAMPLED),
        "use_beam_search": (("false",), NOT_YET),
        "top_k": (("0", "-1"), SAMPLED),
        **dict.fromkeys(("length_penalty", "top_p", "repetition_penalty"), (("1", "1.0"), SAMPLED)),
        **dict.fromkeys(("min_p", "presence_penalty", "frequency_penalty"), (("0", "0.0"), SAMPLED)),
        "vllm_xargs": ((), "is not supported"),
    }

    @property
    def granularities(self) -> set[str]:
        """What verbose_json has the times of."""
        return set(self.timestamp_granularities or ("segment",))

    def check(self) -> None:
        """What fields say together. Raises HttpError."""
        name = "timestamp_granularities"
        if self.stream and self.response_format in ("srt", "vtt"):
            reason = "response_format: with stream=true only json, text, and verbose_json, whose segments have times"
            raise HttpError(reason, "response_format", code="unsupported_parameter")
        if self.stream and "word" in self.timestamp_granularities:
            reason = f"{name}: with stream=true only segment"
            raise HttpError(reason, name, code="unsupported_parameter")
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise HttpError(f"{name}: only with response_format=verbose_json", name, code="invalid_value")

    def check_language(self, tokens: SpeechTokens) -> None:
        """Raises ParameterError or HttpError for a language that the model does not know."""
        try:
            tokens.language(self.language or "en")
        except ParameterError:
            if not tokens.is_multilingual:
                raise
            codes = ", ".join(tokens.languages)  # with their names they would not fit into a message
            reason = f"language: {self.language[:20]!r} is not known; codes are {codes}"
            raise HttpError(reason, "language", code="invalid_value") from None

    def options(self, task: str) -> TranscribeOptions:
        """Temperature 0 is OpenAI's word for trying several."""
        return TranscribeOptions(
            language=self.language or None,
            task=task,
            prompt=self.prompt or None,
            timestamps=FORMATS[self.response_format].timed,
            word_timestamps="word" in self.granularities,
            temperature=self.temperature or None,
        )


class TranscriptionRequest(AudioRequest):
    """Speech to write down."""

    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **AudioRequest.REFUSED,
        "to_language": ((), "is not supported: /v1/audio/translations translates into English"),
    }


class TranslationRequest(AudioRequest):
    """Speech to write down in English."""


def transcription_json(result: Transcription) -> dict[str, Any]:
    """The answer of response_format=json; the usage is in seconds, begun ones are whole."""
    return {"text": result.text, "usage": {"type": "duration", "seconds": math.ceil(result.duration)}}


def verbose_json(result: Transcription, granularities: set[str]) -> dict[str, Any]:
    """The answer of response_format=verbose_json. `language` is that of the text."""
    answer = {**verbose(result, words="word" in granularities), **transcription_json(result)}
    if result.task == "translate":
        answer["language"] = "english"
    for segment in answer["segments"]:
        segment.pop("words", None)
    if "segment" not in granularities:
        del answer["segments"]
    return answer
