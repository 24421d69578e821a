"""Mixtures of experts on the torch executor, in plain PyTorch and by Triton's kernels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quantized_tensors import on_device, random_stored

from harness import TOLERANCE, Line, error, logits_of, make_torch, random_tensors, random_tokens, run, stored
from mixtures import MIXTURES, mixture
from octavo.errors import ConfigError
from octavo.executor.torch import ops
from octavo.executor.torch.forms import FORMS, QUANTIZED, choose_forms
from octavo.executor.torch.ops import Pairs
from octavo.executor.torch.program import compile_graph, scratch_values
from octavo.executor.torch.quantized import Quantized, quantize
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear
from reference import reference_logits

DTYPES = {torch.float32: 1e-5, torch.float16: 4e-3}  # Triton's interpreter multiplies bfloat16 matrices by their bits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MIXTURES)
def test_logits_are_the_reference_s(name, dtype):
    graph = MIXTURES[name]
    tensors, tokens = random_tensors(graph, dtype), random_tokens(60)
    found = logits_of(make_torch(graph, tensors, dtype), tokens, [50, 1])
    assert error(found, reference_logits(graph, tensors, tokens)) < TOLERANCE[dtype]


def test_a_batch_is_its_sequences():
    graph = MIXTURES["groups"]
    tensors = random_tensors(graph)
    executor, many = make_torch(graph, tensors), [random_tokens(20 + 9 * i, seed=i) for i in range(3)]
    lines = [Line(tokens, range(8 * i, 8 * i + 8)) for i, tokens in enumerate(many)]
    found = run(executor, [line.chunk(len(tokens)) for line, tokens in zip(lines, many, strict=True)])
    for logits, tokens in zip(found, many, strict=True):
        assert error(logits, reference_logits(graph, tensors, tokens)) < 1e-5


@pytest.mark.parametrize("name", ["groups", "one", "biases", "no gate"])
def test_a_model_by_triton_s_kernels(kernels, device, name):
    graph = MIXTURES[name]
    tensors, tokens = random_tensors(graph), random_tokens(24)
    executor = make_torch(graph, tensors, kernels=kernels, device=str(device))
    assert error(logits_of(executor, tokens, [20, 1]), reference_logits(graph, tensors, tokens)) < 1e-4


def grouped(chosen, experts, device):
    of_pairs, order = torch.tensor(chosen).flatten().sort(stable=True)
    return Pairs(order.to(device), torch.searchsorted(of_pairs, torch.arange(experts + 1)).to(device))


ASKED = {  # by how many tokens of two experts each
    "one": [[5, 2]],
    "few, of the same experts": [[1, 4], [4, 1], [4, 0]],
    "many, of an expert whose rows fill tiles": [[i % 3, 5] for i in range(70)],
    "many, of all experts": [[i % 7, (i * i + 3) % 7] for i in range(200)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("asked", ASKED)
def test_products_of_experts(kernels, device, asked, each, dtype):
    generator = torch.Generator().manual_seed(0)
    experts, columns, inputs, count = 7, 70, 100, 2 * len(ASKED[asked])

    def random(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator).to(device, dtype)

    x, matrix = random(count // each, inputs), random(experts * columns, inputs) / 10
    bias, factors = random(experts * columns, dtype=torch.float32), random(count, dtype=torch.float32)
    pairs = grouped(ASKED[asked], experts, device)
    for extra in ((None, None), (bias, None), (bias, factors)):
        found = []
        for module in (ops, kernels):
            found.append(torch.full((count, columns), torch.nan, dtype=dtype, device=device))
            module.multiply_experts(x, matrix, extra[0], pairs, extra[1], found[-1])
        torch.testing.assert_close(found[1], found[0], rtol=DTYPES[dtype], atol=DTYPES[dtype])
    last = ASKED[asked][-1][-1]
    rows = slice(last * columns, (last + 1) * columns)
    expected = factors[-1] * (matrix[rows].float() @ x[-1].float() + bias[rows])
    torch.testing.assert_close(found[0][-1].float(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("format", FORMS)
def test_products_of_quantized_experts(kernels, device, format):
    experts, columns, inputs = 7, 20, 256
    stored = random_stored(format, experts * columns, inputs)
    matrix, plain = on_device(stored, device), torch.from_numpy(stored.values()).to(device)
    for name in ("one", "many, of an expert whose rows fill tiles"):
        pairs = grouped(ASKED[name], experts, device)
        x = torch.randn(len(ASKED[name]), inputs, generator=torch.Generator().manual_seed(1)).to(device)
        expected, *found = (torch.empty(2 * len(x), columns, device=device) for _ in range(3))
        ops.multiply_experts(x, plain, None, pairs, None, expected)
        for module, out in zip((ops, kernels), found, strict=True):
            module.multiply_experts(x, matrix, None, pairs, None, out)
            assert error(out.cpu().numpy(), expected.cpu().numpy()) < 1e-5


def packed_mixture(format_of):
    """A graph, its tensors, those of experts in the formats that `format_of` gives for their names, and unpacked."""
    graph = mixture(hidden=256, inner=256, kind="relu")  # as such weights make large values
    packed = random_tensors(graph)
    for number, (name, tensor) in enumerate(packed.items()):
        if len(tensor.shape) == 2 and (format := format_of(name)):
            packed[name] = replace(random_stored(format, *tensor.shape, seed=number), name=name)
    return graph, packed, {name: stored(name, tensor.values()) for name, tensor in packed.items()}


@pytest.mark.parametrize("format", ["Q4_K", "U4_G128", "E4M3_G128", "I8", "E2M1_G32"])
def test_experts_stay_quantized_and_their_router_does_not(kernels, device, format):
    graph, packed, plain = packed_mixture(lambda name: None if "shared_gate" in name else format)
    tokens, forms = random_tokens(30), choose_forms(graph, packed)
    assert {name for name in packed if "router" in name}.isdisjoint(forms)
    executor = make_torch(graph, packed)
    expected = logits_of(make_torch(graph, plain), tokens)
    assert error(logits_of(executor, tokens, [20, 1]), expected) < 1e-4
    by_triton = make_torch(graph, packed, kernels=kernels, device=str(device))
    assert error(logits_of(by_triton, tokens, [7]), expected) < 1e-4
    assert held(executor) == compile_graph(graph, forms).weight_bytes("float32")
    experts = [name for name in packed if "experts" in name]
    assert set(experts) <= forms.keys()


def held(executor):
    """Bytes of its weights."""
    weights = executor.interpreter.device.weights
    matrices = [*weights._made.values(), *weights._in_float32.values()]
    arrays = [one.arrays.values() if isinstance(one, Quantized) else [one] for one in matrices]
    return sum(array.nbytes for several in arrays for array in several)


def test_experts_of_several_formats_are_unpacked():
    formats = {"experts.3": "Q4_0", "experts.2": "Q8_0"}
    graph, packed, plain = packed_mixture(lambda name: next((formats[at] for at in formats if at in name), None))
    forms = choose_forms(graph, packed)
    assert not any("experts" in name for name in forms)
    tokens = random_tokens(30)
    found = make_torch(graph, packed)
    assert error(logits_of(found, tokens), logits_of(make_torch(graph, plain), tokens)) < 1e-4
    assert held(found) == compile_graph(graph, forms).weight_bytes("float32")


def unpacked(tensor, form):
    """Its values once it is quantized to that form, if it is."""
    values = torch.from_numpy(tensor.values())
    if form is not None:
        matrix = Quantized.empty(form, *values.shape, values.device)
        matrix.copy_(quantize(values, form))
        ops.dequantize(matrix, values)
    return values.numpy()


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_experts_that_are_quantized_while_they_are_loaded(quantization):
    graph = MIXTURES["softmax"]
    tensors, tokens = random_tensors(graph, "bfloat16"), random_tokens(30)
    forms = choose_forms(graph, tensors, quantization)
    assert {"0.experts.2.down.weight", "0.shared.weight"} <= forms.keys()
    assert "0.router.weight" not in forms
    rounded = {name: stored(name, unpacked(tensor, forms.get(name))) for name, tensor in tensors.items()}
    executor = make_torch(graph, tensors, quantization=quantization)
    assert error(logits_of(executor, tokens, [20, 1]), reference_logits(graph, rounded, tokens)) < 1e-4
    _, packed, _ = packed_mixture(lambda name: "Q4_0")
    with pytest.raises(ConfigError, match=r"is quantized already, in Q4_0"):
        choose_forms(graph, packed, quantization)


def test_who_asks_whom_is_computed_in_float32():
    """Apart from the other linears of the same input."""
    ops = compile_graph(MIXTURES["groups"]).ops
    routes = [op for op in ops if op.kind == "routes"]
    assert [[type(node) for node in op.outputs] for op in routes] == [[Linear, Route]] * 2
    assert not any("router" in node.weight.name for op in ops if op.kind == "linears" for node in op.outputs)
    graph = MIXTURES["groups"]
    tensors, tokens = random_tensors(graph, "bfloat16"), random_tokens(60)
    executor = make_torch(graph, tensors, "bfloat16")
    router = executor.interpreter.device.weights._in_float32
    assert {matrix.dtype for matrix in router.values()} == {torch.float32}
    np.testing.assert_array_equal(next(iter(router.values())).numpy(), tensors["0.router.weight"].values())
    assert np.isfinite(logits_of(executor, tokens)).all()


def test_the_plan_has_room_for_what_experts_make():
    graph = MIXTURES["softmax"]
    node = next(node for node in graph.nodes if isinstance(node, Experts))
    assert scratch_values(node) == 2 * 3 * 24  # gate, up and their product, of two experts
    alone = scratch_values(next(node for node in MIXTURES["no gate"].nodes if isinstance(node, Experts)))
    assert alone == 2 * (24 + 40)
