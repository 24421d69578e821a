"""What the next step computes: continuous batching within limits of tokens, seats, KV blocks and logits."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from itertools import count as counter

from octavo.errors import ConfigError, PromptError, RequestError
from octavo.request import BACKGROUND, Chunk, Request, Sequence, Status, StepPlan, check_length
from octavo.scheduler.blocks import BlockManager

POLICIES = ("fcfs", "priority")
LOOKAHEAD = 4  # waiting requests for which something may be fetched at once


@dataclass(slots=True)
class _Draft:
    """A plan in the making, and what its limits still allow."""

    tokens_left: int
    rows_left: int
    plan: StepPlan = field(default_factory=lambda: StepPlan([]))
    stalled: bool = False  # a running request got no blocks

    def add(self, request: Request, sequence: Sequence, count: int) -> None:
        chunk = Chunk(request, sequence, sequence.num_computed, count)
        self.plan.chunks.append(chunk)
        self.tokens_left -= count
        self.rows_left -= chunk.num_logit_rows

    def drop(self, request: Request) -> None:
        """Takes a request that still has its blocks out of the plan."""
        plan = self.plan
        for chunk in plan.chunks:
            if chunk.request is request:
                self.tokens_left += chunk.count
                self.rows_left += chunk.num_logit_rows
        plan.chunks = [chunk for chunk in plan.chunks if chunk.request is not request]
        if plan.encode is not None and plan.encode is request.prompt.source:
            plan.encode = None
        owned = {block for sequence in request.sequences for table in sequence.tables for block in table.blocks}
        plan.copies = [copy for copy in plan.copies if copy[1] not in owned]


class Scheduler:
    """Decides, step by step, which tokens of which requests are computed, and in which blocks they live.

    A step goes `plan()`, run, `commit(plan, …)`; then one sampled token is appended to each sequence whose chunk
    was its last, or UNKNOWN_TOKEN until it has been read: a plan needs to know how many tokens there are, `commit`
    which they are. `add`, `abort` and the finishing calls may come at any time from the same thread, even
    between plan and commit; `fork` comes after commit.

    Requests rank in the order of `add`; with the policy "priority", by priority first. Those in the background come
    last under any policy. When blocks run out, the running request of lowest rank gives up all of its own and is
    recomputed later. So the one of highest rank always gets on, because `add` refuses what would not fit on its own.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        max_logits_rows: int,
        policy: str = "fcfs",
        enable_chunked_prefill: bool = True,
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError("policy", policy, f"must be one of {', '.join(POLICIES)}")
        if max_num_seqs < 1:
            raise ConfigError("max_num_seqs", max_num_seqs, "must be at least 1")
        # Then there is always room for the next token of every running sequence.
        for name, limit in (
            ("max_num_batched_tokens", max_num_batched_tokens),
            ("max_logits_rows", max_logits_rows),
        ):
            if limit < max_num_seqs:
                raise ConfigError(name, limit, f"must be at least max_num_seqs, which is {max_num_seqs}")
        self.blocks = blocks
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.max_logits_rows = max_logits_rows
        self.policy = policy
        self.enable_chunked_prefill = enable_chunked_prefill
        # Whether the first of those that wait may start now, or something of it is being fetched.
        self.is_ready: Callable[[SequenceOf[Request]], bool] = lambda waiting: True
        self.num_prefix_queries = 0  # prompt tokens of all requests that have been admitted
        self.num_prefix_hits = 0  # those of them that the prefix cache had
        self.num_prompt_tokens = 0  # prompt tokens computed, again after a preemption
        self.num_output_tokens = 0  # tokens that steps made
        self.num_preemptions = 0
        self.steps: Counter[int] = Counter()  # how many had so many tokens
        self._live: dict[str, Request] = {}
        self._rank: dict[Request, tuple[int, int]] = {}
        self._waiting: list[Request] = []  # both by rank
        self._running: list[Request] = []
        self._seats_taken = 0
        self._arrivals = counter()
        self._forks: list[tuple[int, int]] = []  # ids, which no step has been told yet
        self._ended: list[int] = []  # ids of sequences and sources, which no step has been told yet

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._live)

    @property
    def block_usage(self) -> float:
        """Share of the KV blocks that running requests own, 0 to 1."""
        return self.blocks.usage

    def requests(self, most: int) -> list[Request]:
        """All that run, and then as many that wait as there is room for among `most`, by rank."""
        return self._running + self._waiting[: max(0, most - len(self._running))]

    def add(self, request: Request) -> None:
        """Queues a new request. Raises RequestError, and forgets it, if it could never run."""
        self._check(request)
        self._live[request.id] = request
        counts = self.policy == "priority" or request.priority >= BACKGROUND
        self._rank[request] = (request.priority if counts else 0, next(self._arrivals))
        self._enqueue(request)

    def plan(self) -> StepPlan | None:
        """The next step: decodes, then prompts that have begun, then new ones. None if there is no work.

        A prompt that has begun lets new ones of better priority pass.
        """
        draft = _Draft(self.max_num_batched_tokens, self.max_logits_rows)
        behind = self._plan_decodes(draft)
        best = min((self._rank[request][0] for request in self._waiting[:1]), default=math.inf)
        self._plan_prompts(draft, [item for item in behind if self._rank[item[0]][0] <= best])
        self._admit(draft)
        self._plan_prompts(draft, [item for item in behind if self._rank[item[0]][0] > best])
        draft.plan.forks, draft.plan.ended = tuple(self._forks), tuple(self._ended)
        for chunk in draft.plan.chunks:
            chunk.kept = self.blocks.plan_snapshot(chunk, chunk.request.prompt.scope)
        return draft.plan if draft.plan.chunks or draft.plan.encode else None

    def commit(self, plan: StepPlan, accepted: list[int]) -> None:
        """Notes that the step has been run: of the tokens of chunk i, the first `accepted[i]` are kept.

        The keys and values of the others are written again by later steps, and are not found in the prefix cache. To be
        called when those tokens are gone from their sequences, and before sampled ones are appended.
        """
        self.steps[plan.num_tokens] += 1
        del self._forks[: len(plan.forks)], self._ended[: len(plan.ended)]
        for chunk, count in zip(plan.chunks, accepted, strict=True):
            is_live, scope = not chunk.sequence.finished, chunk.request.prompt.scope
            if is_live:
                self.blocks.commit(chunk.sequence, count, scope)
                chunk.sequence.snapshot = None
            self.blocks.commit_snapshot(chunk, is_live and count == chunk.count, scope)
            at_prompt = chunk.start < chunk.sequence.num_prompt_tokens
            self.num_prompt_tokens += chunk.count if at_prompt else 0
            if chunk.is_last and chunk.request.is_drawn:
                self.num_output_tokens += chunk.request.max_sequences if at_prompt else 1

    def fork(self, request: Request, parent: Sequence, child: Sequence) -> None:
        """Adds a sequence that continues what `parent` has computed.

        There may be more than `max_sequences` while beams replace each other, but not in the next plan.
        """
        self.blocks.fork(parent, child)
        self._forks.append((parent.id, child.id))
        request.sequences.append(child)

    def restart(self, request: Request, sequence: Sequence) -> None:
        """Adds a sequence that starts from nothing."""
        request.sequences.append(sequence)

    def finish_sequence(self, request: Request, sequence: Sequence) -> None:
        """Ends one sequence. The request goes on, even without any, until it is finished itself."""
        if not sequence.finished:
            sequence.finished = True
            self.blocks.release(sequence)
            self._ended.append(sequence.id)
            request.sequences.remove(sequence)

    def finish(self, request: Request) -> None:
        """Ends a request in any state and forgets it; `sequences` keeps those that were unfinished."""
        if self._live.get(request.id) is not request:
            return
        if request.status is Status.RUNNING:
            self._running.remove(request)
            self._seats_taken -= request.max_sequences
        else:
            self._waiting.remove(request)
        for sequence in request.sequences:
            sequence.finished = True
        self._release(request)
        request.status = Status.FINISHED
        del self._live[request.id], self._rank[request]

    def abort(self, request_id: str) -> Request | None:
        """Finishes the live request of this id and returns it; None if there is none."""
        request = self._live.get(request_id)
        if request is not None:
            self.finish(request)
        return request

    def _check(self, request: Request) -> None:
        prompt, sequences, blocks = len(request.prompt.token_ids), request.max_sequences, self.blocks
        if request.id in self._live:
            raise RequestError(f"a request with the id {request.id!r} is already running; ids must be unique")
        check_length(prompt, self.max_model_len, int(request.is_drawn))
        if sequences > self.max_num_seqs:
            raise RequestError(
                f"the request needs {sequences} sequences at once, but max_num_seqs is {self.max_num_seqs}; "
                f"ask for at most {self.max_num_seqs}, or raise max_num_seqs"
            )
        if not self.enable_chunked_prefill:
            name, limit = "max_num_batched_tokens", self.max_num_batched_tokens
            if request.needs_all_rows and self.max_logits_rows < limit:
                name, limit = "max_logits_rows", self.max_logits_rows
            if prompt > limit:
                raise PromptError(
                    f"the prompt has {prompt} tokens, but without chunked prefill it has to fit into one "
                    f"step, and {name} is {limit}; shorten it, raise {name}, or enable chunked prefill"
                )
        length = self._longest(request)
        needed = sequences * blocks.most_held(length, self.max_num_batched_tokens)
        if request.prompt.source is not None:
            needed += blocks.blocks_for(request.prompt.source.num_positions)
        if needed > blocks.num_blocks:
            fitting = blocks.num_blocks // sequences * blocks.block_size
            if fitting > prompt:
                advice = f"max_tokens of at most {fitting - prompt} would fit"
            else:
                advice = f"with this many sequences at most {fitting} tokens would fit"
            raise RequestError(
                f"the request may need {needed} KV blocks ({sequences} x {length} tokens in blocks of "
                f"{blocks.block_size}), but the cache has {blocks.num_blocks}; {advice}"
            )

    def _longest(self, request: Request) -> int:
        """Tokens that a sequence of the request has at most, its prompt's included."""
        if request.params.max_tokens is None:
            return self.max_model_len
        return min(self.max_model_len, len(request.prompt.token_ids) + request.params.max_tokens)

    def _plan_decodes(self, draft: _Draft) -> list[tuple[Request, Sequence]]:
        """Plans the newest token of every sequence that lacks no other one; returns those that are behind.

        First come those that lack a few tokens that they were given at once. Of those of a request that start it is
        only the first: the next finds in the prefix cache what they have in common.
        A sequence that is known to end with its newest token, whichever that is, needs no more.
        """
        behind: list[tuple[Request, Sequence]] = []
        nearly: list[tuple[Request, Sequence]] = []
        for request in self._running:  # preemption shortens it, but only beyond this request
            if request.prompt.source is not None and not request.prompt.source.is_encoded:
                behind.append((request, request.sequences[0]))
                continue
            ready, laggards = [], list[Sequence]()
            longest = self._longest(request)
            for sequence in request.sequences:
                pending = len(sequence.tokens) - sequence.num_computed
                if pending == 1 and len(sequence.tokens) < longest:
                    ready.append(sequence)
                elif pending > 1 and sequence.num_computed >= sequence.num_prompt_tokens and not request.lockstep:
                    nearly.append((request, sequence))
                elif pending > 1:
                    laggards.append(sequence)
            if laggards:
                behind.append((request, laggards[0]))
                if request.lockstep:
                    continue
            reserved = [sequence for sequence in ready if self._reserve(draft, request, sequence, 1)]
            if len(reserved) == len(ready) or not request.lockstep:
                for sequence in reserved:
                    draft.add(request, sequence, 1)
        return nearly + behind

    def _plan_prompts(self, draft: _Draft, behind: list[tuple[Request, Sequence]]) -> None:
        for request, sequence in behind:
            # A request of higher rank may have taken the blocks of this one.
            if draft.tokens_left and request.status is Status.RUNNING:
                self._plan_prompt(draft, request, sequence)

    def _plan_prompt(self, draft: _Draft, request: Request, sequence: Sequence) -> bool:
        """Plans the next part of a request's source, or of its tokens once that is encoded; False if there is nothing.

        One source is encoded at a time, in the order of rank: what an encoder keeps between slices is of that one.
        """
        source = request.prompt.source
        if source is None or source.is_encoded:
            has_blocks = bool(sequence.tables)
            self._match(request, sequence)
            is_planned = self._plan_chunk(draft, request, sequence)
            if not is_planned and not has_blocks:
                self.blocks.release(sequence)  # what was found may be gone by the next step
            return is_planned
        if draft.plan.encode is not None:
            return False
        while self.blocks.reserve(source.place, source.num_positions) is None:
            if request.status is not Status.RUNNING or self._running[-1] is request:
                draft.stalled = request.status is Status.RUNNING
                return False
            self._preempt(draft)
        draft.plan.encode = source
        return True

    def _plan_chunk(self, draft: _Draft, request: Request, sequence: Sequence) -> bool:
        """Plans as much of a sequence as the limits allow; False if that is nothing."""
        pending = self._goal(request, sequence) - sequence.num_computed
        count = min(pending, draft.tokens_left)
        if self.enable_chunked_prefill:
            count = self.blocks.until_branch(sequence, count)
        if request.needs_all_rows:
            count = min(count, draft.rows_left)
        elif sequence.num_computed + count == len(sequence.tokens) and not draft.rows_left:
            count -= 1
        is_prompt = len(sequence.tokens) == sequence.num_prompt_tokens
        if count < pending and is_prompt and not self.enable_chunked_prefill:
            return False
        if count == 0 or not self._reserve(draft, request, sequence, count):
            return False
        draft.add(request, sequence, count)
        return True

    def _admit(self, draft: _Draft) -> None:
        """Starts waiting requests, strictly by rank, while there is room for all of their tokens so far."""
        while self._waiting and draft.tokens_left and not draft.stalled:
            request = self._waiting[0]
            if request in draft.plan.preempted:
                return
            while self._seats_taken + request.max_sequences > self.max_num_seqs:
                if not self._preempt_for(draft, request):
                    return
            if not self.is_ready(self._waiting[:LOOKAHEAD]):
                return
            sequence = request.sequences[0]
            num_cached = self._match(request, sequence)
            while not self._fits(request, sequence):
                if not self._preempt_for(draft, request):
                    self._release(request)
                    return
            if not self._plan_prompt(draft, request, sequence):
                self._release(request)
                return
            self._waiting.remove(request)
            insort(self._running, request, key=self._rank.__getitem__)
            self._seats_taken += request.max_sequences
            request.status = Status.RUNNING
            if request.num_cached_tokens is None:
                request.num_cached_tokens = num_cached
                self.num_prefix_queries += len(sequence.tokens)
                self.num_prefix_hits += num_cached

    def _goal(self, request: Request, sequence: Sequence) -> int:
        """Where a prefill ends: short of the newest token if lockstep siblings wait for each other."""
        return len(sequence.tokens) - (request.lockstep and len(request.sequences) > 1)

    def _match(self, request: Request, sequence: Sequence) -> int:
        """Looks a sequence that starts up in the prefix cache; returns the number of tokens found."""
        if sequence.tables or request.needs_all_rows:
            return 0
        return self.blocks.match_prefix(sequence, self._goal(request, sequence), request.prompt.scope)

    def _reserve(self, draft: _Draft, request: Request, sequence: Sequence, count: int) -> bool:
        """Gets blocks for `count` more tokens of a sequence, from requests of lower rank if need be."""
        while (copies := self.blocks.reserve(sequence, sequence.num_computed + count)) is None:
            if self._running[-1] is request:
                # Keeping its own blocks, it waits for those before it to end, or to need them.
                draft.stalled = True
                return False
            self._preempt(draft)
        if copies:
            draft.plan.copies += copies
        return True

    def _fits(self, request: Request, sequence: Sequence) -> bool:
        """Whether there are blocks for all tokens of a request that starts, and for its source."""
        source = request.prompt.source  # in blocks of its own
        num_more = 0 if source is None else self.blocks.blocks_for(source.num_positions)
        return self.blocks.fits(sequence, self.max_num_batched_tokens, num_more)

    def _release(self, request: Request) -> None:
        """Gives back all blocks of a request, and has executors forget it."""
        for sequence in (*request.sequences, *request.siblings):
            self.blocks.release(sequence)
            self._ended.append(sequence.id)
            sequence.num_told = 0
        if request.prompt.source is not None:
            self.blocks.release(request.prompt.source.place)
            self._ended.append(request.prompt.source.id)
            request.prompt.source.num_slices_done, request.prompt.source.is_encoded = 0, False

    def _preempt_for(self, draft: _Draft, request: Request) -> bool:
        """Preempts a running request if its priority is worse than that of a waiting one."""
        if not self._running or self._rank[request][0] >= self._rank[self._running[-1]][0]:
            return False
        self._preempt(draft)
        return True

    def _preempt(self, draft: _Draft) -> None:
        """Sends the running request of lowest rank back to the queue: its tokens stay, its blocks go."""
        request = self._running.pop()
        draft.drop(request)
        draft.plan.preempted.append(request)
        self._release(request)
        self._seats_taken -= request.max_sequences
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        request.status = Status.WAITING
        insort(self._waiting, request, key=self._rank.__getitem__)
