"""Integers of a few bits in words, and codes in blocks, by native code."""

from __future__ import annotations

import numpy as np
import pytest
import quantizers as q

from octavo import _native
from octavo.weights.layout import LAYOUTS, nibbles
from octavo.weights.quantized.bits import unpack, unpack_eights

RANDOM = np.random.default_rng(0)
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (16, 32), (37, 160), (50, 203)])
def test_integers_of_any_bits_are_found_in_rows_and_in_columns_of_words(bits: int, shape: tuple[int, int]) -> None:
    values = RANDOM.integers(0, 1 << bits, shape)
    words = q.words(values, bits).numpy()
    np.testing.assert_array_equal(unpack(words, bits, shape[1]), values)
    np.testing.assert_array_equal(unpack(np.ascontiguousarray(words.T).T, bits, shape[1]), values)
    size = -(-shape[1] * bits // 8)
    np.testing.assert_array_equal(unpack(words.view(np.uint8)[:, :size], bits, shape[1]), values)


@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (41, 33)])
def test_words_of_eight_rows(shape: tuple[int, int]) -> None:
    values = RANDOM.integers(0, 16, (shape[0], 8, shape[1]))
    words = np.zeros(shape, np.uint32)
    for i, place in enumerate(PLACES):
        words |= values[:, i].astype(np.uint32) << np.uint32(4 * place)
    for laid in (words, np.ascontiguousarray(words.T).T):
        np.testing.assert_array_equal(unpack_eights(laid.view(np.int32), PLACES), values.reshape(-1, shape[1]))


@pytest.mark.parametrize(("format", "bits", "count"), [
    ("U4_G32", 4, 2), ("U8_G64", 8, 2), ("E4M3_G128", 8, 1), ("E2M1_G16", 4, 1)
])  # fmt: skip
@pytest.mark.parametrize("ordered", [False, True])
def test_blocks_have_the_numbers_of_their_groups(format: str, bits: int, count: int, ordered: bool) -> None:
    layout, rows = LAYOUTS[format], 19
    group_of_block = np.array([2, 0, 0, 1, 2], np.int32)
    codes = RANDOM.integers(0, 1 << bits, (rows, 5 * layout.block), dtype=np.uint8)
    numbers = [RANDOM.standard_normal((3, rows)).astype(np.float32).T for _ in range(count)]
    out = np.empty((rows, 5 * layout.block_bytes), np.uint8)
    order = RANDOM.permutation(codes.shape[1]).astype(np.int32) if ordered else None
    _native.to_blocks(codes, numbers, group_of_block, bits, order, out)
    blocks = out.reshape(-1, layout.block_bytes)
    for i, one in enumerate(numbers):
        found = np.ascontiguousarray(blocks[:, 4 * i : 4 * i + 4]).view(np.float32).reshape(rows, 5)
        np.testing.assert_array_equal(found, one[:, group_of_block])
    packed = blocks[:, 4 * count :]
    codes = codes if order is None else codes[:, order]
    np.testing.assert_array_equal(nibbles(packed) if bits == 4 else packed, codes.reshape(-1, layout.block))


def test_arrays_that_disagree_are_refused() -> None:
    words = np.zeros((4, 3), np.int32)
    codes, scales, out = np.zeros((4, 64), np.uint8), np.zeros((4, 2), np.float32), np.empty((4, 40), np.uint8)
    order = np.arange(64, dtype=np.int32)
    for refused, says in [
        (lambda: unpack(words, 4, 25), "fewer columns"),
        (lambda: unpack(words, 9, 1), "1 to 8 bits"),
        (lambda: unpack(words.view(np.uint8).T, 4, 1), "side by side"),
        (lambda: unpack_eights(words, (*PLACES[:7], 8)), "places must be 0 to 7"),
        (lambda: _native.to_blocks(codes, [scales], np.array([0, 2], np.int32), 4, None, out), "no such group"),
        (lambda: _native.to_blocks(codes, [scales], np.array([0, -1], np.int32), 4, None, out), "no such group"),
        (lambda: _native.to_blocks(codes, [scales[1:]], np.zeros(2, np.int32), 4, None, out), "another number of rows"),
        (lambda: _native.to_blocks(codes, [scales], np.zeros(3, np.int32), 4, None, out), "no whole number of blocks"),
        (lambda: _native.to_blocks(codes, [scales], np.zeros(2, np.int32), 8, None, out), "blocks have another size"),
        (lambda: _native.to_blocks(codes, [scales], np.zeros(2, np.int32), 4, order[1:], out), "number of columns"),
        (lambda: _native.to_blocks(codes, [scales], np.zeros(2, np.int32), 4, order + 1, out), "order leads outside"),
    ]:
        with pytest.raises(ValueError, match=says):
            refused()
