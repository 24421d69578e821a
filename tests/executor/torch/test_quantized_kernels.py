"""Quantized matrices in every form, by Triton's kernels and in plain PyTorch, beside the values of what is stored."""

import numpy as np
import pytest
import torch
from quantized_tensors import on_device, random_stored

from octavo.executor.torch import ops
from octavo.executor.torch.forms import FORMS

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def close(found, expected, dtype):
    size = float(expected.abs().max())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("format", FORMS)
def test_a_form_holds_exactly_what_is_stored(format, device, kernels):
    stored = random_stored(format, 70, 768)
    matrix = on_device(stored, device)
    for module in (ops, kernels):
        out = torch.full((70, 768), torch.nan, device=device)
        module.dequantize(matrix, out)
        np.testing.assert_allclose(out.cpu().numpy(), stored.values(), rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("format", FORMS)
@pytest.mark.parametrize("dtype", [*TOLERANCE])
def test_products_of_few_rows(format, device, kernels, dtype):
    """Of single rows and of several tiles, with columns that end within a tile, written to parts of wider rows."""
    if device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter can't multiply bfloat16 matrices")
    generator = torch.Generator().manual_seed(1)
    for rows, columns, inputs, splits in ((1, 70, 512, 1), (3, 64, 1024, 4), (17, 9, 256, 2), (40, 130, 256, 1)):
        stored = random_stored(format, columns, inputs)
        matrix = on_device(stored, device)
        x = torch.randn(rows, inputs, generator=generator).to(device, dtype)
        bias = torch.randn(columns, generator=generator).to(device, dtype)
        weight = torch.from_numpy(stored.values()).to(device, dtype)
        expected = x.float() @ weight.float().t() + bias.float()
        for module, options in ((ops, {}), (kernels, {"splits": splits}), (kernels, {})):
            wide = torch.full((rows, columns + 5), 7.0, dtype=dtype, device=device)
            module.multiply_quantized(x, matrix, bias, wide[:, :columns], **options)
            close(wide[:, :columns], expected, dtype)
            assert (wide[:, columns:] == 7).all()
