"""Both executors against the plain interpreter of the graph, for every kind of node and every shape."""

import numpy as np
import pytest

from harness import (
    TOLERANCE,
    Line,
    decoder,
    error,
    logits_of,
    make_native,
    random_tensors,
    random_tokens,
    run,
    stored,
)
from octavo.executor.native.lowering import lower
from octavo.graph.builder import Graph
from reference import reference_logits

DTYPES = ["float32", "bfloat16"]
CACHES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "int8"), ("bfloat16", "int8")]
ROW_COUNTS = [1, 2, 3, 4, 5, 6, 7, 16, 17, 97, 200]

SHAPES = {
    "no size is a multiple of 16": {"hidden": 39, "inner": 57, "vocab": 1003},
    "multi-head, head of 8": {"heads": 3, "kv_heads": 3, "head_dim": 8},
    "groups of 2, head of 16": {"heads": 4, "kv_heads": 2, "head_dim": 16},
    "groups of 3, head of 64": {"heads": 9, "kv_heads": 3, "head_dim": 64, "hidden": 72},
    "groups of 7, head of 80": {"heads": 7, "kv_heads": 1, "head_dim": 80},
    "groups of 8, head of 96": {"heads": 8, "kv_heads": 1, "head_dim": 96},
    "groups of 64, head of 2": {"heads": 64, "kv_heads": 1, "head_dim": 2, "rope": None},
    "head of 128": {"heads": 2, "kv_heads": 1, "head_dim": 128},
    "head of 22": {"heads": 2, "kv_heads": 2, "head_dim": 22},
    "biases": {"bias": True, "hidden": 24, "inner": 40},
    "window of 1": {"window": 1},
    "window of 21": {"window": 21},
    "interleaved rope": {"rope": "interleaved"},
    "rope of a part of the head, scaled": {"rope": "partial", "head_dim": 16},
    "no rope": {"rope": None},
    "soft cap": {"softcap": 0.8},
    "slopes": {"slopes": (0.5, 0.1, 2.0, 0.0), "rope": None},
    "slopes of roots": {"slopes": (0.5, 0.1, 2.0, 0.0), "by_root": True, "rope": None},
    "sinks": {"sinks": True},
    "biases by distance": {"biases": "biases", "buckets": (2, 0, 3, 5, 4, 4, 1), "rope": None},
    "chunks of 21": {"chunk": 21},
    "chunks of 13, and those before": {"chunk": 13, "lookback": 1},
    "soft cap, slopes and sinks in chunks": {
        "softcap": 2.0,
        "slopes": (0.5, 0.1, 2.0, 0.0),
        "sinks": True,
        "chunk": 40,
    },
    "values narrower than keys": {"head_dim": 24, "value_dim": 16},
    "values wider than keys": {"head_dim": 8, "value_dim": 38},
    "long sums": {"hidden": 136, "inner": 4200, "layers": 1},
    "wide": {"hidden": 512, "inner": 256, "heads": 8, "kv_heads": 8, "head_dim": 64, "layers": 1},
}


ATTENTIONS = {
    "all": {},
    "window of 100": {"window": 100},
    "window of 300": {"window": 300},
    "chunks of 200, capped, with sinks": {"chunk": 200, "softcap": 1.5, "sinks": True},
    "biases by distance": {"biases": "biases", "buckets": tuple(i % 23 for i in range(221)), "window": 300},
    "slopes, wide values": {"slopes": (0.01, 0.1, 2.0, 0.0), "rope": None, "value_dim": 18},
}


def assert_close(found, graph, tensors, tokens, dtype):
    assert error(found, reference_logits(graph, tensors, tokens)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_are_the_reference_s(make_executor, shape, dtype):
    graph = decoder(**shape)
    tensors = random_tensors(graph, dtype)
    tokens = random_tokens(97)
    assert_close(logits_of(make_executor(graph, tensors, dtype), tokens), graph, tensors, tokens, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_rows_gives_the_reference_s_logits(make_executor, dtype):
    graph = decoder(vocab=1003)
    tensors = random_tensors(graph, dtype)
    executor = make_executor(graph, tensors, dtype)
    tokens = random_tokens(max(ROW_COUNTS))
    expected = reference_logits(graph, tensors, tokens)
    for count in ROW_COUNTS:
        assert error(logits_of(executor, tokens[:count]), expected[:count]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
def test_blocks_of_any_size_in_any_order_give_the_reference_s_logits(make_executor, block_size, dtype):
    graph = decoder()
    tensors = random_tensors(graph, dtype)
    executor = make_executor(graph, tensors, dtype, block_size, num_blocks=40)
    tokens = random_tokens(200)
    blocks = np.random.default_rng(1).permutation(40).tolist()
    assert_close(logits_of(executor, tokens, [150, 1], blocks), graph, tensors, tokens, dtype)


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_contexts_of_several_segments_give_the_reference_s_logits(make_executor, threads, dtype, attention):
    threads(2)
    graph = decoder(layers=1, **attention)
    tensors = random_tensors(graph, dtype)
    executor = make_executor(graph, tensors, dtype, max_tokens=700)
    tokens = random_tokens(700)
    assert_close(logits_of(executor, tokens, [690, 1]), graph, tensors, tokens, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["no size is a multiple of 16", "biases", "groups of 7, head of 80"])
def test_fusion_changes_no_bit(isa, dtype, shape):
    graph = decoder(**SHAPES[shape])
    tensors = random_tensors(graph, dtype)
    tokens = random_tokens(97)
    fused, plain = (logits_of(make_native(graph, tensors, dtype, fuse=fuse), tokens) for fuse in (True, False))
    assert len(lower(graph).ops) < len(lower(graph, fuse=False).ops)
    np.testing.assert_array_equal(fused, plain)


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize(("dtype", "cache"), CACHES)
def test_chunks_batches_and_threads_change_no_bit(isa, threads, dtype, cache, attention):
    """Contexts beyond 256 and 512 tokens are reduced in segments, which threads may share."""
    graph = decoder(hidden=39, inner=57, **attention)
    sizes = {"num_blocks": 192, "max_tokens": 600}
    executor = make_native(graph, random_tensors(graph, dtype), dtype, **sizes, cache_dtype=cache)
    tokens = random_tokens(600)
    threads(1)
    alone = logits_of(executor, tokens)
    for count in (1, 2, 3):
        threads(count)
        for sizes in ([7], [64], [250, 7, 1, 255, 2, 1], [571, 1]):
            np.testing.assert_array_equal(logits_of(executor, tokens, sizes), alone)
        assert_batch_is_alone(executor, tokens, alone)


def assert_batch_is_alone(executor, tokens, alone):
    """Prefixes of `tokens`, of many lengths, end in one step together: by one token, or by five."""
    lengths = [6, 17, 33, 257, 300, 513, 600, 100]
    lines, blocks = [], iter(range(executor.sizes.num_blocks))
    for length in lengths:
        line = Line(tokens[:length], [next(blocks) for _ in range(-(-length // executor.sizes.block_size))])
        run(executor, [line.chunk(length - 5 if length % 2 else length - 1)])
        lines.append(line)
    logits = run(executor, [line.chunk(len(line.sequence.tokens) - line.sequence.num_computed) for line in lines])
    for length, found in zip(lengths, logits, strict=True):
        np.testing.assert_array_equal(found, alone[length - len(found) : length])


@pytest.mark.parametrize(("dtype", "cache"), CACHES)
def test_what_a_block_held_before_does_not_matter(dtype, cache):
    graph = decoder()
    tensors = random_tensors(graph, dtype)
    tokens = random_tokens(37)
    fresh = logits_of(make_native(graph, tensors, dtype, cache_dtype=cache), tokens, [1])
    executor = make_native(graph, tensors, dtype, cache_dtype=cache)
    logits_of(executor, random_tokens(200, seed=5))
    np.testing.assert_array_equal(logits_of(executor, tokens, [1]), fresh)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("dtype", "cache"), CACHES)
def test_a_token_that_is_not_finite_spoils_those_after_it_and_nobody_else(isa, dtype, cache, bad):
    graph = decoder(head_dim=64)
    tensors = random_tensors(graph, dtype)
    table = tensors["embed.weight"].values().copy()
    table[7, 3] = bad
    tensors["embed.weight"] = stored("embed.weight", table)
    executor = make_native(graph, tensors, dtype, cache_dtype=cache)
    tokens = [token + (token == 7) for token in random_tokens(60)]
    clean = logits_of(executor, tokens, [1])
    found = logits_of(executor, [*tokens[:40], 7, *tokens[41:]], [20])
    np.testing.assert_array_equal(found[:40], clean[:40])
    assert not np.isfinite(found[40:]).any()
    np.testing.assert_array_equal(logits_of(executor, tokens, [1]), clean)  # in the same blocks and buffers


@pytest.mark.parametrize(("dtype", "cache"), CACHES)
def test_a_copied_block_has_the_source_s_contents(dtype, cache):
    graph = decoder()
    executor = make_native(graph, random_tensors(graph, dtype), dtype, cache_dtype=cache)
    tokens = random_tokens(20)
    alone = logits_of(executor, tokens)
    line = Line(tokens, [0, 1])
    run(executor, [line.chunk(19)])
    line.sequence.tables[0].blocks = [0, 7]
    chunk = line.chunk(1)
    (found,) = run(executor, [chunk], copies=[(1, 7)])
    np.testing.assert_array_equal(found[0], alone[19])


def branched_graph():
    """Values that several nodes use, and sums of things that are no linear: nothing of it can be fused."""
    g = Graph()
    x = g.embed("embed", 131, 40)
    y = g.linear(x, "y", 40)
    h = g.rms_norm(g.add(x, y), "norm1", 1e-5)
    q, k, v = (g.linear(h, name, 16) for name in "qkv")
    h = g.linear(g.attention(q, k, v, layer=0, head_dim=8, scale=0.3), "o", 40)
    gate, up = g.linear(h, "gate", 40), g.linear(h, "up", 40)
    z = g.add(g.add(y, h), up)
    z = g.add(z, g.linear(g.glu(gate, gate), "down", 40))
    z = g.add(g.linear(g.glu(gate, up), "down2", 40), g.add(z, z))
    g.logits(g.rms_norm(z, "norm", 1e-5), "head", 131)
    return g


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_with_several_uses_stay_until_the_last(make_executor, dtype, fuse):
    graph = branched_graph()
    tensors = random_tensors(graph, dtype)
    tokens = random_tokens(30)
    assert_close(logits_of(make_executor(graph, tensors, dtype, fuse=fuse), tokens), graph, tensors, tokens, dtype)
