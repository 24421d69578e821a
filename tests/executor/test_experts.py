"""Mixtures of experts: routes and what experts make, on every instruction set, against their references."""

import numpy as np
import pytest

from harness import TOLERANCE, error, logits_of, make_native, random_tensors, random_tokens
from octavo.executor.native.layouts import choose_layouts
from octavo.executor.native.lowering import lower
from octavo.graph.builder import Graph
from octavo.graph.node import ShapeError, Weight
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor
from reference import reference_logits
from stored_blocks import blocks_near_one

DTYPES = ["float32", "bfloat16"]
VOCABULARY = 131


def stack(name, experts, rows, columns=None):
    return [Weight(f"{name}.{e}.weight", (rows,) if columns is None else (rows, columns)) for e in range(experts)]


def mixture(experts=12, top_k=3, inner=56, width=40, kind="silu", gated=True, bias=False, on_input=False, **route):
    g = Graph()
    x = g.embed("embed", VOCABULARY, width)
    for layer in range(2):
        h = g.rms_norm(x, f"{layer}.norm", 1e-5)
        routes = g.route(g.linear(h, f"{layer}.router", experts), top_k, **route)
        weights = [stack(f"{layer}.gate", experts, inner, width)]
        weights += [stack(f"{layer}.up", experts, inner, width) if gated else []]
        weights += [stack(f"{layer}.down", experts, width, inner)]
        sizes = {"gate_bias": inner, "up_bias": inner if gated else 0, "down_bias": width}
        biases = {name: stack(f"{layer}.{name}", experts, size) for name, size in sizes.items() if size and bias}
        x = g.add(x, g.experts(h, routes, *weights, top_k=top_k, kind=kind, on_input=on_input, **biases))
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", VOCABULARY)
    return g


GRAPHS = {
    "softmax, normalised": mixture(),
    "softmax as it is": mixture(normalise=False),
    "biases, limits": mixture(kind="swigluoai", bias=True, top_k=4),
    "without a gate": mixture(kind="relu2", gated=False, bias=True),
    "groups by their best": mixture(groups=4, groups_used=2, normalise=False, factor=16.0),
    "groups by their best two, chosen with a bias": mixture(
        experts=16, score="sigmoid", groups=4, groups_used=2, group_best=2, choice_bias="choice", factor=2.5
    ),
    "one, on its input": mixture(top_k=1, score="sigmoid", normalise=False, on_input=True),
    "each weighed among those near": mixture(top_k=2, score="sparsemixer", normalise=False, jitter=0.4),
    "scales of experts": mixture(expert_scale="scales"),
    "all of them": mixture(experts=4, top_k=4),
    "more than a register has": mixture(experts=130, top_k=6, inner=24),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_logits_are_the_reference_s(isa, name, dtype):
    tensors, tokens = random_tensors(GRAPHS[name], dtype), random_tokens(200)
    found = logits_of(make_native(GRAPHS[name], tensors, dtype), tokens, [190, 1])
    expected = reference_logits(GRAPHS[name], tensors, tokens)
    if dtype == "float32":
        assert error(found, expected) < TOLERANCE[dtype]
    else:  # rounding lets some tokens ask another expert
        wrong = np.abs(found - expected).max(1) / np.abs(expected).max()
        assert np.quantile(wrong, 0.8) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_no_bit_depends_on_the_batch(isa, name, dtype):
    tensors, tokens = random_tensors(GRAPHS[name], dtype), random_tokens(200)
    executor = make_native(GRAPHS[name], tensors, dtype)
    whole = logits_of(executor, tokens)
    np.testing.assert_array_equal(whole, logits_of(executor, tokens, [1, 7, 1, 100, 3]))
    np.testing.assert_array_equal(whole[:3], logits_of(executor, tokens[:3], [1, 1]))


@pytest.mark.parametrize("format", ["Q4_0", "Q4_K", "Q6_K", "Q8_0", "MXFP4", "E4M3_G128"])
def test_quantized_experts_run_from_their_bits(isa, format):
    """Each expert a part of a stack, and the router in bfloat16."""
    experts, inner, width = 6, 512, 256
    g = Graph()
    h = g.rms_norm(g.embed("embed", VOCABULARY, width), "norm1", 1e-5)
    sizes = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    stacks = [[Weight(name, size, expert=e) for e in range(experts)] for name, size in sizes.items()]
    h = g.experts(h, g.route(g.linear(h, "router", experts), 2), *stacks, top_k=2, kind="relu")
    g.logits(g.rms_norm(h, "norm", 1e-5), "head", VOCABULARY)
    tensors = random_tensors(g, "bfloat16")
    for name, (rows, columns) in sizes.items():
        blocks = blocks_near_one(format, experts * rows * columns // LAYOUTS[format].block, 5)
        tensors[name] = StoredTensor(name, format, (experts, rows, columns), blocks.reshape(-1))
    assert choose_layouts(g, tensors, "bfloat16").keys() == set(sizes)
    executor, tokens = make_native(g, tensors, "bfloat16"), random_tokens(60)
    found = logits_of(executor, tokens)
    np.testing.assert_array_equal(found, logits_of(executor, tokens, [1, 9, 1]))
    expected = reference_logits(g, tensors, tokens)
    assert np.quantile(np.abs(found - expected).max(1) / np.abs(expected).max(), 0.8) < TOLERANCE["bfloat16"]


def test_what_is_quantized_while_loading_are_experts_not_their_router():
    g = GRAPHS["softmax, normalised"]
    layouts = choose_layouts(g, random_tensors(g, "bfloat16"), "bfloat16", "int8")
    assert {"0.gate.11.weight", "1.down.0.weight", "head.weight"} < layouts.keys()
    assert not any("router" in name for name in layouts)
    packed = {matrix.layout for op in lower(g, layouts).ops if op.name == "experts" for matrix in op.matrices.values()}
    assert packed == {"int8"}


def test_the_plan_has_room_for_what_lies_between():
    tape = lower(mixture(inner=56, top_k=3))
    experts = [op for op in tape.ops if op.name == "experts"]
    assert [op.outputs[1].kind for op in experts] == [(56, False, False, 3)] * 2
    assert experts[0].outputs[1] == experts[1].outputs[1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"top_k": 13}, "13 of 12 experts"),
        ({"groups": 5, "groups_used": 2}, "12 experts in 5 groups"),
        ({"groups": 4, "groups_used": 1, "top_k": 4}, "4 of 3 experts"),
        ({"on_input": True}, "on_input is for one expert"),
    ],
)
def test_what_does_not_fit_is_refused(options, why):
    with pytest.raises(ShapeError, match=why):
        mixture(**options)
