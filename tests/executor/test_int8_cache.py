"""A KV cache of int8, on every instruction set: a scale for each token and head, of keys and of values."""

import numpy as np
import pytest

from harness import decoder, error, logits_of, make_native, random_tensors, random_tokens, stored
from octavo import _native
from octavo.graph.ops.attention import Attention
from reference import reference_logits

SHAPES = {
    "head of 8": {},
    "head of 22": {"heads": 2, "kv_heads": 2, "head_dim": 22},
    "groups of 3, head of 64": {"heads": 9, "kv_heads": 3, "head_dim": 64, "hidden": 72},
    "groups of 7, head of 80": {"heads": 7, "kv_heads": 1, "head_dim": 80},
    "groups of 40, head of 16": {"heads": 40, "kv_heads": 1, "head_dim": 16},
    "head of 128": {"heads": 2, "kv_heads": 1, "head_dim": 128},
    "interleaved rope": {"rope": "interleaved", "head_dim": 32},
    "window of 21": {"window": 21, "head_dim": 48},
    "soft cap, slopes and sinks": {"softcap": 0.8, "slopes": (0.5, 0.1, 2.0, 0.0), "sinks": True, "head_dim": 16},
    "biases by distance": {"biases": "biases", "buckets": (2, 0, 3, 5, 4, 4, 1), "softcap": 2.0, "head_dim": 16},
    "values of another width": {"head_dim": 24, "value_dim": 16},
}


def as_int8(x, head_dim):
    """Each head of each row in 255 steps."""
    heads = x.reshape(len(x), -1, head_dim)
    scale = np.abs(heads).max(-1, keepdims=True) / np.float32(127)
    return (np.rint(heads / scale) * scale).reshape(x.shape)


def spread(x, head_dim):
    """An orthogonal transform of each head's columns, which is its own inverse: of blocks of a power of two."""
    size = 1 if head_dim % 16 else head_dim & -head_dim
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (x.reshape(-1, size) @ (matrix / np.sqrt(size))).reshape(x.shape).astype(np.float32)


@pytest.fixture
def int8_reference(monkeypatch):
    """The reference's logits, of keys and values that are rounded as the cache's are."""
    exact = Attention.reference

    def rounded(self, whole, q, k, v):
        k = spread(as_int8(spread(k, self.head_dim), self.head_dim), self.head_dim)
        return exact(self, whole, q, k, as_int8(v, self.value_dim))

    def logits(*args):
        with monkeypatch.context() as patched:
            patched.setattr(Attention, "reference", rounded)
            return reference_logits(*args)

    return logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_rounded_keys_and_values(isa, shape, dtype, int8_reference):
    graph = decoder(**shape)
    tensors = random_tensors(graph, dtype)
    tokens = random_tokens(97)
    found = logits_of(make_native(graph, tensors, dtype, cache_dtype="int8"), tokens, [90, 1])
    assert error(found, int8_reference(graph, tensors, tokens)) < {"float32": 3e-3, "bfloat16": 3e-2}[dtype]
    if dtype == "float32":
        assert 1e-4 < error(found, reference_logits(graph, tensors, tokens)) < 3e-2


@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("window", [None, 100, 300])
def test_contexts_of_several_segments_in_blocks_of_any_size(isa, threads, block_size, window, int8_reference):
    threads(2)
    graph = decoder(window=window, layers=1, head_dim=16)
    tensors = random_tensors(graph)
    executor = make_native(graph, tensors, "float32", block_size, max_tokens=700, cache_dtype="int8")
    tokens = random_tokens(600)
    blocks = np.random.default_rng(1).permutation(64).tolist()
    found = logits_of(executor, tokens, [590, 1], blocks)
    assert error(found, int8_reference(graph, tensors, tokens)) < 3e-3


@pytest.mark.parametrize("scale", [0.0, 1e-35, 1e-20, 1e15])
def test_keys_and_values_of_any_size(isa, scale):
    """Nothing of a head is lost where its numbers are small or large; zeros give zeros."""
    graph = decoder(head_dim=16, layers=1, rope=None)
    tensors = random_tensors(graph)
    for name in ("0.q.weight", "0.o.weight"):  # scores, and what is added in the end, stay near one
        values = tensors[name].values() / max(scale, 1e-20)
        tensors[name] = stored(name, values.clip(-1e30, 1e30))
    for name in ("0.k.weight", "0.v.weight"):
        tensors[name] = stored(name, tensors[name].values() * scale)
    tokens = random_tokens(50)
    found = logits_of(make_native(graph, tensors, cache_dtype="int8"), tokens)
    assert error(found, reference_logits(graph, tensors, tokens)) < 2e-2


@pytest.mark.parametrize(("head_dim", "share"), [(64, 0.54), (96, 0.61), (128, 0.52)])
def test_memory_is_about_half(head_dim, share):
    """Keys are padded to 64 columns."""
    columns = -(-head_dim // 64) * 64 + head_dim
    layers = [(3, head_dim, head_dim, 0)] * 30
    for block_size in (16, 32, 256):
        half, whole = (_native.page_bytes(dtype, layers, block_size) for dtype in ("int8", "bfloat16"))
        assert half == 30 * 3 * block_size * (columns + 8)
        assert half < share * whole
        graph = decoder(kv_heads=2, head_dim=head_dim)
        executor = make_native(graph, random_tensors(graph), block_size=block_size, num_blocks=3, cache_dtype="int8")
        assert executor.native.kv_bytes == 3 * 2 * 2 * block_size * (columns + 8)


def test_a_cache_is_int8_or_of_the_model_s_type():
    graph = decoder()
    with pytest.raises(ValueError, match="cache_dtype must be int8 or the model's type"):
        make_native(graph, random_tensors(graph), "float32", cache_dtype="bfloat16")
