"""The tokens of sequences on the device: nothing is sent twice, nothing is missing, and rows are handed on."""

import pytest
import torch

from octavo.executor.torch.step import TokenTable
from octavo.request import UNKNOWN_TOKEN, Chunk, Request, Sequence
from octavo.sampling_params import SamplingParams


@pytest.fixture
def table():
    return TokenTable(max_sequences=2, max_model_len=20, device=torch.device("cpu"))


def sequence_of(*tokens):
    return Sequence(0, list(tokens), len(tokens))


def chunk_of(sequence, start=0, count=None):
    request = Request("request", [1], SamplingParams())
    return Chunk(request, sequence, start, len(sequence.tokens) - start if count is None else count)


def test_a_chunk_brings_what_is_not_there_yet_even_what_it_does_not_compute(table):
    sequence = sequence_of(7, 8, 9, 10)
    assert table.lacking(chunk_of(sequence, start=1, count=1)) == (0, [7, 8])
    assert table.lacking(chunk_of(sequence, start=2)) == (2, [9, 10])
    assert table.lacking(chunk_of(sequence)) == (4, [])


def test_a_drawn_token_is_never_asked_of_the_host(table):
    sequence = sequence_of(7, 8)
    chunk = chunk_of(sequence)
    table.lacking(chunk)
    assert table.place_of_next(chunk) == 2
    sequence.tokens.append(UNKNOWN_TOKEN)
    assert table.lacking(chunk_of(sequence, start=2))[1] == []
    sequence.tokens += [5]
    assert table.lacking(chunk_of(sequence, start=2)) == (3, [5])


def test_sequences_have_rows_of_their_own(table):
    first, second = sequence_of(1), sequence_of(1)
    assert table.row_of(first) != table.row_of(second)
    assert table.lacking(chunk_of(second)) == (table.width, [1])


def test_the_sequence_that_was_not_used_for_longest_loses_its_row(table):
    sequences = [sequence_of(i) for i in range(4)]
    rows = [table.row_of(sequence) for sequence in sequences]
    for sequence in sequences:
        table.lacking(chunk_of(sequence))
    table.row_of(sequences[0])
    assert table.row_of(sequence_of(9)) == rows[1]
    assert table.lacking(chunk_of(sequences[0]))[1] == []
    place, tokens = table.lacking(chunk_of(sequences[1]))
    assert (place // table.width, tokens) == (rows[2], [1])  # back again, from the beginning
