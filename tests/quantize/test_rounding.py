"""Codes, and the scales and zeros that are searched for them."""

import numpy as np
import pytest
import torch

from octavo.quantize.formats import encode, rounded
from octavo.quantize.rounding import Grid, Numbers, round_rows, to_nearest

INT4, SYMMETRIC, INT8, FP8 = Numbers(4, symmetric=False), Numbers(4), Numbers(8), Numbers(8, is_float=True)


def exactly(scales):
    return scales


def error(numbers, w, grid, importance=1.0):
    return float((((numbers.nearest(w, grid) - grid.zero) * grid.scale - w) ** 2 * importance).sum())


def test_floats_are_rounded_as_pytorch_rounds_them():
    values = np.arange(-460, 460, 1 / 64, dtype=np.float32)
    values = np.concatenate([values, values / 4096])
    found = FP8.nearest(values, Grid(np.ones(1, np.float32), np.zeros(1, np.float32)))
    np.testing.assert_array_equal(found, torch.tensor(values).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy())


def test_scales_are_stored_as_pytorch_rounds_them():
    values = np.random.default_rng(0).standard_normal(9999).astype(np.float32)
    values[:2] = 1 + 2**-8, 1 + 3 * 2**-8  # halfway between two numbers of bfloat16
    for dtype, torch_dtype in (("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)):
        expected = torch.tensor(values).to(torch_dtype)
        np.testing.assert_array_equal(rounded(values, dtype), expected.float().numpy())
        assert encode(values, dtype).tobytes() == expected.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("numbers", [INT4, SYMMETRIC, INT8], ids=["int4", "symmetric", "int8"])
def test_the_search_beats_the_range_of_the_values(numbers):
    w = np.random.default_rng(1).standard_t(4, (5, 32, 40)).astype(np.float32)
    bottom = None if numbers.symmetric else np.minimum(w.min(-2, keepdims=True), 0)
    top = np.maximum((np.abs(w) if numbers.symmetric else w).max(-2, keepdims=True), 0)
    found = numbers.fit(w, None, exactly)
    assert error(numbers, w, found) < 0.97 * error(numbers, w, numbers._grid(bottom, top, exactly))
    assert (np.abs(found.zero) <= -numbers.low).all()
    assert (found.zero == np.rint(found.zero)).all()


def test_errors_of_important_columns_count_more():
    rng = np.random.default_rng(2)
    w, importance = rng.standard_t(3, (32, 200)).astype(np.float32), rng.exponential(1, (32, 1)).astype(np.float32) ** 3
    plain, weighted = INT4.fit(w, None, exactly), INT4.fit(w, importance, exactly)
    assert error(INT4, w, weighted, importance) < 0.95 * error(INT4, w, plain, importance)


@pytest.mark.parametrize("numbers", [INT4, SYMMETRIC, INT8, FP8], ids=["int4", "symmetric", "int8", "fp8"])
def test_codes_are_those_of_the_format_and_zeros_stay_zeros(numbers):
    weight = np.random.default_rng(3).standard_normal((50, 128)).astype(np.float32)
    weight[7] = 0
    weight[8] = np.abs(weight[8]) + 3  # far from zero, which every group's range has
    matrix = to_nearest(numbers, weight, 32, exactly)
    assert matrix.codes.shape == (128, 50)
    assert matrix.scales.shape == matrix.zeros.shape == (4, 50)
    assert matrix.codes.min() >= numbers.low
    assert matrix.codes.max() <= numbers.high
    assert (matrix.values()[7] == 0).all()
    largest = np.abs(weight).reshape(50, 4, 32).max(-1).repeat(32, axis=1)
    assert (np.abs(matrix.values() - weight) <= largest * (0.2 if numbers.bits == 4 else 0.04)).all()


def test_parts_of_a_matrix_are_quantized_as_the_whole(monkeypatch):
    weight = np.random.default_rng(4).standard_normal((70, 64)).astype(np.float32)
    whole = to_nearest(INT4, weight, 32, exactly)
    monkeypatch.setattr("octavo.quantize.rounding._SPAN", 640)
    parts = to_nearest(INT4, weight, 32, exactly)
    for name in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_rows_of_inputs_have_scales_of_their_own():
    x = np.array([[1, -127, 3.4], [0, 0, 0], [0.1, 0.2, 12.7]], np.float32)
    np.testing.assert_allclose(round_rows(INT8, x), [[1, -127, 3], [0, 0, 0], [0.1, 0.2, 12.7]], rtol=1e-6)
