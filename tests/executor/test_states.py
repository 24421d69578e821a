"""What layers keep of a sequence beside its pages, by the sequence's id."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from harness import Line, logits_of, make_native, make_torch, random_tensors, random_tokens, run
from octavo.config import EngineConfig
from octavo.engine.memory import plan_memory
from octavo.errors import UnsupportedError
from octavo.executor.native.lowering import lower
from octavo.executor.torch.program import compile_graph
from octavo.graph.builder import Graph
from octavo.graph.cache import FixedState, PagedCache
from octavo.graph.node import ShapeError

TOKENS = random_tokens(40)


def convolutions():
    """Two convolutions around an attention."""
    g = Graph()
    x = g.embed("embed", 131, 24)
    x = g.add(x, g.causal_conv(g.linear(x, "in", 24), "conv", 4, layer=0))
    q, k, v = (g.linear(x, name, 16) for name in "qkv")
    x = g.add(x, g.linear(g.attention(q, k, v, layer=1, head_dim=8, scale=1.0), "o", 24))
    x = g.add(x, g.causal_conv(x, "conv2", 3, layer=2))
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", 131)
    return g


def deltas():
    """A delta rule before an attention, and one behind it, with keys for two heads of values of more than one block."""
    g = Graph()
    x = g.embed("embed", 131, 24)
    for i in (0, 3):
        q, k, v = (g.linear(x, f"{i}.{name}", columns) for name, columns in (("q", 20), ("k", 20), ("v", 80)))
        q = g.causal_conv(q, f"{i}.conv", 4, layer=i, bias=True, activation="silu")
        a, b = g.linear(x, f"{i}.a", 2), g.linear(x, f"{i}.b", 2)
        h = g.delta(q, k, v, a, b, f"{i}.A_log", f"{i}.dt_bias", key_dim=20, layer=i + 1)
        x = g.add(x, g.linear(h, f"{i}.out", 24))
        if i == 0:
            q, k, v = (g.linear(x, name, 16) for name in "qkv")
            x = g.add(x, g.linear(g.attention(q, k, v, layer=2, head_dim=8, scale=1.0), "o", 24))
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", 131)
    return g


@pytest.fixture(params=[convolutions, deltas], ids=["convolutions", "delta rules"])
def graph(request):
    return request.param()


@pytest.fixture(
    params=[make_native, make_torch, partial(make_native, cache_dtype="int8")], ids=["native", "torch", "int8 cache"]
)
def executor(request, graph):
    return request.param(graph, random_tensors(graph), max_tokens=64)


def assert_same(executor, found, expected):
    if executor.runs_ahead:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(found, expected)


def test_layers_are_of_two_kinds():
    assert deltas().layers[1] == FixedState((2, 20, 40))
    assert convolutions().layers == {0: FixedState((3, 24)), 1: PagedCache(2, 8, 8), 2: FixedState((2, 24))}


@pytest.mark.parametrize("sizes", [[1], [2], [7, 1, 3], [39, 1]])
def test_chunks_give_what_the_whole_gives(executor, sizes):
    whole = logits_of(executor, TOKENS)
    assert_same(executor, logits_of(executor, TOKENS, sizes), whole)


def test_sequences_of_a_step_have_states_of_their_own(executor):
    alone = logits_of(executor, TOKENS)
    executor.reset()
    lines = [Line(TOKENS, [8 * i + j for j in range(8)]) for i in range(4)]
    for counts in ([5, 1, 2, 17], [1, 1, 9, 3], [3, 1, 1, 1]):
        starts = [line.sequence.num_computed for line in lines]
        found = run(executor, [line.chunk(count) for line, count in zip(lines, counts, strict=True)])
        for start, count, logits in zip(starts, counts, found, strict=True):
            assert_same(executor, logits, alone[start : start + count])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_threads_change_no_bit(graph, threads, isa, count):
    executor = make_native(graph, random_tensors(graph))
    whole = logits_of(executor, TOKENS)
    threads(count)
    np.testing.assert_array_equal(logits_of(executor, TOKENS, [30, 1]), whole)


def test_a_fork_goes_on_from_where_its_parent_is(executor):
    alone = logits_of(executor, TOKENS)
    executor.reset()
    parent, child = Line(TOKENS, [0, 1, 2]), Line(TOKENS, [5, 6, 7])
    run(executor, [parent.chunk(16)])
    child.sequence.blocks[0], child.sequence.num_computed = 0, 16
    forks = ((parent.sequence.id, child.sequence.id),)
    for found in run(executor, [child.chunk(2)], forks=forks, ended=(parent.sequence.id,)):
        assert_same(executor, found, alone[16:18])


@pytest.mark.parametrize(("count", "kept"), [(16, 16), (20, 16), (3, 2), (1, 1)])
def test_another_goes_on_from_a_state_that_was_kept(executor, count, kept):
    alone = logits_of(executor, TOKENS)
    executor.reset()
    first, second = Line(TOKENS, [0, 1, 2]), Line(TOKENS, [5, 6, 7])
    chunk = first.chunk(count)
    chunk.kept = kept, 3
    assert_same(executor, run(executor, [chunk])[0], alone[:count])
    assert_same(executor, run(executor, [first.chunk(2)])[0], alone[count : count + 2])
    second.sequence.blocks[0], second.sequence.num_computed, second.sequence.snapshot = 0, kept, 3
    for _ in range(2):
        assert_same(executor, run(executor, [second.chunk(3)])[0], alone[kept : kept + 3])
        second = Line(TOKENS, [0, 6, 7], start=kept)
        second.sequence.id, second.sequence.snapshot = 9, 3


def test_forks_take_the_places_of_those_that_end(executor):
    alone = logits_of(executor, TOKENS)
    executor.reset()
    lines = [Line(TOKENS, [i, i + 40]) for i in range(40)]  # as many as there may be
    for some in (lines[:20], lines[20:]):
        run(executor, [line.chunk(2) for line in some])
    children = [Line(TOKENS, lines[0].sequence.blocks, start=2) for _ in range(39)]
    for number, child in enumerate(children):
        child.sequence.id = 100 + number
    forks = tuple((0, child.sequence.id) for child in children)
    ended = tuple(line.sequence.id for line in lines if line is not lines[7])
    found = run(executor, [line.chunk(1) for line in [children[3], children[38], lines[7]]], forks=forks, ended=ended)
    for logits in found:
        assert_same(executor, logits, alone[2:3])


def test_a_sequence_that_begins_anew_finds_nothing_of_what_was_before(executor):
    alone = logits_of(executor, TOKENS)
    for _ in range(2):
        line = Line(TOKENS, [0, 1, 2])
        assert_same(executor, run(executor, [line.chunk(3)])[0], alone[:3])
        assert_same(executor, run(executor, [line.chunk(9)])[0], alone[3:12])


@pytest.mark.parametrize(("compiled", "columns"), [(lower, 32), (compile_graph, 24)])
def test_states_and_what_is_kept_of_them_are_in_the_plan_of_memory(compiled, columns):
    """The native executor pads rows to 16 values."""
    footprint = compiled(convolutions())
    plans = [plan_memory(EngineConfig(max_num_seqs=n), footprint, 64, 131, 1 << 40, 0) for n in (1, 65)]
    assert plans[0].state_bytes == 4 * (3 + 2) * columns
    assert [plan.num_snapshots for plan in plans] == [2, 130]
    assert plans[1].workspace - plans[0].workspace >= 3 * 64 * plans[0].state_bytes


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_states_take_what_the_plan_says(executor):
    g = Graph()
    x = g.embed("embed", 131, 16)
    q, k = (g.causal_conv(g.linear(x, name, 128), f"conv_{name}", 4, layer) for layer, name in enumerate("qk"))
    a, b, v = (g.linear(x, name, columns) for name, columns in (("a", 2), ("b", 2), ("v", 256)))
    g.logits(g.delta(q, k, v, a, b, "A_log", "dt_bias", key_dim=64, layer=2), "head", 131)
    tensors, tape, program = random_tensors(g), lower(g), compile_graph(g)
    native = make_native(g, tensors, max_tokens=16)
    states = 44 * 4 * (2 * 64 * 128 + 2 * 3 * 128)  # of 40 sequences and 4 snapshots
    assert native.native.workspace_bytes > states
    assert native.native.workspace_bytes == pytest.approx(tape.workspace_bytes("float32", native.sizes), rel=0.03)
    if executor == "torch":
        made = sum(state.nbytes for state in make_torch(g, tensors, max_tokens=16).states.values())
        assert made == pytest.approx(states, rel=0.03)
    without = replace(native.sizes, max_num_seqs=40, num_snapshots=0)
    planned = [program.workspace_bytes("float32", sizes) for sizes in (native.sizes, without)]
    assert planned[0] - planned[1] == states // 11


def test_a_model_that_keeps_no_keys_and_values_has_none_in_int8():
    g = Graph()
    g.logits(g.causal_conv(g.embed("embed", 131, 24), "conv", 4, layer=0), "head", 131)
    config = EngineConfig(kv_cache_dtype="int8")
    with pytest.raises(UnsupportedError, match="kv_cache_dtype='int8': the model keeps no keys and values; leave it"):
        plan_memory(config, lower(g), 64, 131, 1 << 40, 0)


def test_a_kernel_of_one_or_a_weight_of_another_shape_is_refused():
    g = Graph()
    x = g.embed("embed", 131, 24)
    with pytest.raises(ShapeError, match="kernel 1 over 24 columns"):
        g.causal_conv(x, "conv", 1, layer=0)


def test_a_step_without_slots_is_refused():
    graph = convolutions()
    executor = make_native(graph, random_tensors(graph))
    arrays = [np.array(values, np.int32) for values in ([1], [0], [1], [[0]], [0])]
    with pytest.raises(ValueError, match="no such slot"):
        executor.native.run(*arrays, np.zeros((0, 2), np.int32))
    with pytest.raises(ValueError, match="no such slot"):
        executor.native.copy_state(0, 80)
