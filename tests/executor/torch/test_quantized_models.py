"""Whole models of quantized weights on the torch executor, and weights that become quantized while they are loaded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quantized_tensors import on_device, random_stored

from harness import decoder, error, logits_of, make_torch, random_tensors, random_tokens, stored
from octavo.errors import ConfigError
from octavo.executor.torch import ops
from octavo.executor.torch.forms import FORMS, QUANTIZED, choose_forms
from octavo.executor.torch.products import FEW_ROWS, Products, fits_fp8, multiply_fp8
from octavo.executor.torch.program import SCRATCH_BYTES, compile_graph
from octavo.executor.torch.quantized import Quantized, quantize
from octavo.graph.builder import Graph

SIZES = {"hidden": 256, "inner": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "layers": 1}
MIXED = {"q": "Q4_K", "k": "Q4_K", "v": "Q6_K", "o": "Q4_0", "gate": "U4_G128", "up": "BF16", "down": "NF4_G64"}


def quantized_model(format_of, **options):
    """A graph, its tensors in the formats that `format_of` gives for their names, and the same tensors unpacked."""
    graph = decoder(**SIZES, **options)
    packed, plain = random_tensors(graph), {}
    for number, (name, tensor) in enumerate(packed.items()):
        format = format_of(name) if len(tensor.shape) == 2 else None
        if format in FORMS:
            packed[name] = replace(random_stored(format, *tensor.shape, seed=number), name=name)
        plain[name] = stored(name, packed[name].values())
    return graph, packed, plain


@pytest.mark.parametrize("format", FORMS)
def test_a_model_is_that_of_its_unpacked_weights(format):
    """With prompts of many rows, which unpack, and decodes; the table of embeddings is that of the logits, too."""
    graph, packed, plain = quantized_model(lambda name: format)
    tokens = random_tokens(90)
    found, expected = (logits_of(make_torch(graph, tensors), tokens, [FEW_ROWS + 16, 1]) for tensors in (packed, plain))
    assert error(found, expected) < 1e-3


def test_linears_of_one_input_may_have_different_formats(kernels, device):
    graph, packed, plain = quantized_model(lambda name: MIXED.get(name.split(".")[1]), bias=True)
    tokens = random_tokens(FEW_ROWS + 3)
    found = make_torch(graph, packed, kernels=kernels, device=str(device))
    expected = logits_of(make_torch(graph, plain), tokens)
    assert error(logits_of(found, tokens, [FEW_ROWS + 1, 1]), expected) < 1e-3


def test_rows_in_another_order_and_parts_of_a_matrix():
    """As GGUF's queries and keys are stored, and as one matrix holds those of q, k and v."""
    for format in ("Q4_0", "I8", "Q6_K"):
        tensor = random_stored(format, 24, 256)
        order = np.random.default_rng(0).permutation(24).astype(np.int32)
        part = replace(tensor, row_order=order[:10], shape=(10, 256))
        graph = Graph()
        graph.logits(graph.embed("embed", 131, 256), "head", 10)
        table = random_tensors(graph)["embed.weight"]
        executor = make_torch(graph, {"embed.weight": table, "head.weight": replace(part, name="head.weight")})
        expected = table.values()[:5] @ tensor.values()[order[:10]].T
        assert error(logits_of(executor, list(range(5))), expected) < 1e-5


@pytest.mark.parametrize("format", FORMS)
def test_memory_is_that_of_the_numbers(format):
    graph, packed, _ = quantized_model(lambda name: format)
    executor = make_torch(graph, packed)
    program = compile_graph(graph, choose_forms(graph, packed))
    held = list(executor.interpreter.device.weights._made.values())
    quantized = sum(array.nbytes for one in held if isinstance(one, Quantized) for array in one.arrays.values())
    vectors = sum(one.nbytes for one in held if isinstance(one, torch.Tensor))
    assert quantized + vectors == program.weight_bytes("float32")
    file = sum(tensor.data.nbytes for tensor in packed.values() if len(tensor.shape) == 2)
    rows = sum(tensor.shape[0] for tensor in packed.values() if tensor.scales is not None)
    few_bits = {"Q2_K": 2, "Q3_K": 1.4, "Q5_0": 1.6, "Q5_1": 1.5, "Q5_K": 1.6, "Q6_K": 1.4, "MXFP4": 1.2}
    assert quantized <= few_bits.get(format, 1.03) * file + 4 * rows


def test_room_for_unpacking_is_planned_where_it_is_needed():
    graph, packed, plain = quantized_model(lambda name: "Q4_0")
    executors = [make_torch(graph, tensors) for tensors in (packed, plain)]
    assert [executor.interpreter.device.products.scratch.nbytes for executor in executors] == [SCRATCH_BYTES, 0]
    sizes = executors[0].sizes
    with_room, without = (
        compile_graph(graph, choose_forms(graph, tensors)).workspace_bytes("float32", sizes)
        for tensors in (packed, plain)
    )
    assert with_room - without == SCRATCH_BYTES


def test_a_matrix_larger_than_the_room_is_unpacked_in_parts(kernels, device):
    tensor = random_stored("Q4_1", 150, 256)
    matrix, x = on_device(tensor, device), torch.randn(FEW_ROWS + 1, 256).to(device)
    bias = torch.randn(150).to(device)
    expected = x.cpu() @ torch.from_numpy(tensor.values()).T
    for module in (ops, kernels):
        products = Products(module, torch.empty(40 * 256 * 4, dtype=torch.uint8, device=device))
        wide = torch.zeros(len(x), 160, device=device)
        products._multiply(x, matrix, bias, wide[:, 5:155])
        assert error((wide[:, 5:155] - bias).cpu().numpy(), expected.numpy()) < 1e-5
        assert (wide[:, :5] == 0).all()
        assert (wide[:, 155:] == 0).all()


def random_values(rows=40, columns=100, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def quantized_values(values, name):
    matrix = Quantized.empty(QUANTIZED[name], *values.shape, torch.device("cpu"))
    matrix.copy_(quantize(values, QUANTIZED[name]))
    out = torch.empty(values.shape)
    ops.dequantize(matrix, out)
    return out


def test_int8_is_the_nearest_of_255_numbers_and_fp8_of_its_own():
    values = random_values()
    values[3] = 0
    peak = values.abs().amax(1, keepdim=True)
    assert ((quantized_values(values, "int8") - values).abs() <= 0.5001 * peak / 127).all()
    wrong = (quantized_values(values, "fp8") - values).abs()
    assert (wrong <= torch.maximum(values.abs() / 16, peak / 448 / 512) * 1.001).all()
    assert (quantized_values(values, "fp8")[3] == 0).all()


def test_int4_is_better_than_steps_from_the_smallest_to_the_largest_value():
    """In groups of 32 columns, of which the last may be part of one; equal values and zeros are exact."""
    values = random_values(64, 100)
    values[3], values[4] = 0.375, 0
    found = quantized_values(values, "int4")
    assert (found[3:5] == values[3:5]).all()
    naive = torch.empty_like(values)
    for group, out in zip(values.split(32, dim=1), naive.split(32, dim=1), strict=True):
        low, high = group.amin(1, keepdim=True), group.amax(1, keepdim=True)
        scale = (high - low).clamp(min=1e-9) / 15
        out.copy_(((group - low) / scale).round() * scale + low)
    assert (found - values).square().sum() < 0.9 * (naive - values).square().sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", QUANTIZED)
def test_a_row_that_is_not_finite_stays_so(name, bad):
    values = random_values()
    values[7, 40] = bad
    found = quantized_values(values, name)
    assert not found[7, 40].isfinite()
    assert found[torch.arange(40) != 7].isfinite().all()


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_a_model_that_is_quantized_while_it_is_loaded(kernels, device, quantization):
    """It is that of its rounded weights, whose columns are no multiple of a group."""
    graph = decoder(layers=1)
    tensors = random_tensors(graph, "bfloat16")
    rounded = {
        name: stored(name, quantized_values(torch.from_numpy(tensor.values()), quantization).numpy())
        if len(tensor.shape) == 2
        else tensor
        for name, tensor in tensors.items()
    }
    tokens = random_tokens(FEW_ROWS + 8)
    expected = logits_of(make_torch(graph, rounded), tokens)
    options = {"quantization": quantization, "device": str(device)}
    for found in (
        logits_of(make_torch(graph, tensors, **options), tokens, [FEW_ROWS + 1, 1]),
        logits_of(make_torch(graph, tensors, kernels=kernels, **options), tokens, [7]),
    ):
        assert error(found, expected) < 1e-3


def test_weights_that_are_quantized_already_are_not_quantized_again():
    graph, packed, _ = quantized_model(lambda name: "Q4_1")
    with pytest.raises(ConfigError, match=r"quantization='int8'.*embed.weight is quantized already, in Q4_1"):
        make_torch(graph, packed, quantization="int8")


def test_products_of_eight_bit_floats():
    """Rows are rounded to 8 bits, too, so that their largest value is the type's."""
    matrix = Quantized.empty(QUANTIZED["fp8"], 48, 64, torch.device("cpu"))
    values = random_values(48, 64)
    matrix.copy_(quantize(values, matrix.form))
    assert fits_fp8(matrix)
    assert not fits_fp8(matrix.rows(slice(40)))
    assert not fits_fp8(on_device(random_stored("E4M3_G64", 48, 64), torch.device("cpu")))
    x, bias = random_values(80, 64, seed=1).bfloat16(), random_values(1, 48)[0].bfloat16()
    x[5] *= 1000
    x[6] = 0
    wide = torch.zeros(80, 50, dtype=torch.bfloat16)
    multiply_fp8(x, matrix, bias, wide[:, 1:49])
    rounded = quantized_values(x.float(), "fp8") @ quantized_values(values, "fp8").T + bias.float()
    torch.testing.assert_close(wide[:, 1:49].float(), rounded, rtol=0.01, atol=0.01)
    exact = x.float() @ values.T + bias.float()
    assert ((wide[:, 1:49].float() - exact).norm(dim=1) <= 0.06 * exact.norm(dim=1)).all()
    assert (wide[6, 1:49] == bias).all()
