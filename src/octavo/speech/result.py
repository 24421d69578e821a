"""What a transcription is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.errors import OctavoError


@dataclass(slots=True)
class SpeechOutput:
    """What is known of a window of speech besides its text."""

    language: str  # its code
    language_probability: float = 1.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    avg_logprob: float = 0.0  # per token
    compression_ratio: float = 0.0
    token_starts: list[float] = field(default_factory=list)  # if asked for: of each text token, and of their end
    is_silence: bool = False  # whether the text is no more than a guess at nothing


@dataclass(slots=True)
class Word:
    """A word with the punctuation that clings to it; times are seconds from the start of the audio."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(slots=True)
class Segment:
    """A stretch of speech, in seconds from the start of the audio. The fields are those of OpenAI's `verbose_json`.

    `seek` is where the window begins that it was heard in, in hundredths of a second.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: list[Word] | None = None  # if they were asked for


@dataclass(slots=True)
class Transcription:
    """A whole audio as text. `language` is its code, `duration` its length in seconds."""

    text: str
    segments: list[Segment] = field(default_factory=list)
    language: str = "en"
    duration: float = 0.0
    task: str = "transcribe"
    error: OctavoError | None = None  # of one audio of several: why there is no text

    @property
    def words(self) -> list[Word] | None:
        """The words of all segments; None if they were not asked for."""
        if any(segment.words is None for segment in self.segments):
            return None
        return [word for segment in self.segments for word in segment.words or ()]
