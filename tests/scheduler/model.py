"""A machine without a model: memory that remembers its tokens, and an engine that makes up the next ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from octavo.executor.rows import Rows
from octavo.graph.cache import BlockGroup
from octavo.request import Chunk, Prompt, Request, Sequence, Status, StepPlan
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.scheduler import Scheduler

Content = tuple[str, tuple[int, ...]]


@dataclass
class Params:
    max_tokens: int | None = 4


def make_request(id: str, prompt: list[int], max_tokens: int | None = 4, salt: str = "", **options: Any) -> Request:
    return Request(id, Prompt(None, prompt, cache_salt=salt), Params(max_tokens), **options)  # type: ignore[arg-type]


class Memory:
    """KV blocks whose slots hold what keys and values depend on: the scope and all tokens up to there.

    States, of sequences and of snapshots, are such contents, too.
    """

    def __init__(self, blocks: BlockManager, max_num_seqs: int) -> None:
        self.block_size, self.groups = blocks.block_size, [pool.group for pool in blocks.pools]
        num_blocks = sum(group.count for group in self.groups)
        self.blocks: list[list[Content | None]] = [[None] * blocks.block_size for _ in range(num_blocks)]
        self.rows, self.states = Rows(max_num_seqs), dict[int, Content]()
        self.snapshots = dict[int, Content]()
        self.num_loads, self.has_states = 0, blocks.snapshots is not None

    def run(self, plan: StepPlan) -> None:
        """Does what an executor does, and checks that each token sees exactly its own past."""
        self._run_states(plan)
        for source, target in plan.copies:
            assert [self._has(group, source) for group in self.groups].count(True) == 1
            assert all(self._has(group, source) == self._has(group, target) for group in self.groups)
            self.blocks[target] = self.blocks[source].copy()
        for chunk in plan.chunks:
            self._check(chunk, chunk.start)
        for chunk in plan.chunks:
            for position in range(chunk.start, chunk.start + chunk.count):
                for table in chunk.sequence.tables:
                    block = table.blocks[position // self.block_size]
                    self.blocks[block][position % self.block_size] = self._expected(chunk, position)
        for chunk in plan.chunks:  # nobody wrote over the blocks of another
            self._check(chunk, chunk.start + chunk.count)

    def _run_states(self, plan: StepPlan) -> None:
        for source, target in self.rows.change(plan.forks, plan.ended):
            self.states[target] = self.states[source]
        for chunk in plan.chunks:
            if chunk.sequence.snapshot is not None:
                self.states[self.rows.row_of(chunk.sequence.id)] = self.snapshots[chunk.sequence.snapshot]
                self.num_loads += 1
        kept = dict[int, Content]()
        for chunk in plan.chunks:
            row, end = self.rows.row_of(chunk.sequence.id), chunk.start + chunk.count
            if self.has_states and chunk.start > 0:
                assert self.states[row] == self._expected(chunk, chunk.start - 1)
            self.states[row] = self._expected(chunk, end - 1)
            if chunk.kept is not None:
                tokens, number = chunk.kept
                assert chunk.start < tokens <= end
                assert number not in kept
                kept[number] = self._expected(chunk, tokens - 1)
        self.snapshots |= kept

    def _check(self, chunk: Chunk, num_tokens: int) -> None:
        for group, table in zip(self.groups, chunk.sequence.tables, strict=True):
            assert all(self._has(group, block) for block in table.blocks)
            seen = 0 if group.window is None else chunk.start + 1 - group.window  # by the first of the chunk's tokens
            for position in range(max(0, seen), num_tokens):
                block = table.blocks[position // self.block_size]
                assert self.blocks[block][position % self.block_size] == self._expected(chunk, position)

    @staticmethod
    def _has(group: BlockGroup, block: int) -> bool:
        return group.first <= block < group.first + group.count

    def _expected(self, chunk: Chunk, position: int) -> Content:
        return chunk.request.prompt.scope, tuple(chunk.sequence.tokens[: position + 1])


class Engine:
    """Drives a scheduler the way the real engine does, and checks what holds in every step."""

    def __init__(self, scheduler: Scheduler, seed: int = 0, num_token_ids: int = 2) -> None:
        self.scheduler = scheduler
        blocks = scheduler.blocks
        self.memory = Memory(blocks, scheduler.max_num_seqs)
        self.random = random.Random(seed)
        self.num_token_ids = num_token_ids
        self.ends: dict[Request, int] = {}  # terminal events of every request that was accepted

    def add(self, request: Request) -> Request:
        self.scheduler.add(request)
        self.ends[request] = 0
        return request

    def abort(self, request: Request) -> None:
        if self.scheduler.abort(request.id) is not None:
            self.ends[request] += 1

    @property
    def live(self) -> list[Request]:
        return [request for request in self.ends if request.status is not Status.FINISHED]

    def step(self, aborted_meanwhile: Request | None = None) -> StepPlan | None:
        """Plans, runs, commits and samples; None if there was nothing to do."""
        plan = self.scheduler.plan()
        assert (plan is not None) == self.scheduler.has_work
        if plan is None:
            return None
        self._check_limits(plan)
        self.memory.run(plan)
        if aborted_meanwhile is not None:
            self.abort(aborted_meanwhile)
        sampled: dict[Request, list[Sequence]] = {}
        for chunk in plan.chunks:
            if chunk.is_last and not chunk.sequence.finished:
                sampled.setdefault(chunk.request, []).append(chunk.sequence)
        self.scheduler.commit(plan, [chunk.count for chunk in plan.chunks])
        for request, sequences in sampled.items():
            if request.lockstep:
                assert sequences == request.sequences
                self._sample_beams(request)
            else:
                self._sample(request, sequences)
        return plan

    def drain(self) -> None:
        """Steps until all requests are finished, within the number of steps that this may take."""
        limit = sum(request.max_sequences * self._max_length(request) for request in self.live)
        for _ in range(limit):
            if self.step() is None:
                break
        assert not self.scheduler.has_work
        assert all(count == 1 for count in self.ends.values())

    def _check_limits(self, plan: StepPlan) -> None:
        scheduler = self.scheduler
        assert plan.num_tokens <= scheduler.max_num_batched_tokens
        assert sum(chunk.num_logit_rows for chunk in plan.chunks) <= scheduler.max_logits_rows
        running = scheduler._running
        assert sum(request.max_sequences for request in running) <= scheduler.max_num_seqs
        planned = [chunk.sequence for chunk in plan.chunks]
        assert len(planned) == len(set(planned))
        assert running[0] in [chunk.request for chunk in plan.chunks]  # the most important one gets on
        targets = [target for _, target in plan.copies]
        assert len(targets) == len(set(targets))
        for chunk in plan.chunks:
            assert chunk.count > 0
            assert chunk.request.status is Status.RUNNING
            assert chunk.request not in plan.preempted
            is_prompt = len(chunk.sequence.tokens) == chunk.sequence.num_prompt_tokens
            assert scheduler.enable_chunked_prefill or chunk.is_last or not is_prompt

    def _sample(self, request: Request, sequences: list[Sequence]) -> None:
        parent = sequences[0]
        if not parent.output_tokens and parent.index == 0:
            for index in range(1, request.max_sequences):
                sequences.append(self._fork(request, parent, index))
        for sequence in sequences:
            sequence.tokens.append(self._token())
            if len(sequence.tokens) == self._max_length(request):
                self.scheduler.finish_sequence(request, sequence)
        self._finish_if_done(request)

    def _sample_beams(self, request: Request) -> None:
        """Every next beam continues one of those that there are; those that none continues end."""
        old = list(request.sequences)
        narrows = len(old) > 1 and self.random.random() < 0.2
        width = len(old) - 1 if narrows else request.max_sequences
        parents = [self.random.choice(old) for _ in range(width)]
        continued = {parent: parent for parent in parents}
        children = [continued.pop(parent, None) or self._fork(request, parent, 0) for parent in parents]
        for sequence in old:
            if sequence not in parents:
                self.scheduler.finish_sequence(request, sequence)
        for child in children:
            child.tokens.append(self._token())
        if len(children[0].tokens) == self._max_length(request):
            for child in children:
                self.scheduler.finish_sequence(request, child)
        self._finish_if_done(request)

    def _fork(self, request: Request, parent: Sequence, index: int) -> Sequence:
        child = Sequence(index, list(parent.tokens), parent.num_prompt_tokens)
        self.scheduler.fork(request, parent, child)
        return child

    def _finish_if_done(self, request: Request) -> None:
        if not request.sequences:
            self.scheduler.finish(request)
            self.ends[request] += 1

    def _token(self) -> int:
        return self.random.randrange(self.num_token_ids)

    def _max_length(self, request: Request) -> int:
        limit = self.scheduler.max_model_len
        if request.params.max_tokens is None:
            return limit
        return min(limit, len(request.prompt.token_ids) + request.params.max_tokens)


def check_ownership(blocks: BlockManager, sequences: list[Sequence]) -> None:
    """A block has as many owners as tables hold it, and is free or idle exactly if it has none."""
    for number, pool in enumerate(blocks.pools):
        owners = dict.fromkeys(range(pool.group.first, pool.group.first + pool.group.count), 0)
        for sequence in filter(attrgetter("tables"), sequences):
            table = sequence.tables[number]
            assert len(table.held) == len(set(table.held))
            assert set(table.blocks[: table.num_passed]) <= {*table.held[:1]}
            assert sequence.num_computed <= len(table.blocks) * blocks.block_size
            assert table.num_passed == pool.num_passed(sequence.num_computed)
            assert table.num_passed == 0 or pool.group.window is not None
            for block in table.held:
                owners[block] += 1
        assert pool._num_owners == owners
        assert sorted([*pool._free, *pool._idle]) == [block for block, count in owners.items() if count == 0]
        assert {block: digest for digest, block in pool._block_of.items()} == pool._digest_of
        assert all(block in pool._digest_of for block in pool._idle)
        assert not any(block in pool._digest_of for block in pool._free)
    if blocks.snapshots is not None:
        numbers = [*blocks.snapshots._free, *blocks.snapshots._numbers.values()]
        assert sorted(numbers) == list(range(blocks.snapshots.count))
        assert all(blocks.snapshots._numbers.keys() <= pool._block_of.keys() for pool in blocks.pools)
