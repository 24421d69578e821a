"""One audio on its way through an engine: windows in, segments out, in order.

A reading does no waiting. Whoever drives it asks for prompts, runs them, and brings back what came of them: `LLM` from
the caller's thread, the server from its event loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from octavo.engine.loading import LoadedModel
from octavo.errors import OctavoError, UnsupportedError
from octavo.request import Prompt, RequestOutput
from octavo.speech import SAMPLE_RATE
from octavo.speech.alignment import POSITIONS_PER_SECOND, split_words
from octavo.speech.job import SpeechTask, TranscribeOptions
from octavo.speech.model import SpeechModel
from octavo.speech.result import Segment, SpeechOutput, Transcription, Word
from octavo.speech.windows import CutWindows, FollowingWindows, Samples, Window, next_window, split_at_timestamps

HUNDREDTHS = 100
BORDER = 0.5  # seconds that a word may reach over the border of its segment


@dataclass(slots=True)
class _Heard:
    segments: list[Segment] = field(default_factory=list)
    text: str = ""


class Reading:
    """`chunks` are the audio's samples: float32 [n], mono, 16 kHz. They are taken as they are needed.

    Raises ParameterError or UnsupportedError for options that do not fit the model.
    """

    def __init__(self, model: LoadedModel, chunks: Iterable[Samples], options: TranscribeOptions):
        self.model, self.options = model, options
        self.speech = speech_of(model)
        self.num_samples = 0
        tokens = self.speech.tokens
        self.language = tokens.language(options.language) if options.language or not tokens.is_multilingual else None
        tokens.prompt("en", options.task)  # is refused here if the model can't do it
        self._max_previous = max(1, min(tokens.max_previous_tokens, model.max_model_len // 2) - 1)
        self._previous: list[int] = []
        if options.prompt:
            ids = model.tokenizer.encode(" " + options.prompt.strip(), add_special_tokens=False)
            self._previous = [token for token in ids if tokens.is_text(token)]
        self._stream = _counted(self, chunks)
        self._windows = FollowingWindows(self._stream) if options.sequential else CutWindows(self._stream)
        self._open: dict[int, Window] = {}  # asked for, not answered
        self._heard: dict[int, _Heard] = {}  # answered, while one before it is not
        self._next = 0  # the number of the window whose text comes next
        self._segments: list[Segment] = []
        self._text: list[str] = []
        self._has_ended = False
        self.error: OctavoError | None = None

    @property
    def finished(self) -> bool:
        return self._has_ended and not self._open

    def fail(self, error: OctavoError) -> None:
        """Nothing more is asked for, and what comes is dropped."""
        self.error, self._has_ended = error, True

    @property
    def is_decoded(self) -> bool:
        """Whether `next` has nothing more to give."""
        return self._has_ended

    @property
    def seconds_done(self) -> float:
        """How much of the audio has become text."""
        starts = [window.start for window in self._open.values()]
        return (min(starts) if starts else self._windows.position) / SAMPLE_RATE

    def next(self) -> tuple[int, Prompt] | None:
        """A window's number and what to ask the engine about it; None where there is nothing to ask now.

        Decodes one more chunk of the audio at most, unless windows follow each other. Raises AudioError.
        """
        if self._has_ended or (self.options.sequential and self._open):
            return None
        found = self._windows.next()
        if found is None:
            self._has_ended = self._windows.has_ended
            return None
        number = self._next + len(self._open) + len(self._heard)
        window = self._open[number] = Window(number, *found)
        return number, self._prompt(window)

    def take(self, number: int, output: RequestOutput) -> list[Segment]:
        """Brings what became of a window; returns the segments that are next in order."""
        window = self._open.pop(number)
        if self.error is not None:
            return []
        heard = self._heard[number] = self._read(window, output)
        if self.options.sequential:
            self._go_on(window, output, heard)
        found: list[Segment] = []
        while self._next in self._heard:
            ready = self._heard.pop(self._next)
            self._next += 1
            for segment in ready.segments:
                segment.id = len(self._segments) + len(found)
                found.append(segment)
            self._text.append(ready.text)
        self._segments += found
        return found

    def result(self) -> Transcription:
        return Transcription(
            "".join(self._text).strip(),
            self._segments,
            self.language or "en",
            round(self.num_samples / SAMPLE_RATE, 3),
            self.options.task,
            self.error,
        )

    def _prompt(self, window: Window) -> Prompt:
        task = SpeechTask(
            speech=self.speech,
            options=self.options,
            language=self.language,
            num_positions=min(self.speech.source_positions, math.ceil(window.seconds * POSITIONS_PER_SECOND)),
            previous_tokens=tuple(self._previous[-self._max_previous :]),
        )
        return Prompt(None, self.speech.source(window.samples), task.opening, job=task.job)

    def _read(self, window: Window, output: RequestOutput) -> _Heard:
        """The segments of a window's text, none if it is silence."""
        found, completion, tokens = _details(output), output.outputs[0], self.speech.tokens
        if self.language is None and not found.is_silence:
            self.language = found.language
        heard, place = _Heard(), 0
        if found.is_silence:
            return heard
        for start, end, ids in split_at_timestamps(completion.token_ids, tokens, window.seconds):
            text = self.model.tokenizer.decode(ids)
            offset = window.start / SAMPLE_RATE
            begin, stop = (round(offset + min(time, window.seconds), 3) for time in (start, end))
            words = self._words(window, output, ids, place) if self.options.word_timestamps else None
            if words:
                begin, stop = hull(words, begin, stop)
            place += len(ids)
            heard.text += text
            if text.strip():
                heard.segments.append(
                    Segment(
                        id=0,
                        seek=window.start * HUNDREDTHS // SAMPLE_RATE,
                        start=begin,
                        end=stop,
                        text=text.strip(),
                        tokens=ids,
                        temperature=found.temperature,
                        avg_logprob=found.avg_logprob,
                        compression_ratio=found.compression_ratio,
                        no_speech_prob=found.no_speech_prob,
                        words=words,
                    )
                )
        return heard

    def _words(self, window: Window, output: RequestOutput, ids: list[int], first: int) -> list[Word]:
        """The words of a segment, whose tokens are those from `first` on of the window's text."""
        starts, completion, tokens = _details(output).token_starts, output.outputs[0], self.speech.tokens
        likely = [
            math.exp(entry[token].logprob)
            for token, entry in zip(completion.token_ids, completion.logprobs or (), strict=False)
            if tokens.is_text(token)
        ]
        offset, found = window.start / SAMPLE_RATE, list[Word]()
        for text, places in split_words(ids, self.model.tokenizer, self.language or "en"):
            begin, end = first + places[0], first + places[-1] + 1
            if end < len(starts):
                start, stop = (round(offset + min(starts[i], window.seconds), 2) for i in (begin, end))
                found.append(Word(text.strip(), start, stop, float(np.mean(likely[begin:end]))))
        return without_pauses(found)

    def _go_on(self, window: Window, output: RequestOutput, heard: _Heard) -> None:
        """Moves the next window of a sequential reading to where this one's text ended."""
        assert isinstance(self._windows, FollowingWindows)
        tokens, ids, found = self.speech.tokens, output.outputs[0].token_ids, _details(output)
        if found.is_silence:
            self._windows.advance(window.seconds)
            return
        self._windows.advance(next_window(ids, tokens, window.seconds))
        if not self.options.condition_on_previous_text or found.temperature > 0.5:
            self._previous = []
        else:
            self._previous += [token for segment in heard.segments for token in segment.tokens]


def speech_of(model: LoadedModel) -> SpeechModel:
    """Raises UnsupportedError if it is a model of text."""
    if not isinstance(model.reader, SpeechModel):
        raise UnsupportedError("model", model.name, "it reads text; to transcribe, load a Whisper model")
    return model.reader


def _details(output: RequestOutput) -> SpeechOutput:
    assert isinstance(output.details, SpeechOutput)
    return output.details


def without_pauses(words: list[Word]) -> list[Word]:
    """The words of a segment; what is too long for the first or the last one is a pause before or after it."""
    lengths = [word.end - word.start for word in words if word.end > word.start]
    if lengths:
        longest = 2 * min(0.7, float(np.median(lengths)))
        first, last = words[0], words[-1]
        first.start = round(max(first.start, first.end - longest), 2)
        last.end = round(min(last.end, last.start + longest), 2)
    return words


def hull(words: list[Word], start: float, end: float) -> tuple[float, float]:
    """When a segment begins and ends that has these words, and that its text says is from `start` to `end`.

    Words are found in the sound, timestamps are guessed while writing: the words are right. But a first or a last word
    that reaches far over the border has a pause in it.
    """
    first, last = words[0], words[-1]
    if first.start + BORDER < start < first.end:
        first.start = start
    if last.start < end < last.end - BORDER:
        last.end = end
    return first.start, last.end


def _counted(reading: Reading, chunks: Iterable[Samples]) -> Iterator[Samples]:
    for chunk in chunks:
        reading.num_samples += len(chunk)
        yield chunk
