"""From a plan, which has requests in it, to a step, which has nothing but values."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from octavo.executor.base import NO_COPIES, Draw, Encode, Ids, Masks, Step, Wanted, block_tables
from octavo.request import Sequence, Source, StepPlan


def make_step(
    plan: StepPlan,
    rows: SequenceOf[int] = (),
    draws: SequenceOf[Draw] = (),
    output: str = "logits",
    masks: Masks | None = None,
) -> Step:
    """`rows` are those of the plan of which the graph's `output` is wanted, `draws` are from them, with `masks`."""
    chunks, encode = plan.chunks, None if plan.encode is None else _encode(plan.encode)
    if not chunks:
        return Step(encode=encode, forks=plan.forks, ended=plan.ended)
    tokens: list[int] = []
    for chunk in chunks:
        tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
    sequences = [chunk.sequence for chunk in chunks]
    seconds = [chunk.request.prompt.second_start for chunk in chunks]
    tables, lengths = _sources([chunk.request.prompt.source for chunk in chunks])
    return Step(
        sequences=tuple([one.id for one in sequences]),
        tokens=np.array(tokens, np.int32),
        starts=np.array([chunk.start for chunk in chunks], np.int32),
        counts=np.array([chunk.count for chunk in chunks], np.int32),
        block_tables=block_tables([[table.blocks for table in one.tables] for one in sequences]),
        source_tables=tables,
        source_lengths=lengths,
        copies=np.array(plan.copies, np.int32) if plan.copies else NO_COPIES,
        wanted=Wanted(**{output: np.array(rows, np.int32)}),
        draws=tuple(draws),
        masks=masks,
        encode=encode,
        forks=plan.forks,
        ended=plan.ended,
        loads=tuple([(one.snapshot, one.id) for one in sequences if one.snapshot is not None]),
        saves=np.array([chunk.kept or (0, 0) for chunk in chunks], np.int32),
        second_starts=np.array(seconds if any(seconds) else (), np.int32),
    )


def make_draw(sequence: Sequence, row: int, mask: int = -1) -> Draw:
    """A draw of the sequence's next token from a row of the wanted logits, with a row of the masks."""
    assert sequence.options is not None
    tokens, num_prompt = sequence.tokens, sequence.num_prompt_tokens
    accepted = tuple(tokens[sequence.num_told or num_prompt :])
    return Draw(row, sequence.id, sequence.options, sequence.seed, len(tokens) - num_prompt, accepted, mask)


def _encode(source: Source) -> Encode:
    blocks = np.array(source.place.blocks, np.int32)
    return Encode(source.id, source.features, blocks, source.num_positions, source.num_slices_done)


def _sources(sources: list[Source | None]) -> tuple[Ids, Ids] | tuple[None, None]:
    found = [source for source in sources if source is not None]
    if not found:
        return None, None
    lengths = np.array([source.num_positions for source in found], np.int32)
    return block_tables([[source.place.blocks] for source in found]), lengths
