"""The tokens of sequences on the device: each sequence has a row of its own, and rows are handed on."""

import numpy as np
import pytest
import torch

from harness import decoder, make_torch, random_tensors
from octavo.executor.base import Draw, Step, Wanted
from octavo.executor.torch.step import TokenTable
from octavo.sampling.options import SamplerOptions
from octavo.sampling.rules.tokens import AllowedTokens, Penalties


@pytest.fixture
def executor():
    graph = decoder()
    return make_torch(graph, random_tensors(graph))


def step(sequence, tokens, start=0, draws=(), **options):
    return Step(
        sequences=(sequence,),
        tokens=np.array(tokens, np.int32),
        starts=np.array([start], np.int32),
        counts=np.array([len(tokens)], np.int32),
        block_tables=np.array([[sequence]], np.int32),
        wanted=Wanted(np.array([len(tokens) - 1], np.int32)),
        draws=tuple(draws),
        **options,
    )


def draw_of(sequence, *output, accepted=None, rules=()):
    chosen = SamplerOptions(vocab_size=131, temperature=0.0, rules=rules)
    return Draw(0, sequence, chosen, 7, len(output), output if accepted is None else accepted)


def row(executor, sequence):
    return executor.table.tokens[executor.table.row_of(sequence)].tolist()


def test_a_chunk_brings_its_tokens(executor):
    executor.run(step(5, [7, 8]))
    executor.run(step(5, [9, 10], start=2))
    assert row(executor, 5)[:4] == [7, 8, 9, 10]


def test_a_drawn_token_is_never_asked_of_the_host(executor):
    drawn = executor.run(step(5, [7, 8], draws=[draw_of(5)])).sampled.tokens[0]
    ahead = executor.run(step(5, [-1], start=2, draws=[draw_of(5, -1)]))
    assert row(executor, 5)[:4] == [7, 8, drawn, ahead.sampled.tokens[0]]
    alone = executor.run(step(6, [7, 8, drawn], draws=[draw_of(6)]))
    assert alone.sampled.tokens[0] == ahead.sampled.tokens[0]


def test_what_was_in_the_prefix_cache_counts_for_penalties(executor):
    executor.run(step(5, [7, 8, 9]))
    plain = executor.run(step(5, [10], start=3, draws=[draw_of(5)]))
    (favourite,) = plain.sampled.tokens
    repetition = Penalties(repetition=1e6, prompt_token_ids=[favourite, 8, 9, 10])
    found = executor.run(step(5, [10], start=3, draws=[draw_of(5, rules=[repetition])], ended=(5,)))
    assert found.sampled.tokens[0] != favourite
    draw = draw_of(5, favourite, 10, rules=[Penalties(frequency=1e6)])
    found = executor.run(step(5, [10], start=3, draws=[draw], ended=(5,)))
    assert found.sampled.tokens[0] != favourite, "the output before the chunk counts"


def test_a_token_that_is_drawn_for_another_sequence_is_not_written_into_the_row(executor):
    executor.run(
        step(5, [7, 8], draws=[draw_of(6, rules=[AllowedTokens([11])]), draw_of(5, rules=[AllowedTokens([12])])])
    )
    assert row(executor, 5)[2] == 12


def test_sequences_have_rows_of_their_own_until_they_end():
    table = TokenTable(max_sequences=4, max_model_len=20, device=torch.device("cpu"))
    rows = [table.row_of(sequence) for sequence in (3, 4, 5, 6)]
    assert len(set(rows)) == 4
    assert table.row_of(4) == rows[1]
    table.drop((4, 99, 6))
    assert {table.row_of(7), table.row_of(8)} == {rows[1], rows[3]}
    table.clear()
    assert len({table.row_of(sequence) for sequence in range(10, 14)}) == 4
