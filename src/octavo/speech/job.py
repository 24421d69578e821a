"""The job that writes down one window of speech: language, text with or without timestamps, and second thoughts.

It begins with the tokens up to <|startoftranscript|>. The logits there tell the language, and whether anybody speaks at
all; then the rest of the prompt is put behind them. A text that looks wrong is written again at the next temperature
(Radford et al. 2022, section 4.5).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from octavo.engine.beam import BeamSearch
from octavo.engine.completion import Completion
from octavo.engine.inputs import check_prompt
from octavo.engine.job import SamplingJob, Share
from octavo.engine.loading import LoadedModel
from octavo.engine.steps import make_step
from octavo.errors import NumericalError, ParameterError
from octavo.executor.base import Logits, StepResult
from octavo.request import Chunk, Request, RequestOutput, Sequence, StepPlan
from octavo.sampling.options import sequence_seed
from octavo.sampling.rules.base import Rule
from octavo.sampling.rules.timestamps import Timestamps
from octavo.sampling.rules.tokens import SuppressedTokens
from octavo.scheduler.scheduler import Scheduler
from octavo.speech.alignment import POSITIONS_PER_SECOND, token_starts
from octavo.speech.model import SpeechModel
from octavo.speech.result import SpeechOutput
from octavo.speech.tokens import SpeechTokens

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SPARSE = 0.5  # text tokens per second: who speaks says more in a window that is all sound
HOPELESS_LOGPROB = -1.5  # per token: where the likeliest text is no likelier, it is a guess at music or noise
TOKENS_PER_SECOND = 30  # more than anybody says, in the languages that take the most tokens
MAX_BEAM_SIZE = 32
SPARE_TOKENS = 32  # for timestamps, and words that are cut


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeOptions:
    """What a transcription is to be like.

    `language` is a code or an English name, None to detect it. `task` "translate" makes English of it. `prompt` is
    what was said before, or names and spellings that may occur. `timestamps` asks for times of segments,
    `word_timestamps` for those of words. `temperature` other than None is the only one tried; at 0, `beam_size` texts
    are followed at a time. With `sequential`, windows follow each other where the last one's text ended, and see its
    text; else audio is cut in pauses, and windows are independent. The thresholds, whose defaults are those of
    Whisper's own program, decide whether a text is written again, or is not there at all; None turns one off. Raises
    ParameterError.
    """

    language: str | None = None
    task: str = "transcribe"
    prompt: str | None = None
    timestamps: bool = True
    word_timestamps: bool = False
    temperature: float | None = None
    beam_size: int = 1
    sequential: bool = False
    condition_on_previous_text: bool = True
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature <= 1:
            raise ParameterError("temperature", self.temperature, "in 0..1")
        if type(self.beam_size) is not int or not 1 <= self.beam_size <= MAX_BEAM_SIZE:
            raise ParameterError("beam_size", self.beam_size, f"an integer in 1..{MAX_BEAM_SIZE}")
        if self.sequential and not self.timestamps:
            raise ParameterError("sequential", True, "False without timestamps: they say where the next window begins")

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Those that are tried in turn, while a text looks wrong."""
        return TEMPERATURES if self.temperature is None else (self.temperature,)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechTask:
    """What is wanted of a window of speech, of which `num_positions` of the encoder's output have sound.

    `language` None is to be detected.
    """

    speech: SpeechModel
    options: TranscribeOptions
    language: str | None = None
    num_positions: int = 0
    previous_tokens: tuple[int, ...] = ()

    @property
    def tokens(self) -> SpeechTokens:
        return self.speech.tokens

    def job(self, request: Request, model: LoadedModel, seed: int) -> SpeechJob:
        """Raises PromptError where the prompt leaves no room for a text."""
        return SpeechJob(request, model, self, seed)

    def prompt(self, language: str) -> list[int]:
        return self.tokens.prompt(language, self.options.task, self.options.timestamps, self.previous_tokens)

    @property
    def opening(self) -> list[int]:
        """The tokens up to <|startoftranscript|>."""
        tokens = self.prompt(self.language or "en")
        return tokens[: tokens.index(self.tokens.start) + 1]

    @property
    def longest_text(self) -> int:
        """How many tokens a text may have, for the sound that there is."""
        return SPARE_TOKENS + TOKENS_PER_SECOND * self.num_positions // POSITIONS_PER_SECOND

    def is_unlikely(self, attempt: _Attempt) -> bool:
        limit = self.options.logprob_threshold
        return limit is not None and attempt.avg_logprob < limit

    def is_repetitive(self, attempt: _Attempt) -> bool:
        limit = self.options.compression_ratio_threshold
        return limit is not None and attempt.compression_ratio > limit

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those that no user asks for, and text of speech needs; they are in order."""
        tokens = self.tokens
        banned = {tokens.start, tokens.start_of_previous, tokens.no_speech, tokens.no_timestamps}
        banned |= {*tokens.tasks.values(), *tokens.languages.values(), *self.speech.suppressed_ids}
        rules: list[Rule] = [SuppressedTokens(sorted(banned)), SuppressedTokens(self.speech.suppressed_first_ids, 1)]
        return (*rules, Timestamps(tokens.first_timestamp, tokens.end)) if self.options.timestamps else tuple(rules)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A text that was written at some temperature, and how good it looks."""

    completion: Completion
    temperature: float
    avg_logprob: float
    compression_ratio: float


class SpeechJob(SamplingJob):
    """One window. `request.params` has max_tokens and the seed; the temperature is the task's."""

    def __init__(self, request: Request, model: LoadedModel, task: SpeechTask, seed: int):
        super().__init__(request, model, seed)
        self.task, self._seed = task, seed
        request.max_sequences, request.lockstep = task.options.beam_size, task.options.beam_size > 1
        check_prompt(task.prompt(task.language or "en"), model.vocab_size, model.max_model_len)
        self._rules = task.rules
        self._has_begun = False  # to write: the prompt is whole
        self._attempts: list[_Attempt] = []  # that have ended
        self._search: BeamSearch | None = None  # of an attempt that searches
        self._aligned: Sequence | None = None  # the text once more, to see what it looks at
        self._done = False
        self.result = SpeechOutput(task.language or "en")

    @property
    def finished(self) -> bool:
        return self._done

    def stop(self, reason: str) -> None:
        super().stop(reason)
        self._done = True

    def output(self, finished: bool, delta: bool) -> RequestOutput:
        output = super().output(finished, delta)
        output.details = self.result
        return output

    def draws(self, sequence: Sequence) -> list[Sequence]:
        """None for the language, for beams, and for what the text looks at."""
        draws = self._has_begun and self._search is None and self._aligned is None
        return [sequence] if draws else []

    def land(self, scheduler: Scheduler, share: Share, result: StepResult, tokens: list[int]) -> None:
        super().land(scheduler, share, result, tokens)
        if share.ends:
            self._advance(scheduler, share.ends, result)
        if share.has_news:
            self._take_attempt(scheduler)

    def _advance(self, scheduler: Scheduler, ends: list[tuple[Chunk, int]], result: StepResult) -> None:
        if self._aligned is not None:
            self._align(scheduler)
        elif self._search is not None:
            self._search.advance(scheduler, ends, result, self._rules)
            if not self._search.beams:
                self.samples, self._search = [self._completion_of(self._search.finished[0])], None
        else:
            chunk, row = ends[0]
            self._hear(chunk.sequence, result.logits[row])

    def _hear(self, sequence: Sequence, logits: Logits) -> None:
        """Takes the logits after <|startoftranscript|>, and goes on with the rest of the prompt."""
        tokens, task = self.task.tokens, self.task
        shifted = logits.astype(np.float64)
        if not np.isfinite(shifted.max()):
            raise NumericalError
        shifted = np.exp(shifted - shifted.max())
        self.result.no_speech_prob = float(shifted[tokens.no_speech] / shifted.sum())
        if task.language is None and tokens.is_multilingual:
            codes = list(tokens.languages)
            heard = shifted[list(tokens.languages.values())]
            self.result.language = codes[int(heard.argmax())]
            self.result.language_probability = float(heard.max() / heard.sum())
        rest = task.prompt(self.result.language)[len(sequence.tokens) :]
        self.request.prompt = self.request.prompt.extended(rest)
        sequence.tokens += rest
        sequence.num_prompt_tokens = len(sequence.tokens)
        if not rest:  # nothing is left to be computed: the last token's logits, once more
            sequence.num_computed -= 1
        self.max_tokens = min(self.max_tokens, self.model.max_model_len - len(sequence.tokens), task.longest_text)
        self._begin(sequence)

    def _take_attempt(self, scheduler: Scheduler) -> None:
        """Looks at a text that has ended: keeps it, or begins again."""
        completion, options = self.samples[0], self.task.options
        if completion.finish_reason not in ("stop", "length") or self._aligned or self._done:
            return
        task = self.task
        attempt = _Attempt(
            completion,
            options.temperatures[len(self._attempts)],
            self._avg_logprob(completion),
            compression_ratio(completion.text),
        )
        self._attempts.append(attempt)
        self.result.is_silence = self._is_silence(attempt)
        doubtful = task.is_unlikely(attempt) or task.is_repetitive(attempt)
        if self.result.is_silence or not doubtful:
            self._keep(scheduler, attempt)
        elif len(self._attempts) == len(options.temperatures):
            best = max(self._attempts, key=lambda one: (not task.is_repetitive(one), one.avg_logprob))
            self._keep(scheduler, best)
        else:
            prompt = self.request.prompt.token_ids
            fresh = Sequence(len(self._attempts), list(prompt), len(prompt))
            scheduler.restart(self.request, fresh)
            self._begin(fresh)

    def _avg_logprob(self, completion: Completion) -> float:
        """As Whisper's own program has it: the end counts as a token, also where the text was cut before it."""
        num_text = sum(token != self.task.tokens.end for token in completion.token_ids)
        return completion.cumulative_logprob / (num_text + 1)

    def _is_silence(self, attempt: _Attempt) -> bool:
        """Whether a text is no more than what the model says to sounds that are no speech."""
        task, options, no_speech_prob = self.task, self.task.options, self.result.no_speech_prob
        if options.logprob_threshold is not None and self._attempts[0].avg_logprob < HOPELESS_LOGPROB:
            return True
        if options.no_speech_threshold is None:
            return False
        num_words = sum(map(task.tokens.is_text, attempt.completion.token_ids))
        if num_words < SPARSE * task.num_positions / POSITIONS_PER_SECOND:
            return no_speech_prob > options.no_speech_threshold / 2
        is_unlikely = options.logprob_threshold is None or task.is_unlikely(attempt)
        return no_speech_prob > options.no_speech_threshold and is_unlikely

    def _keep(self, scheduler: Scheduler, attempt: _Attempt) -> None:
        self.samples = [attempt.completion]
        self.result.temperature = attempt.temperature
        self.result.avg_logprob = attempt.avg_logprob
        self.result.compression_ratio = attempt.compression_ratio
        self._end(scheduler)

    def _end(self, scheduler: Scheduler) -> None:
        """The text is what it is; its words may have to be found in the sound."""
        tokens, task = self.task.tokens, self.task
        text = [token for token in self.samples[0].token_ids if tokens.is_text(token)]
        if not task.options.word_timestamps or self.result.is_silence or not text:
            self._done = True
            return
        start = tokens.prompt(self.result.language, task.options.task)
        room = self.model.max_model_len - 1
        self._aligned = Sequence(len(self._attempts), [*start, *text, tokens.end][:room], len(start))
        scheduler.restart(self.request, self._aligned)

    def _align(self, scheduler: Scheduler) -> None:
        assert self._aligned is not None
        sequence, task = self._aligned, self.task
        whole = StepPlan([Chunk(self.request, sequence, 0, len(sequence.tokens))])
        weights = self.model.executor.cross_attention(make_step(whole), task.speech.alignment_heads)
        # Row i is what was looked at to write token i + 1.
        written = weights[:, sequence.num_prompt_tokens - 1 : len(sequence.tokens) - 1]
        self.result.token_starts = token_starts(written, task.num_positions)
        scheduler.finish_sequence(self.request, sequence)
        self._done = True

    def _begin(self, sequence: Sequence) -> None:
        """Sets out to write a text behind the prompt, which `sequence` has."""
        attempt, options, end = len(self._attempts), self.task.options, self.task.tokens.end
        temperature = options.temperatures[attempt]
        self.samples, self.by_sequence, self._has_begun = [], {}, True
        self._add(sequence)
        if temperature == 0 and options.beam_size > 1:
            self._search = BeamSearch(self.request, options.beam_size, self.max_tokens, end, frozenset([end]))
            return
        sequence.options = replace(self._options(self._rules, adjusted_logprobs=True), temperature=temperature)
        sequence.seed = sequence_seed(self._seed, attempt)


def compression_ratio(text: str) -> float:
    """How many times smaller zlib makes it: much for text that repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
