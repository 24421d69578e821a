"""Ops of which a Llama has none, on every instruction set and in PyTorch, against their references."""

import numpy as np
import pytest

from harness import TOLERANCE, error, logits_of, make_native, random_tensors, random_tokens, stored
from octavo.executor.native.lowering import lower
from octavo.graph.builder import Graph
from octavo.graph.node import ShapeError
from octavo.graph.ops.pointwise import ACTIVATIONS, GLUS
from reference import reference_logits

DTYPES = ["float32", "bfloat16"]
VOCABULARY = 131


def graph(branch, width=40, **logits):
    """What `branch` makes of a normed stream, added to that; then a norm and logits."""
    g = Graph()
    x = g.embed("embed", VOCABULARY, width)
    x = g.add(x, branch(g, g.rms_norm(x, "norm1", 1e-5)))
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", VOCABULARY, **logits)
    return g


def activations(kind):
    """Behind a linear, and alone; gates of one input, and of two."""

    def branch(g, h):
        one = g.linear(g.activation(g.linear(h, "fc1", 56, True), kind), "fc2", 40)
        two = g.linear(g.glu(g.linear(h, "gate", 56, True), g.linear(h, "up", 56), kind), "down", 40)
        return g.add(g.activation(g.add(one, two), kind), g.glu(one, two, kind))

    return graph(branch)


def gated(kind, gates):
    def branch(g, h):
        return g.glu(g.linear(h, "gate", gates), g.scale(g.linear(h, "up", 40), 9.0), kind)

    return graph(branch)


def xielu():
    return graph(lambda g, h: g.linear(g.xielu(g.linear(h, "up", 56, True), "act"), "down", 40))


def norms_of_groups(norm, width, groups, **how):
    """Heads that share weights, heads that have their own, and heads that have none."""

    def branch(g, h):
        h = g.linear(h, "up", width * groups)
        h = getattr(g, norm)(h, "a_norm", 1e-5, width=width, **how)
        h = getattr(g, norm)(h, "b_norm", 1e-5, width=width, shape=(groups, width), **how)
        h = getattr(g, norm)(h, None, 1e-3, width=width)
        return g.linear(h, "down", 40)

    return graph(branch)


def scaled():
    def branch(g, h):
        clipped = g.scale(g.clip(g.linear(h, "up", 40), 0.4), -2.0)
        return g.add(clipped, g.scale(g.linear(h, "o", 40, True), 0.3))

    return graph(branch)


def positions():
    def branch(g, h):
        return g.add(h, g.position_embed("places", 70, 40, 3))

    return graph(branch)


def delta_rules(key_dim, value_dim, **how):
    """Behind convolutions, with two heads of values for each of keys, and gated afterwards."""

    def branch(g, h):
        columns = {"q": 2 * key_dim, "k": 2 * key_dim, "v": 4 * value_dim}
        convolved = [
            g.causal_conv(g.linear(h, name, n), f"conv_{name}", 4, layer, bias=name != "v", activation="silu")
            for layer, (name, n) in enumerate(columns.items())
        ]
        a, b = g.linear(h, "a", 4), g.linear(h, "b", 4)
        h = g.delta(*convolved, a, b, "decay", "dt_bias", key_dim=key_dim, layer=3, **how)
        return g.linear(g.glu(g.rms_norm(h, None, 1e-5, width=value_dim), h), "down", 40)

    return graph(branch)


GRAPHS = {
    "delta rules": delta_rules(32, 64),
    "delta rules of sizes that fill no registers": delta_rules(23, 41, tiled=True, factor=2.0),
    "delta rules with decays as they are": delta_rules(8, 12, decay_is_log=False),
    **{f"{kind}": activations(kind) for kind in ACTIVATIONS},
    **{f"{kind} gate": gated(kind, 40) for kind in GLUS},
    "a gate for each head": gated("sigmoid", 5),
    "a gate for the row": gated("sigmoid", 1),
    "xIELU": xielu(),
    "RMS norms of heads": norms_of_groups("rms_norm", 16, 3, offset=1.0),
    "RMS norms of heads that meet in a register": norms_of_groups("rms_norm", 19, 4, offset=0.2),
    "RMS norms of short heads": norms_of_groups("rms_norm", 2, 21),
    "layer norms of heads": norms_of_groups("layer_norm", 32, 3, offset=1.0),
    "layer norms of heads that meet in a register": norms_of_groups("layer_norm", 24, 5, bias=False),
    "scaled and clipped": scaled(),
    "scaled by weights": graph(lambda g, h: g.scale_by(g.scale_by(g.linear(h, "up", 40), "one"), "each", 40)),
    "columns": graph(lambda g, h: g.glu(*(g.columns(g.linear(h, "up", 90), first, 40) for first in (3, 50)), "silu")),
    "positions from a later row on": positions(),
    "logits with a bias, scaled": graph(lambda g, h: h, bias=True, scale=0.3),
    "capped logits": graph(lambda g, h: h, scale=4.0, softcap=3.0),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_logits_are_the_reference_s(make_executor, name, dtype):
    tensors, tokens = random_tensors(GRAPHS[name], dtype), random_tokens(60)
    found = logits_of(make_executor(GRAPHS[name], tensors, dtype), tokens, [50, 1])
    assert error(found, reference_logits(GRAPHS[name], tensors, tokens)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_fusion_and_chunks_change_no_bit(name, dtype):
    tensors, tokens = random_tensors(GRAPHS[name], dtype), random_tokens(60)
    fused, plain = (make_native(GRAPHS[name], tensors, dtype, fuse=fuse) for fuse in (True, False))
    np.testing.assert_array_equal(logits_of(fused, tokens), logits_of(plain, tokens, [7, 1]))


def test_a_scale_and_an_activation_are_epilogues_of_the_matmul_before():
    names = [op.name for op in lower(GRAPHS["scaled and clipped"]).ops]
    assert names.count("scale") == 1  # that behind the clip
    gelu = [op.params["activation"] for op in lower(GRAPHS["gelu"]).ops if op.name == "matmul"]
    assert gelu == ["gelu", "none", "gelu", "none", "none"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", sorted(ACTIVATIONS.keys() - {"sigmoid"}))
def test_no_activation_hides_a_number_that_is_not_finite(isa, kind, value):
    made = graph(lambda g, h: g.linear(g.activation(g.linear(h, "up", 56), kind), "down", 40))
    tensors = random_tensors(made)
    table = tensors["embed.weight"].values().copy()
    table[7] = value
    tensors["embed.weight"] = stored("embed.weight", table)
    assert not np.isfinite(logits_of(make_native(made, tensors), [7])).any()


def test_norms_of_no_whole_groups_are_refused():
    g = Graph()
    x = g.embed("embed", VOCABULARY, 40)
    with pytest.raises(ShapeError, match="rms_norm: 40 columns are no whole number of groups of 16"):
        g.rms_norm(x, "norm", 1e-5, width=16)
    with pytest.raises(ShapeError, match=r"layer_norm: norm.weight has 9 values for 40 columns"):
        g.layer_norm(x, "norm", 1e-5, width=8, shape=(9,))


def test_heads_of_a_delta_rule_that_do_not_fit_are_refused():
    g = Graph()
    x = g.embed("embed", VOCABULARY, 40)
    a, b = g.linear(x, "a", 3), g.linear(x, "b", 3)
    for v, key_dim, problem in (
        (x, 40, "40, 3, 3 columns for 1"),
        (a, 20, "3, 3, 3 columns for 2"),
        (a, 16, "40 columns"),
    ):
        with pytest.raises(ShapeError, match=problem):
            g.delta(x, x, v, a, b, "decay", "dt_bias", key_dim=key_dim, layer=0)


def test_an_activation_that_is_not_known_is_refused_with_those_that_are():
    g = Graph()
    x = g.embed("embed", VOCABULARY, 40)
    with pytest.raises(ValueError, match="activation: 'swiglu' is no activation; there are silu, gelu"):
        g.activation(x, "swiglu")
