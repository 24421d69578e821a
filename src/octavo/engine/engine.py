"""The engine: requests in, steps, outputs out. `step()` is the architecture: plan, run, commit, sample.

It is not thread-safe: one thread owns it. `LLM` drives it from the caller's thread, `AsyncLLM` from one of its own.
"""

from __future__ import annotations

import secrets
import time

from octavo import _native
from octavo.engine.inputs import Prompt, check_prompt
from octavo.engine.job import BeamJob, Job, SamplingJob
from octavo.engine.loading import LoadedModel
from octavo.errors import NumericalError, OctavoError, ParameterError
from octavo.executor.base import StepResult
from octavo.request import Chunk, Request, RequestOutput, StepPlan
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.scheduler import Scheduler


class Engine:
    """Runs the requests of one model, as many at a time as fit."""

    def __init__(self, model: LoadedModel):
        config, plan = model.config, model.plan
        self.model = model
        root = f"{model.name}\0{config.compute_dtype}".encode()
        self.scheduler = Scheduler(
            BlockManager(plan.num_blocks, plan.block_size, config.enable_prefix_caching, root),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=plan.max_num_batched_tokens,
            max_model_len=plan.max_model_len,
            max_logits_rows=plan.max_logit_rows,
            policy=config.scheduling_policy,
            enable_chunked_prefill=config.enable_chunked_prefill,
        )
        self.jobs: dict[str, Job] = {}
        self._random = _SeedSource(config.seed)

    @property
    def has_work(self) -> bool:
        return bool(self.jobs)

    def submit(self, request_id: str, prompt: Prompt, params: SamplingParams, priority: int = 0) -> None:
        """Queues a request. Raises RequestError, and keeps nothing of it, if it can't be carried out."""
        model = self.model
        check_prompt(prompt.token_ids, model.vocab_size, model.max_model_len)
        params = params.clone()
        self._check_logprobs(params)
        request = Request(
            request_id,
            prompt.token_ids,
            params,
            prompt=prompt.text,
            priority=priority,
            cache_salt=prompt.cache_salt,
            max_sequences=params.num_sequences,
            lockstep=params.use_beam_search,
            needs_prompt_logits=params.prompt_logprobs is not None,
        )
        job = (BeamJob if params.use_beam_search else SamplingJob)(request, model, self._random.next(params.seed))
        self.scheduler.add(request)
        self.jobs[request_id] = job

    def step(self) -> list[RequestOutput]:
        """Computes one step and returns what is new for whoever is to be told."""
        plan = self.scheduler.plan()
        if plan is None:
            return []
        now = time.monotonic()
        for chunk in plan.chunks:
            metrics = self.jobs[chunk.request.id].metrics
            metrics.first_scheduled_time = metrics.first_scheduled_time or now
        result = self.model.executor.run(plan)
        self.scheduler.commit(plan)
        touched = self._sample(plan, result)
        return [output for job in touched if (output := self._report(job)) is not None]

    def abort(self, request_id: str) -> RequestOutput | None:
        """Ends a request, in whatever state; its last output, or None if there is no such request."""
        job = self.jobs.get(request_id)
        if job is None:
            return None
        self.scheduler.abort(request_id)
        job.stop("abort")
        return self._report(job, final=True)

    def fail(self, request_id: str, error: OctavoError) -> RequestOutput | None:
        """Ends a request with an error of its own."""
        job = self.jobs.get(request_id)
        if job is None:
            return None
        job.error = error
        job.stop("error")
        return self._report(job)

    def _sample(self, plan: StepPlan, result: StepResult) -> list[Job]:
        """Draws the next tokens of all sequences that reached their end, and gives them to their jobs."""
        samplers: list[_native.SequenceSampler] = []
        rows: list[int] = []
        drawn: list[tuple[SamplingJob, Chunk, range]] = []
        beams: dict[BeamJob, list[tuple[Chunk, int]]] = {}
        touched: dict[Job, None] = {}
        for chunk, chunk_rows in zip(plan.chunks, result.rows, strict=True):
            job = self.jobs[chunk.request.id]
            if chunk.request.needs_prompt_logits and chunk_rows:
                job.take_prompt_logits(chunk, result.logits[chunk_rows.start : chunk_rows.stop])
            if not chunk.is_last:
                continue
            touched[job] = None
            last = chunk_rows[-1]
            if isinstance(job, BeamJob):
                beams.setdefault(job, []).append((chunk, last))
            else:
                assert isinstance(job, SamplingJob)
                mine = job.samplers(chunk.sequence)
                drawn.append((job, chunk, range(len(samplers), len(samplers) + len(mine))))
                samplers += mine
                rows += [last] * len(mine)
        if samplers:
            sampled = _native.sample(result.logits, rows, samplers)
            tokens = sampled.tokens.tolist()
            for job, chunk, places in drawn:
                job.take(self.scheduler, chunk.sequence, sampled, places, tokens)
        for beam_job, entries in beams.items():
            beam_job.advance(self.scheduler, entries, result.logits)
        for job in touched:
            if job.has_nan:
                job.error = NumericalError(
                    "no token is possible: the model gave NaN or infinite logits, or the request bans every token"
                )
                job.stop("error")
        return list(touched)

    def _report(self, job: Job, final: bool = False) -> RequestOutput | None:
        now = time.monotonic()
        if job.has_tokens:
            job.metrics.first_token_time = job.metrics.first_token_time or now
        finished = final or job.finished
        if finished:
            self.scheduler.finish(job.request)
            self.jobs.pop(job.request.id, None)
            job.metrics.finished_time = now
        kind = job.request.params.output_kind
        if kind is RequestOutputKind.FINAL_ONLY and not finished:
            return None
        return job.output(finished, delta=kind is RequestOutputKind.DELTA)

    def _check_logprobs(self, params: SamplingParams) -> None:
        vocab, limit = self.model.vocab_size, self.model.config.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(params, name)
            asked = vocab if count == -1 else count or 0
            if asked > (vocab if limit == -1 else limit):
                raise ParameterError(name, count, f"at most {limit} (the engine's max_logprobs)")


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
