"""Attention in both directions within a step, on every instruction set and in PyTorch, against the references."""

import numpy as np
import pytest

from harness import TOLERANCE, Line, error, make_native, random_tensors, random_tokens, run
from octavo.errors import UnsupportedError
from octavo.executor.base import Step, Wanted
from octavo.executor.native import executor
from octavo.graph.builder import Graph
from octavo.graph.ends import with_hidden_states
from octavo.graph.node import ShapeError
from reference import reference_logits

LENGTHS = (300, 1, 257, 33, 520)  # within a segment of keys, and over several


def both_ways(ends_in_norm=True, **scoring):
    """Two layers; rows are of a norm, or of a sum."""
    g = Graph()
    x = g.add(g.embed("embed", 131, 40), g.segment_embed("segments", 3, 40))
    for i in range(2):
        h = g.layer_norm(x, f"{i}.norm", 1e-5)
        q, k, v = g.linear(h, f"{i}.q", 48), g.linear(h, f"{i}.k", 24), g.linear(h, f"{i}.v", 24)
        h = g.attention(q, k, v, layer=None, head_dim=12, scale=12**-0.5, **{"causal": False, **scoring})
        x = g.add(x, g.linear(h, f"{i}.o", 40))
    g.hidden_states(g.layer_norm(x, "last", 1e-5) if ends_in_norm else x)
    return g


def biases(reach, count):
    """Of the nearest distances, on either side others."""
    return {"biases": "biases", "buckets": tuple(7 * i % count for i in range(2 * reach + 1))}


GRAPHS = {
    "all": {},
    "a window": {"window": 20},
    "a window over segments": {"window": 290},
    "itself": {"window": 1},
    "a cap": {"softcap": 2.0, "window": 40, "ends_in_norm": False},
    "slopes": {"slopes": (0.5, 0.1, 0.01, 0.0)},
    "slopes of roots in a window": {"slopes": (0.5, 0.1, 2.0, 0.0), "by_root": True, "window": 290},
    "biases of the nearest": biases(3, 7),
    "biases over segments": biases(128, 32),
    "a bias of all": biases(0, 1),
    "biases, slopes and a cap": {**biases(300, 50), "slopes": (0.01, 0.1, 0.02, 0.0), "softcap": 2.0},
    "biases, looking back": {**biases(20, 32), "causal": True},
}


SECONDS = (140, 0, 1, 32, 500)  # where second texts begin


def rows_of(made, texts, seconds=SECONDS):
    places = [[17 * i, *range(17 * i + 1, 17 * i + 17)] for i in range(len(texts))]
    pairs = zip(texts, places, seconds, strict=False)
    lines = [Line(text, blocks, second_start=second) for text, blocks, second in pairs]
    return run(made, [line.chunk(len(text)) for line, text in zip(lines, texts, strict=True)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_rows_are_the_reference_s_and_the_same_bits_alone(make_executor, name, dtype, threads):
    graph = both_ways(**GRAPHS[name])
    tensors = random_tensors(graph, dtype)
    texts = [random_tokens(count, seed=count) for count in LENGTHS]
    made = make_executor(graph, tensors, dtype, block_size=32, num_blocks=90, max_tokens=1200)
    threads(2)
    together = rows_of(made, texts)
    for text, second, rows in zip(texts, SECONDS, together, strict=True):
        assert error(rows, reference_logits(graph, tensors, text, second_start=second)) < TOLERANCE[dtype]
        if not made.runs_ahead:
            np.testing.assert_array_equal(rows_of(made, [text], [second])[0], rows)


def test_threads_change_no_bit(threads):
    graph = both_ways(window=290)
    native = make_native(graph, random_tensors(graph), block_size=32, num_blocks=90, max_tokens=1200)
    found = []
    for count in (1, 2, 4):
        threads(count)
        found.append(rows_of(native, [random_tokens(520)])[0])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_slices_between_which_others_have_their_turn_change_no_bit(monkeypatch, threads):
    """Of one text, operations are cut, too; of several they stay whole."""
    graph, counts = both_ways(window=290), []
    tensors = random_tensors(graph)
    options = {"block_size": 32, "num_blocks": 90, "max_tokens": 1200}
    texts = [random_tokens(count, seed=count) for count in LENGTHS]
    threads(2)
    whole = make_native(graph, tensors, **options)
    monkeypatch.setattr(executor, "SLICE_FLOPS", 3e5)
    sliced = make_native(graph, tensors, **options)
    run_part = sliced._run
    monkeypatch.setattr(sliced, "_run", lambda *args: (counts.append(args[3:]), run_part(*args)))
    for some in (texts, texts[:1], texts[4:]):
        for found, rows in zip(rows_of(sliced, some), rows_of(whole, some), strict=True):
            np.testing.assert_array_equal(found, rows)
    assert len(counts) > 60
    assert {len(part) for part in counts} == {2, 4}


def test_a_token_sees_as_far_to_either_side_as_its_window_says():
    graph = both_ways(window=5)
    native = make_native(graph, random_tensors(graph), max_tokens=64)
    tokens = random_tokens(40)
    before = rows_of(native, [tokens])[0]
    changed = rows_of(native, [[*tokens[:20], (tokens[20] + 1) % 131, *tokens[21:]]])[0]
    seen = np.flatnonzero((before != changed).any(axis=1))
    assert (seen[0], seen[-1]) == (12, 28)  # four tokens in each of two layers


def test_only_what_the_graph_ends_in_is_given():
    graph = both_ways()
    native = make_native(graph, random_tensors(graph))
    ones = np.ones(1, np.int32)
    step = Step(sequences=(1,), tokens=ones, starts=ones - 1, counts=ones, block_tables=ones[None])
    with pytest.raises(UnsupportedError, match=r"logits.*ends in hidden_states"):
        native.run(Step(**{name: getattr(step, name) for name in step.__slots__} | {"wanted": Wanted(logits=ones - 1)}))
    assert with_hidden_states(graph) is graph


def test_a_second_text_has_another_segment_if_the_table_has_one(make_executor):
    graph = both_ways()
    made, text = make_executor(graph, random_tensors(graph), max_tokens=64), random_tokens(40)
    alone, pair, last = (rows_of(made, [text], [second])[0] for second in (0, 20, 39))
    assert np.abs(alone - pair).max(axis=1).min() > 1e-6
    assert np.abs(alone - last).max() > 1e-6
    g = Graph()
    g.hidden_states(g.add(g.embed("embed", 131, 16), g.segment_embed("segments", 1, 16)))
    one_row = make_executor(g, random_tensors(g), max_tokens=64)
    np.testing.assert_array_equal(rows_of(one_row, [text], [20])[0], rows_of(one_row, [text], [0])[0])


def test_what_looks_back_only_can_not_look_both_ways():
    g = Graph()
    x = g.embed("embed", 131, 16)
    with pytest.raises(ShapeError, match="looks back"):
        g.attention(x, x, x, layer=None, head_dim=8, scale=1.0, causal=False, chunk=8)
    with pytest.raises(ShapeError, match="only causal attention"):
        g.attention(x, x, x, layer=0, head_dim=8, scale=1.0, causal=False)
