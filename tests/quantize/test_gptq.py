"""GPTQ's compensation, against rounding to nearest and against the method's own definition."""

import numpy as np
import pytest

from octavo.quantize.gptq import DAMPING, Hessian, compensate
from octavo.quantize.rounding import Numbers, to_nearest

NUMBERS = {
    "int4": (Numbers(4, symmetric=False), 32),
    "symmetric": (Numbers(4), 32),
    "int8": (Numbers(8), 160),
    "fp8": (Numbers(8, is_float=True), 160),
}


def exactly(scales):
    return scales


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_normal((48, 160)).astype(np.float32)


@pytest.fixture
def inputs():
    """Correlated ones: 160 columns of 40 sources."""
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((600, 40)) @ rng.standard_normal((40, 160)) / 40**0.5
    return (mixed + 0.1 * rng.standard_normal((600, 160))).astype(np.float32)


@pytest.mark.parametrize("kind", NUMBERS)
def test_errors_of_products_are_lower_than_of_rounding_to_nearest(kind, weight, inputs):
    numbers, group = NUMBERS[kind]

    def error(matrix):
        return np.square(inputs @ (matrix.values() - weight).T).sum()

    nearest = to_nearest(numbers, weight, group, exactly)
    compensated = compensate(numbers, weight, group, Hessian(160, [inputs[:200], inputs[200:]]), exactly)
    assert error(compensated) < 0.5 * error(nearest)


@pytest.mark.parametrize("kind", NUMBERS)
def test_inputs_without_correlation_leave_nothing_to_compensate(kind, weight):
    numbers, group = NUMBERS[kind]
    nearest = to_nearest(numbers, weight, group, exactly)
    compensated = compensate(numbers, weight, group, Hessian(160, [np.eye(160, dtype=np.float32)]), exactly)
    np.testing.assert_array_equal(compensated.codes, nearest.codes)
    np.testing.assert_array_equal(compensated.scales, nearest.scales)


def test_columns_are_updated_as_optimal_brain_surgeon_says(weight, inputs):
    """Each column's error goes to those after it by the inverse Hessian of what is left (Frantar et al., eq. 2)."""
    numbers, group = NUMBERS["int4"]
    matrix = compensate(numbers, weight, group, Hessian(160, [inputs]), exactly)
    hessian = 2 * inputs.T.astype(np.float64) @ inputs / len(inputs)
    diagonal = np.diag(hessian)
    shrunk = hessian * 600 / 760 + np.diag(diagonal) * 160 / 760 + DAMPING * diagonal.mean() * np.eye(160)
    rest, values = weight.T.astype(np.float64), matrix.values().T
    inverse, left = np.linalg.inv(shrunk), np.ones(160, bool)
    for i in np.argsort(-diagonal):
        scale, zero = matrix.scales[i // group], matrix.zeros[i // group]
        steps = (rest[i] / scale + zero).clip(-8, 7) - matrix.codes[i]
        assert np.abs(steps).max() < 0.51  # the nearest code, but for what float32 makes of halves
        left[i] = False
        rest[left] -= inverse[left, i, None] / inverse[i, i] * (rest[i] - values[i])
        inverse[left] -= np.outer(inverse[left, i], inverse[i]) / inverse[i, i]


def test_of_few_tokens_less_is_believed():
    """What is learnt from 100 tokens holds for others of the same kind: it is no worse than rounding to nearest."""
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((48, 160)).astype(np.float32)
    few, others = rng.standard_normal((100, 160)).astype(np.float32), rng.standard_normal((4000, 160))
    numbers, group = NUMBERS["int4"]
    matrices = (
        compensate(numbers, weight, group, Hessian(160, [few]), exactly),
        to_nearest(numbers, weight, group, exactly),
    )
    compensated, nearest = (np.square(others @ (matrix.values() - weight).T).sum() for matrix in matrices)
    assert compensated < 1.5 * nearest


def test_columns_that_no_input_uses_are_rounded_to_nearest(weight, inputs):
    numbers, group = NUMBERS["int4"]
    inputs[:, 32:64] = 0
    found = compensate(numbers, weight, group, Hessian(160, [inputs]), exactly)
    nearest = to_nearest(numbers, weight, group, exactly)
    np.testing.assert_array_equal(found.values()[:, 32:64], nearest.values()[:, 32:64])
    assert np.isfinite(found.values()).all()
