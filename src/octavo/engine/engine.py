"""The engine: requests in, steps, outputs out. `step()` is the architecture: begin a step, land the one before it.

A step begins with a plan that the executor runs, draws included. It lands when its tokens are read and given to their
requests. An executor that runs ahead computes one step while the host deals with the tokens of the last, and so plans
with UNKNOWN_TOKEN in the place of tokens that it has not seen.

It is not thread-safe: one thread owns it. `LLM` drives it from the caller's thread, `AsyncLLM` from one of its own.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.engine.clock import StepClock
from octavo.engine.inputs import check_prompt, truncated
from octavo.engine.job import Job, Share, text_job
from octavo.engine.loading import LoadedModel
from octavo.engine.masks import MaskThreads
from octavo.engine.steps import make_draw, make_step
from octavo.errors import OctavoError, ParameterError, PromptError, RequestFailedError
from octavo.executor.base import Draw, StepResult
from octavo.prefix_store.base import StoreStats
from octavo.request import UNKNOWN_TOKEN, CompletionOutput, Prompt, Request, RequestOutput, Sequence, Status, StepPlan
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.scheduler import Scheduler
from octavo.structured.constraint import Constraint

if TYPE_CHECKING:
    from octavo.engine.disk_cache import DiskCache

logger = logging.getLogger("octavo")
SETTLE = 10.0  # seconds


@dataclass(slots=True)
class _Flight:
    """A step that has begun: who gets what of it."""

    plan: StepPlan
    draws: list[Draw] = field(default_factory=list)
    shares: defaultdict[Job, Share] = field(default_factory=lambda: defaultdict(Share))
    result: StepResult | None = None

    @property
    def constraints(self) -> list[Constraint]:
        """Those of the sequences that go on."""
        going_on = (job for job, share in self.shares.items() if share.draws and job.request.status is Status.RUNNING)
        sequences = (sequence for job in going_on for sequence in job.request.sequences)
        return [sequence.constraint for sequence in sequences if sequence.constraint is not None]

    @property
    def can_be_overtaken(self) -> bool:
        """Whether the next plan depends on this step by nothing but the values of one new token per sequence."""
        if any(draw.mask >= 0 for draw in self.draws):  # the next mask depends on the token
            return False
        return not any(
            share.prompts or share.ends or any(len(places) > 1 for _, places in share.draws)
            for share in self.shares.values()
        )


class Engine:
    """Runs the requests of one model, as many at a time as fit."""

    def __init__(self, model: LoadedModel):
        config, plan = model.config, model.plan
        self.model = model
        model.executor.reset()
        store = model.prefix_store
        root = f"{model.name}\0{config.dtype}".encode() if store is None else store.identity
        self.scheduler = Scheduler(
            BlockManager(
                plan.groups,
                plan.block_size,
                config.enable_prefix_caching,
                root,
                plan.num_snapshots if plan.state_bytes else None,
            ),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=plan.max_num_batched_tokens,
            max_model_len=plan.max_model_len,
            max_logits_rows=plan.max_logit_rows,
            policy=config.scheduling_policy,
            enable_chunked_prefill=config.enable_chunked_prefill,
        )
        self.disk: DiskCache | None = None
        if store is not None:
            from octavo.engine.disk_cache import DiskCache

            self.disk = DiskCache(store, self.scheduler.blocks, model.executor)
            self.scheduler.is_ready = self.disk.is_ready
        self.jobs: dict[str, Job] = {}
        self._flight: _Flight | None = None  # the step that has begun and has not landed
        self._random = _SeedSource(config.seed)
        self.num_finished = 0  # requests that have ended, in whatever way
        self.clock = StepClock()
        self._masks = MaskThreads(model.vocab_size)

    @property
    def has_work(self) -> bool:
        return bool(self.jobs) or (self.disk is not None and self.disk.has_work)

    @property
    def disk_stats(self) -> StoreStats:
        """Of the prefix cache on disk, over all engines of the model."""
        store = self.model.prefix_store
        return StoreStats() if store is None else store.stats

    def submit(self, request_id: str, prompt: Prompt, params: SamplingParams, priority: int = 0) -> None:
        """Queues a request. Raises RequestError, and keeps nothing of it, if it can't be carried out.

        What `params` say of the structure of the output is compiled here, unless the prompt has a grammar.
        """
        model = self.model
        prompt = truncated(prompt, params, model.max_model_len)
        check_prompt(prompt.token_ids, model.vocab_size, model.max_model_len, room=int(model.pooler is None))
        self._check_source(prompt)
        params = params.clone()
        self._check_logprobs(params)
        prompt = model.with_grammar(prompt, params)
        request = Request(
            request_id, prompt, params, priority=priority, needs_all_rows=params.prompt_logprobs is not None
        )
        job = (prompt.job or text_job)(request, model, self._random.next(params.seed))
        self.scheduler.add(request)
        self.jobs[request_id] = job

    def step(self) -> list[RequestOutput]:
        """Begins a step, lands the one before it, and returns what is new for whoever is to be told."""
        clock, (before, self._flight) = self.clock, (self._flight, None)
        clock.start()
        if self.disk is not None:
            self.disk.exchange()
            clock.skip()
        flight = self._begin()
        outputs = self._land(before) if before else []
        if flight is not None:
            clock.skip()
            self.scheduler.commit(flight.plan, [chunk.count for chunk in flight.plan.chunks])
            clock.committed()
            outputs += self._finish(flight)
            plan, scheduler = flight.plan, self.scheduler
            totals = (scheduler.num_prompt_tokens, scheduler.num_output_tokens, scheduler.num_prefix_queries)
            clock.finish(plan.num_tokens, len(plan.chunks), *totals, scheduler.num_prefix_hits, self.num_finished)
        elif self.disk is not None and before is None:
            self.disk.wait()
        return outputs

    def _finish(self, flight: _Flight) -> list[RequestOutput]:
        """Lands a step that was committed, or leaves it to be overtaken by the next."""
        if not (self.model.executor.runs_ahead and flight.can_be_overtaken):
            return self._land(flight)
        for share in flight.shares.values():
            for chunk, _ in share.draws:
                if not chunk.sequence.finished:
                    chunk.sequence.tokens.append(UNKNOWN_TOKEN)
        self._flight = flight
        return []

    def settle(self) -> None:
        """Has what was computed last kept on disk, too, if that is wanted: to be called when nothing is left to do."""
        if self.disk is not None:
            self.disk.settle(SETTLE)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Ends a request, in whatever state; its last output, or None if there is no such request."""
        return self._end(request_id, "abort")

    def cut(self, request_id: str) -> RequestOutput | None:
        """Ends a request whose time is over: what it has so far is its answer."""
        return self._end(request_id, "length")

    def _begin(self) -> _Flight | None:
        """Plans the next step and has it run, draws included."""
        plan = self.scheduler.plan()
        self.clock.planned()
        if plan is None:
            return None
        flight, now = _Flight(plan), time.monotonic()
        wanted, ranges = plan.logit_rows()
        drawn: list[tuple[Sequence, int]] = []  # each with its row
        for chunk, rows in zip(plan.chunks, ranges, strict=True):
            job = self.jobs[chunk.request.id]
            job.metrics.first_scheduled_time = job.metrics.first_scheduled_time or now
            if not rows:
                continue
            share = flight.shares[job]
            if chunk.request.needs_all_rows:
                share.prompts.append((chunk, rows))
            if not chunk.is_last:
                continue
            try:
                sequences = job.draws(chunk.sequence)
            except Exception as error:
                share.error = error
                continue
            if sequences:
                share.draws.append((chunk, range(len(drawn), len(drawn) + len(sequences))))
                drawn += [(sequence, rows[-1]) for sequence in sequences]
            else:
                share.ends.append((chunk, rows[-1]))
        constrained = {sequence: sequence.constraint for sequence, _ in drawn if sequence.constraint is not None}
        masks = self._masks.begin([*constrained.values()])
        mask_of = {} if masks is None else {sequence: masks.rows[each] for sequence, each in constrained.items()}
        flight.draws = [make_draw(sequence, row, mask_of.get(sequence, -1)) for sequence, row in drawn]
        step = make_step(plan, wanted, flight.draws, self.model.executor.output, masks)
        self.clock.skip()
        result = flight.result = self.model.executor.run(step)
        self.clock.ran()
        for sequence, _ in drawn:
            sequence.num_told = len(sequence.tokens)
        if plan.encode is not None and result.encoded is not None:
            plan.encode.num_slices_done = result.encoded.num_slices_done
            plan.encode.is_encoded = result.encoded.is_finished
        return flight

    def _land(self, flight: _Flight) -> list[RequestOutput]:
        """Gives every job its share of the step, unless it has ended since that began."""
        result, outputs = flight.result, list[RequestOutput | None]()
        assert result is not None
        self.clock.skip()
        tokens = result.sampled.tokens.tolist() if flight.draws else []
        for job, share in flight.shares.items():
            if job.request.status is Status.FINISHED:
                continue
            try:
                if share.error is not None:
                    raise share.error
                job.land(self.scheduler, share, result, tokens)
                outputs.append(self._report(job) if share.has_news else None)
            except Exception as error:
                outputs.append(self._end(job.request.id, "error", error))
        self._masks.prepare(flight.constraints)
        self.clock.landed()
        return [output for output in outputs if output is not None]

    def _end(self, request_id: str, reason: str, error: Exception | None = None) -> RequestOutput | None:
        """Ends a request for a reason that lies outside its text. A job that raises here too is not asked again."""
        job = self.jobs.get(request_id)
        if job is None:
            return None
        try:
            job.error = None if error is None else _told(job, error)
            job.stop(reason)
            return self._report(job, final=True)
        except Exception as own:
            self._forget(job)
            request, prompt, failed = job.request, job.request.prompt, job.error or _told(job, own)
            nothing = [CompletionOutput(i, "", [], finish_reason="error") for i in range(request.params.n)]
            return RequestOutput(request.id, prompt.text, prompt.token_ids, None, nothing, True, error=failed)

    def _report(self, job: Job, final: bool = False) -> RequestOutput | None:
        now = time.monotonic()
        if job.has_tokens:
            job.metrics.first_token_time = job.metrics.first_token_time or now
        finished, kind, output = final or job.finished, job.request.params.output_kind, None
        if finished or kind is not RequestOutputKind.FINAL_ONLY:
            output = job.output(finished, delta=kind is RequestOutputKind.DELTA)
        if finished:
            self._forget(job)
            job.metrics.finished_time = now
        return output

    def _forget(self, job: Job) -> None:
        self.scheduler.finish(job.request)
        if self.jobs.pop(job.request.id, None) is not None:
            self.num_finished += 1

    def _check_source(self, prompt: Prompt) -> None:
        positions = self.model.source_positions
        if (prompt.source is None) != (positions == 0):
            reason = "needs audio with every prompt" if positions else "takes text only, no audio"
            raise PromptError(f"the model {self.model.name} {reason}")

    def _check_logprobs(self, params: SamplingParams) -> None:
        vocab, limit = self.model.vocab_size, self.model.config.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(params, name)
            asked = vocab if count == -1 else count or 0
            if asked > (vocab if limit == -1 else limit):
                raise ParameterError(name, count, f"at most {limit} (the engine's max_logprobs)")


def _told(job: Job, error: Exception) -> OctavoError:
    """What a job raised, as its user gets it. What was not raised on purpose is for the log."""
    if isinstance(error, OctavoError):
        return error
    logger.error("request %s failed", job.request.id, exc_info=error)
    return RequestFailedError(f"the request failed inside Octavo: {type(error).__name__}; others are not disturbed")


class _SeedSource:
    """Seeds for requests: their own, or the next of the engine's; without either, fresh ones."""

    def __init__(self, seed: int | None):
        self._seed, self._count = seed, 0

    def next(self, given: int | None) -> int:
        if given is not None:
            return given & (2**64 - 1)
        if self._seed is None:
            return secrets.randbits(64)
        self._count += 1
        return (self._seed * 0x9E3779B97F4A7C15 + self._count) & (2**64 - 1)
