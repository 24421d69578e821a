"""A job is a request as the engine serves it: it turns logits into tokens, and tokens into what the user sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from octavo import _native
from octavo.engine.beam import Beam, BeamSearch
from octavo.engine.completion import Completion, StopRules
from octavo.engine.constrained import end_without_token, go_on, make_constraint, may_ban, takes_forced
from octavo.engine.loading import LoadedModel
from octavo.errors import NumericalError, OctavoError, RequestError, UnsupportedError
from octavo.executor.base import Logits, Sampled, StepResult
from octavo.request import Chunk, Logprob, LogprobsAtPosition, Request, RequestMetrics, RequestOutput, Sequence
from octavo.sampling.options import SamplerOptions, sampler_options, sequence_seed
from octavo.sampling.rules.base import Rule, RuleRequest
from octavo.sampling_params import SamplingParams, known_extra_args
from octavo.scheduler.scheduler import Scheduler
from octavo.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Share:
    """A job's part of a step: its chunks, each with what of the step's result belongs to it."""

    prompts: list[tuple[Chunk, range]] = field(default_factory=list)  # of prompt logits: the rows of its tokens
    draws: list[tuple[Chunk, range]] = field(default_factory=list)  # of drawn tokens: their places among the draws
    ends: list[tuple[Chunk, int]] = field(default_factory=list)  # of logits that nothing is drawn from: the last row
    error: Exception | None = None  # what the job raised when the step began

    @property
    def has_news(self) -> bool:
        """Whether the step gives more than a part of the prompt."""
        return bool(self.draws or self.ends)


class Job:
    """What an engine asks of a job, and what all kinds have in common: prompt log-probabilities, metrics, the output.

    `draws` says what it wants of a step, `land` what it does when that has landed, `finished` and `stop` how it ends.
    A kind of job says in its constructor how many seats its request takes, and whether its sequences go in lockstep.
    Whatever a method raises ends this job alone.
    """

    def __init__(self, request: Request, model: LoadedModel):
        self.request, self.model = request, model
        self.metrics = RequestMetrics(request.arrival)
        self.rules = StopRules.of(request.params, model.eos_token_ids)
        self.error: OctavoError | None = None
        self.prompt_logprobs: list[LogprobsAtPosition | None] | None = None
        if request.params.prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        room = model.max_model_len - len(request.prompt.token_ids)
        self.max_tokens = room if request.params.max_tokens is None else min(room, request.params.max_tokens)

    @property
    def finished(self) -> bool:
        raise NotImplementedError

    def draws(self, sequence: Sequence) -> list[Sequence]:
        """The sequences whose next tokens are drawn from the logits after this one; none if the job takes the logits.

        They have options and a seed.
        """
        raise NotImplementedError

    def land(self, scheduler: Scheduler, share: Share, result: StepResult, tokens: list[int]) -> None:
        """Takes its share of a step that has been run; `tokens` are those of all draws.

        Raises NumericalError for logits that no token can be chosen from, NoTokenError where the request bans all.
        """
        for chunk, rows in share.prompts:
            self.take_prompt_logits(chunk, result.logits[rows.start : rows.stop])

    @property
    def has_tokens(self) -> bool:
        """Whether anything has been generated."""
        raise NotImplementedError

    def stop(self, reason: str) -> None:
        """Ends all that is unfinished: "abort", "error", or "length" where what there is shall be the answer."""
        raise NotImplementedError

    def completions(self) -> list[Completion]:
        """What the user is to see, in order."""
        raise NotImplementedError

    def output(self, finished: bool, delta: bool) -> RequestOutput:
        return RequestOutput(
            request_id=self.request.id,
            prompt=self.request.prompt.text,
            prompt_token_ids=self.request.prompt.token_ids,
            prompt_logprobs=self.prompt_logprobs,
            outputs=[completion.output(delta) for completion in self.completions()],
            finished=finished,
            metrics=self.metrics,
            num_cached_tokens=self.request.num_cached_tokens,
            error=self.error,
        )

    def take_prompt_logits(self, chunk: Chunk, logits: Logits) -> None:
        """Notes the log-probabilities of the prompt tokens that follow the chunk's; `logits` has its rows."""
        assert self.prompt_logprobs is not None
        prompt, k = self.request.prompt.token_ids, self.request.params.prompt_logprobs
        assert k is not None
        k = self.model.vocab_size if k == -1 else k
        first = len(self.prompt_logprobs)  # the next prompt position without log-probabilities
        begin, end = first - 1 - chunk.start, min(len(logits), len(prompt) - 1 - chunk.start)
        if begin < 0 or begin >= end:  # a preempted request computes them again
            return
        targets = prompt[first : chunk.start + end + 1]
        found = _native.top_logprobs(logits[begin:end], k, targets)
        ids, logprobs = found.ids.tolist(), found.logprobs.tolist()
        chosen, ranks = found.chosen.tolist(), found.ranks.tolist()
        if np.isnan(found.chosen).any():
            raise NumericalError
        for i, target in enumerate(targets):
            self.prompt_logprobs.append(self._entry(target, chosen[i], ranks[i], ids[i], logprobs[i]))

    def _completion(self, index: int) -> Completion:
        """What shows a continuation, which has no tokens yet."""
        request, tokenizer = self.request, self.model.tokenizer
        return Completion(index, request.params, self.rules, tokenizer, request.prompt.token_ids, self.max_tokens)

    def _completion_of(self, beam: Beam, index: int = 0) -> Completion:
        """What shows a beam, which is finished."""
        completion = self._completion(index)
        for token, logprob in zip(beam.tokens, beam.logprobs, strict=True):
            completion.append(token)
            if completion.logprobs is not None:
                completion.logprobs.append(self._entry(token, logprob, None, [], []))
        completion.stop("length")
        completion.finish_reason, completion.stop_reason = beam.finish_reason, beam.stop_reason
        completion.cumulative_logprob, completion.shows_logprob = beam.logprob, True
        return completion

    def _entry(
        self, token: int, logprob: float, rank: int | None, ids: list[int], logprobs: list[float]
    ) -> LogprobsAtPosition:
        """The chosen token first, then the likeliest ones."""
        text = self.model.tokenizer.token
        entry = {token: Logprob(logprob, rank, text(token))}
        for place, (other, value) in enumerate(zip(ids, logprobs, strict=True), 1):
            if other >= 0 and other not in entry:
                entry[other] = Logprob(value, place, text(other))
        return entry


def text_job(request: Request, model: LoadedModel, seed: int) -> Job:
    """The job of a prompt that brings none of its own. Raises RequestError."""
    if model.pooler is not None:
        pooler = model.pooler
        raise RequestError(f"the model {model.name} {pooler.does}, and generates none: see {pooler.shown_by}")
    return (BeamJob if request.params.use_beam_search else SamplingJob)(request, model, seed)


class SamplingJob(Job):
    """Parallel samples: one prompt, `n` or `best_of` continuations that do not look at each other."""

    def __init__(self, request: Request, model: LoadedModel, seed: int):
        super().__init__(request, model)
        request.max_sequences = request.params.num_sequences
        self.samples: list[Completion] = []
        self.by_sequence: dict[Sequence, Completion] = {}
        options = self._options()
        request.siblings = [Sequence(index, [], 0) for index in range(1, request.params.num_sequences)]
        grammar, forces = request.prompt.grammar, model.processors is None and not may_ban(request.params)
        self._takes_forced = forces and takes_forced(request.params)
        for sequence in (*request.sequences, *request.siblings):
            sequence.options, sequence.seed = options, sequence_seed(seed, sequence.index)
            if grammar is not None:
                sequence.constraint = make_constraint(grammar, request.params, model.eos_token_ids, forces=forces)
        self._add(request.sequences[0])

    def _options(self, rules: Iterable[Rule] = (), adjusted_logprobs: bool = False) -> SamplerOptions:
        """What the sequences are drawn with; see `sampler_options`."""
        params = self.request.params
        asked = RuleRequest(
            params=params,
            vocab_size=self.model.vocab_size,
            prompt_token_ids=self.request.prompt.token_ids,
            end_ids=self.rules.all,
            bad_words=bad_word_ids(params.bad_words or [], self.model.tokenizer),
        )
        given = self.model.processors
        if given is not None:
            return sampler_options(asked, [*rules, *given.rules(asked)], adjusted_logprobs)
        if (params.extra_args or {}).keys() - known_extra_args:
            reason = f"must name what a plugin's rule reads: {', '.join(sorted(known_extra_args)) or 'there is none'}"
            raise UnsupportedError("extra_args", params.extra_args, reason)
        return sampler_options(asked, rules, adjusted_logprobs)

    def _add(self, sequence: Sequence) -> None:
        completion = self.by_sequence[sequence] = self._completion(sequence.index)
        self.samples.append(completion)

    @property
    def finished(self) -> bool:
        return not self.request.siblings and all(sample.finish_reason for sample in self.samples)

    @property
    def has_tokens(self) -> bool:
        return bool(self.samples[0].token_ids)

    def stop(self, reason: str) -> None:
        for sibling in self.request.siblings:
            self._add(sibling)
        for sample in self.samples:
            sample.stop(reason)

    def completions(self) -> list[Completion]:
        """All samples; with `best_of`, the `n` likeliest, once all are there."""
        params = self.request.params
        if params.num_sequences == params.n or not self.finished:
            return self.samples[: params.n]
        best = sorted(self.samples, key=lambda sample: -sample.cumulative_logprob)[: params.n]
        for index, sample in enumerate(best):
            sample.index = index
        return best

    def draws(self, sequence: Sequence) -> list[Sequence]:
        """At the prompt's end, all samples."""
        return [sequence, *self.request.siblings]

    def land(self, scheduler: Scheduler, share: Share, result: StepResult, tokens: list[int]) -> None:
        super().land(scheduler, share, result, tokens)
        for chunk, places in share.draws:
            if not chunk.sequence.finished:
                self._take(scheduler, chunk.sequence, result.sampled, places, tokens)

    def _take(
        self, scheduler: Scheduler, sequence: Sequence, sampled: Sampled, places: range, tokens: list[int]
    ) -> None:
        """Appends the drawn tokens; at the prompt's end, the other samples begin."""
        sequences = [sequence]
        for child in self.request.siblings:
            child.tokens, child.num_prompt_tokens = list(sequence.tokens), sequence.num_prompt_tokens
            scheduler.fork(self.request, sequence, child)
            self._add(child)
            sequences.append(child)
        self.request.siblings = []
        for each, place in zip(sequences, places, strict=True):
            if tokens[place] >= 0:
                self._append(scheduler, each, tokens[place], sampled, place)
            else:
                end_without_token(each, self.by_sequence[each], tokens[place], self.request.params)
            if self.by_sequence[each].finish_reason is not None:
                scheduler.finish_sequence(self.request, each)

    def _append(self, scheduler: Scheduler, sequence: Sequence, token: int, sampled: Sampled, place: int) -> None:
        completion = self.by_sequence[sequence]
        sequence.append(token)
        params = self.request.params
        if completion.logprobs is not None or params.num_sequences > params.n:
            logprob = float(sampled.logprobs[place])
            completion.cumulative_logprob += logprob
            if completion.logprobs is not None:
                ids, logprobs = (array.tolist() for array in sampled.top(place))
                rank = int(sampled.ranks[place])
                completion.logprobs.append(self._entry(token, logprob, rank, ids, logprobs))
        completion.append(token)
        if sequence.constraint is not None and completion.finish_reason is None:
            sequence.constraint.accept(token)
            end = next(iter(self.model.eos_token_ids), None)
            scheduler.num_output_tokens += go_on(sequence, sequence.constraint, completion, end, self._takes_forced)


class BeamJob(Job):
    """Beam search: continuations that replace each other. The user sees the best ones at the end."""

    def __init__(self, request: Request, model: LoadedModel, seed: int):
        super().__init__(request, model)
        check_beam_params(request.params)
        if request.prompt.grammar is not None:
            raise UnsupportedError("structured_outputs", True, "not supported together with beam search")
        params = request.params
        request.max_sequences, request.lockstep = params.num_sequences, True
        self.search = BeamSearch(
            request,
            params.num_sequences,
            self.max_tokens,
            self.rules.eos_token_id,
            self.rules.all,
            params.length_penalty,
            params.early_stopping,
        )
        self.reason: str | None = None

    @property
    def finished(self) -> bool:
        return self.reason is not None or not self.search.beams

    @property
    def has_tokens(self) -> bool:
        return bool(self.search.finished) or any(beam.tokens for beam in self.search.beams)

    def stop(self, reason: str) -> None:
        if reason == "length" and self.has_tokens:
            self.search.cut()
        else:
            self.reason = reason

    def draws(self, sequence: Sequence) -> list[Sequence]:
        return []

    def land(self, scheduler: Scheduler, share: Share, result: StepResult, tokens: list[int]) -> None:
        """Replaces the beams by the next ones."""
        super().land(scheduler, share, result, tokens)
        if share.ends:
            self.search.advance(scheduler, share.ends, result)

    def completions(self) -> list[Completion]:
        if self.reason is None:
            best = self.search.finished[: self.request.params.n]
            return [self._completion_of(beam, index) for index, beam in enumerate(best)]
        empty = self._completion(0)
        empty.stop(self.reason)
        return [empty]


def check_beam_params(params: SamplingParams) -> None:
    """Refuses what beam search does not look at."""
    neutral: dict[str, tuple[Any, ...]] = {
        "stop": ([], None),
        "bad_words": ([], None),
        "min_tokens": (0,),
        "logprobs": (None,),
        "logit_bias": (None,),
        "allowed_token_ids": (None,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "repetition_penalty": (1,),
        "logits_processors": (None, []),
        "extra_args": (None, {}),
    }
    for name, values in neutral.items():
        value = getattr(params, name)
        if value not in values:
            raise UnsupportedError(name, value, "not supported together with beam search")


def bad_word_ids(words: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Each word's token ids, at the start of a text and after a space."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for spelling in (word, f" {word.lstrip()}"):
            found[tuple(tokenizer.encode(spelling, add_special_tokens=False))] = None
    return [list(ids) for ids in found if ids]
