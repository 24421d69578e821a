"""Decoders: the reference against the gguf package, the native one against the reference."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness import error, logits_of, make_executor_for, random_tokens
from octavo import _native
from octavo.graph.builder import Graph
from octavo.graph.node import Rows, Weight
from octavo.graph.ops.linear import Linear
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import Rearranged, StoredTensor
from reference import reference_logits
from stored_blocks import random_blocks


def stored(format: str, rows: int, seed: int = 0, row_order: NDArray[np.int32] | None = None) -> StoredTensor:
    shape = (rows, 512)
    count = rows * 512 // LAYOUTS[format].block
    return StoredTensor("w", format, shape, random_blocks(format, count, seed).reshape(-1), row_order)


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.mark.parametrize("format", [name for name, layout in LAYOUTS.items() if layout.ggml_type is not None])
def test_the_reference_equals_the_gguf_package_bit_for_bit(format: str) -> None:
    tensor = stored(format, rows=64)
    kind = gguf.GGMLQuantizationType[format]
    size = LAYOUTS[format].nbytes(tensor.shape[1:])
    raw = tensor.data.reshape(64, size)
    if format in ("F32", "F16"):
        raw = raw.view("<f4" if format == "F32" else "<f2")
    expected = gguf.quants.dequantize(raw, kind).astype(np.float32)
    np.testing.assert_array_equal(bits(tensor.values()), bits(expected))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_is_its_scale_its_minimum_and_its_numbers(bits: int) -> None:
    codes = np.arange(64) % (1 << bits)
    packed = codes[:32] | codes[32:] << 4 if bits == 4 else codes
    block = np.concatenate([np.array([0.5, -3], np.float32).view(np.uint8), packed.astype(np.uint8)])
    tensor = StoredTensor("w", f"U{bits}_G64", (1, 64), block)
    np.testing.assert_array_equal(tensor.values()[0], 0.5 * codes - 3)


def test_points_of_a_grid_rise_and_have_as_many_digits_as_a_block_has_neighbours() -> None:
    for name, shape, base in [("IQ1", (2048, 8), 3), ("IQ2_XS", (512, 8), 3), ("IQ3_S", (512, 4), 8)]:
        grid = _native.grid(name)
        assert grid.shape == shape
        assert (np.diff(grid @ base ** np.arange(shape[1])) > 0).all()
    with pytest.raises(ValueError, match="unknown grid 'IQ4_NL'"):
        _native.grid("IQ4_NL")


def test_8_bit_floats_are_those_of_pytorch() -> None:
    codes = np.arange(256, dtype=np.uint8)
    scale = np.ones((2, 1), np.float32).view(np.uint8)
    blocks = np.concatenate([scale, codes.reshape(2, 128)], axis=1)
    expected = torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    found = StoredTensor("w", "E4M3_G128", (2, 128), blocks.reshape(-1)).values().reshape(-1)
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[[127, 255]]).all()


@pytest.mark.parametrize("format", LAYOUTS)
def test_native_equals_the_reference_bit_for_bit(format: str) -> None:
    tensor = stored(format, rows=64, seed=1)
    values = _native.dequantize(format, tensor.data, 64 * 512)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(bits(values.reshape(64, 512)), bits(tensor.values()))


@pytest.mark.parametrize("format", LAYOUTS)
def test_native_reads_unaligned_data(format: str) -> None:
    tensor = stored(format, rows=2, seed=2)
    shifted = np.empty(tensor.data.size + 1, np.uint8)
    shifted[1:] = tensor.data
    values = _native.dequantize(format, shifted[1:], 2 * 512)
    np.testing.assert_array_equal(bits(values), bits(tensor.values().reshape(-1)))


def test_native_converts_every_float16() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    values = _native.dequantize("F16", halves.view(np.uint8), 65536)
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(bits(values[finite]), bits(expected[finite]))


@pytest.mark.parametrize("format", ["Q4_1", "Q6_K", "F16"])
def test_row_order_says_where_each_row_is_stored(format: str) -> None:
    order = np.array([2, 0, 3, 1], np.int32)
    plain, ordered = stored(format, rows=4), stored(format, rows=4, row_order=order)
    np.testing.assert_array_equal(bits(ordered.values()), bits(plain.values()[order]))


@pytest.mark.parametrize("format", LAYOUTS)
def test_an_empty_tensor_has_no_values(format: str) -> None:
    tensor = StoredTensor("w", format, (0, 256), np.empty(0, np.uint8))
    assert tensor.values().shape == (0, 256)
    assert _native.dequantize(format, tensor.data, 0).shape == (0,)


@pytest.mark.parametrize(
    ("format", "size", "count", "message"),
    [
        ("Q9_9", 18, 32, "unknown weight format 'Q9_9'"),
        ("", 18, 32, "unknown weight format"),
        ("Q4_0", 17, 32, "17 bytes of data are not 1 blocks of 18"),
        ("Q4_0", 36, 32, "36 bytes of data are not 1 blocks of 18"),
        ("Q4_0", 18, 33, "not a multiple"),
        ("Q4_0", 18, -32, "not a multiple"),
        ("Q6_K", 210, 2**62, "bytes of data are not"),
        ("F32", 0, 2**62, "bytes of data are not"),
    ],
)
def test_native_refuses_sizes_that_do_not_fit(format: str, size: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.dequantize(format, np.zeros(size, np.uint8), count)


def test_nbytes_refuses_rows_that_split_a_block() -> None:
    assert LAYOUTS["Q4_K"].nbytes((3, 512)) == 3 * 2 * 144
    assert LAYOUTS["F32"].nbytes(()) == 4
    with pytest.raises(ValueError, match="rows of 257 elements"):
        LAYOUTS["Q4_K"].nbytes((256, 257))


def plain(values: NDArray[np.float32], name: str = "w") -> StoredTensor:
    return StoredTensor(name, "F32", values.shape, values.view(np.uint8).reshape(-1))


STACK = np.arange(3 * 8 * 6, dtype=np.float32).reshape(3, 8, 6)
PARTS = {
    "an expert of a stack": (STACK, Weight("w", (8, 6), expert=2), STACK[2]),
    "a matrix that is stored transposed": (STACK[0], Weight("w", (6, 8), transposed=True), STACK[0].T),
    "rows of one block": (STACK[0], Weight("w", (3, 6), rows=Rows(1, 8, 2, 5)), STACK[0][2:5]),
    "rows of every head": (STACK[0], Weight("w", (4, 6), rows=Rows(4, 2, 1, 2)), STACK[0][1::2]),
    "rows of a transposed expert": (
        STACK, Weight("w", (2, 8), rows=Rows(2, 3, 1, 2), transposed=True, expert=1), STACK[1].T[[1, 4]],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stored_as", "weight", "expected"), PARTS.values(), ids=PARTS)
def test_a_weight_may_be_a_part_of_what_is_stored(stored_as, weight, expected) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_array_equal(plain(stored_as).part(weight).values(), expected)


@pytest.mark.parametrize("format", ["Q4_0", "Q6_K"])
def test_rows_and_experts_of_packed_formats_are_not_decoded_to_be_found(format: str) -> None:
    whole = stored(format, rows=6)
    columns = whole.shape[1]
    some = whole.part(Weight("w", (2, columns), rows=Rows(2, 3, 1, 2)))
    np.testing.assert_array_equal(some.values(), whole.values()[[1, 4]])
    assert some.data is whole.data
    stack = StoredTensor("w", format, (3, 2, columns), whole.data)
    np.testing.assert_array_equal(stack.part(Weight("w", (2, columns), expert=1)).values(), whole.values()[2:4])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (Weight("w", (8, 7)), r"has shape \(8, 6\), but config.json makes it \(8, 7\)"),
        (Weight("w", (8, 6), expert=8), "no stack"),
        (Weight("w", (4, 6), rows=Rows(3, 2, 0, 1)), "without 3 blocks of 2 rows"),
        (Weight("w", (4, 6), rows=Rows(2, 4, 1, 2)), r"of which \(2, 6\) would be taken"),
    ],
)
def test_a_part_that_is_not_there_is_refused_with_the_shape(weight: Weight, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(STACK[0]).part(weight)
    with pytest.raises(ValueError, match="can't be transposed"):
        stored("Q4_0", rows=4).part(Weight("w", (512, 4), transposed=True))


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_a_graph_may_be_made_of_parts_and_of_rearranged_tensors(executor) -> None:  # type: ignore[no-untyped-def]
    """A stack of q, k and v by heads, a transposed projection, an expert, rows with scales, bytes that are made."""
    rng = np.random.default_rng(0)
    tensors = {
        name: plain((rng.standard_normal(shape) / 6).astype(np.float32), name)
        for name, shape in {"embed.weight": (131, 32), "norm.weight": (32,), "qkv": (3 * 16, 32), "o": (16, 32)}.items()
    }
    tensors["experts"] = plain((rng.standard_normal((4, 24, 32)) / 6).astype(np.float32), "experts")
    tensors["down"] = StoredTensor(
        "down", "I8", (32, 24), rng.integers(0, 255, 32 * 24, np.uint8), scales=np.full(32, 1e-3, np.float32)
    )
    blocks = random_blocks("U4_G32", 131)
    halves = blocks[:, :12], blocks[:, 12:]
    made = Rearranged(halves, lambda low, high: np.concatenate([low, high], axis=1).reshape(-1))
    tensors["head.weight"] = StoredTensor("head.weight", "U4_G32", (131, 32), made)
    g = Graph()
    x = g.embed("embed", 131, 32)
    q, k, v = (g.append(Linear(x, Weight("qkv", (16, 32), rows=Rows(2, 24, 8 * i, 8 * i + 8)))) for i in range(3))
    h = g.attention(q, k, v, layer=0, head_dim=8, scale=1.0)
    x = g.add(x, g.append(Linear(h, Weight("o", (32, 16), transposed=True))))
    h = g.activation(g.append(Linear(x, Weight("experts", (24, 32), expert=3))), "gelu")
    x = g.add(x, g.append(Linear(h, Weight("down", (32, 24)))))
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", 131)
    tokens = random_tokens(40)
    found = logits_of(make_executor_for(executor)(g, tensors), tokens)
    assert error(found, reference_logits(g, tensors, tokens)) < 1e-4
