"""Graphs with experts, of every kind."""

from octavo.graph.builder import Graph
from octavo.graph.node import Weight

VOCABULARY, EXPERTS = 131, 6


def stacks(at, hidden, inner, biases=False, gated=True):
    """The weights of `experts`."""
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    if not gated:
        del shapes["up"]
    found = {name: [Weight(f"{at}.{e}.{name}.weight", shape) for e in range(EXPERTS)] for name, shape in shapes.items()}
    for name, shape in shapes.items() if biases else ():
        found[f"{name}_bias"] = [Weight(f"{at}.{e}.{name}.bias", shape[:1]) for e in range(EXPERTS)]
    return {"up": (), **found}


def mixture(
    top_k=2, kind="silu", on_input=False, biases=False, bias=False, gated=True, layers=1, hidden=40, inner=24, **routes
):
    g = Graph()
    x = g.embed("embed", VOCABULARY, hidden)
    for i in range(layers):
        h = g.rms_norm(x, f"{i}.norm", 1e-5)
        bias, scale = (f"{i}.{name}" if routes.get(name) else None for name in ("choice_bias", "expert_scale"))
        options = {**routes, "choice_bias": bias, "expert_scale": scale}
        shares = g.route(g.linear(h, f"{i}.router", EXPERTS, biases), top_k, **options)
        weights = stacks(f"{i}.experts", hidden, inner, biases, gated)
        how = {"top_k": top_k, "kind": kind, "on_input": on_input, "bias": f"{i}.bias" if bias else None}
        made = g.experts(h, shares, **weights, **how)
        shared = g.glu(g.linear(h, f"{i}.shared_gate", 1), g.linear(h, f"{i}.shared", hidden), "sigmoid")
        x = g.add(g.add(x, made), shared)
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", VOCABULARY)
    return g


MIXTURES = {
    "softmax": mixture(),
    "softmax of all": mixture(top_k=6, normalise=False, factor=2.5),
    "one": mixture(top_k=1, score="sigmoid", normalise=False, on_input=True),
    "groups": mixture(
        top_k=3, score="sigmoid", groups=3, groups_used=2, group_best=2, factor=2.5, choice_bias=True, layers=2
    ),
    "groups by the best": mixture(top_k=2, normalise=False, groups=2, groups_used=1, factor=16.0),
    "biases": mixture(top_k=4, kind="swigluoai", biases=True),
    "scaled experts": mixture(kind="gelu_tanh", expert_scale=True),
    "no gate": mixture(kind="relu2", gated=False),
    "a common bias": mixture(kind="gelu", gated=False, bias=True, biases=True, normalise=False),
}
