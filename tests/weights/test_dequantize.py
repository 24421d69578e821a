"""Decoders: the reference against the gguf package, the native one against the reference."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from octavo import _native
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor

# Where each block has float16 numbers; they are made finite, since a NaN's bits are not part of the contract.
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def random_blocks(format: str, num_blocks: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes, shape [num_blocks, block bytes], with every float in them finite."""
    rng = np.random.default_rng(seed)
    size = LAYOUTS[format].block_bytes
    blocks = rng.integers(0, 256, (num_blocks, size), dtype=np.uint8)
    for at in HALVES.get(format, []):
        high = blocks[:, at + 1]
        high[high & 0x7C == 0x7C] &= 0xBF
    if format in ("F32", "BF16"):
        high = blocks[:, size - 1]
        high[high & 0x7F == 0x7F] &= 0xBF
    return blocks


def stored(format: str, rows: int, seed: int = 0, row_order: NDArray[np.int32] | None = None) -> StoredTensor:
    shape = (rows, 512)
    count = rows * 512 // LAYOUTS[format].block
    return StoredTensor("w", format, shape, random_blocks(format, count, seed).reshape(-1), row_order)


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.mark.parametrize("format", LAYOUTS)
def test_the_reference_equals_the_gguf_package_bit_for_bit(format: str) -> None:
    tensor = stored(format, rows=64)
    kind = gguf.GGMLQuantizationType[format]
    size = LAYOUTS[format].nbytes(tensor.shape[1:])
    raw = tensor.data.reshape(64, size)
    if format in ("F32", "F16"):
        raw = raw.view("<f4" if format == "F32" else "<f2")
    expected = gguf.quants.dequantize(raw, kind).astype(np.float32)
    np.testing.assert_array_equal(bits(tensor.values()), bits(expected))


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
