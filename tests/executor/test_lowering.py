"""What is fused into what, and which graphs can't be lowered."""

from collections import Counter

import pytest

from harness import TOLERANCE, decoder, error, logits_of, make_executor_for, plain_rope, random_tensors, random_tokens
from octavo.executor.native.lowering import LoweringError, lower
from octavo.graph.builder import Graph
from octavo.graph.node import Floats, Node, ReferencePass, op
from reference import reference_logits

LAYER = {"rms_norm": 2, "store": 1, "attend": 1, "matmul": 4}


class Sketch(Graph):
    """A graph with an attention over `x`, to which tests add what they are about."""

    def __init__(self):
        super().__init__()
        self.x = self.embed("embed", 131, 32)
        self.h = self.rms_norm(self.x, "norm1", 1e-5)

    def qkv(self, x=None, suffix=""):
        return tuple(self.linear(x or self.h, name + suffix, 16) for name in "qkv")

    def attend(self, q, k, v, layer=0, head_dim=8, **options):
        return self.attention(q, k, v, layer=layer, head_dim=head_dim, scale=1.0, **options)

    def finish(self, h):
        x = self.add(self.x, self.linear(h, "o", 32))
        self.logits(self.rms_norm(x, "norm", 1e-5), "head", 131)
        return self


def kinds(tape):
    return Counter(op.name for op in tape.ops)


def matmuls(tape):
    return [op for op in tape.ops if op.name == "matmul"]


def test_a_layer_of_llama_is_eight_records():
    expected = Counter(LAYER) + Counter(LAYER) + Counter({"embed": 1, "angles": 1, "rms_norm": 1, "matmul": 1})
    assert kinds(lower(decoder(layers=2))) == expected


def test_projections_are_packed_together_and_sums_are_epilogues():
    ops = matmuls(lower(decoder(layers=1)))
    names = [[weight.name.removesuffix(".weight") for weight in op.matrices["weight"].weights] for op in ops]
    assert names == [["0.q", "0.k", "0.v"], ["0.o"], ["0.gate", "0.up"], ["0.down"], ["head"]]
    assert [op.params["epilogue"] for op in ops] == ["store", "add", "glu", "add", "store"]


def test_the_number_of_buffers_does_not_grow_with_the_layers():
    assert len(lower(decoder(layers=9)).buffers) == len(lower(decoder(layers=2)).buffers)


def test_only_the_last_norm_and_the_logits_are_computed_for_logit_rows_alone():
    tape = lower(decoder())
    assert [op.outputs[0].logit_rows for op in tape.ops[-2:]] == [True, True]
    assert not any(out.logit_rows for op in tape.ops[:-2] for out in op.outputs)


def test_a_projection_with_another_use_is_not_swallowed_by_a_glu():
    for other in ("gate", "up"):
        g = Sketch()
        h = g.attend(*g.qkv())
        nodes = {"gate": g.linear(h, "gate", 32), "up": g.linear(h, "up", 32)}
        mixed = g.linear(g.glu(nodes["gate"], nodes["up"]), "down", 32)
        x = g.add(g.add(mixed, nodes[other]), g.x)
        g.logits(g.rms_norm(x, "norm", 1e-5), "head", 131)
        assert kinds(lower(g))["glu"] == 1


def test_a_record_never_writes_what_it_reads_but_for_sums():
    for graph in (decoder(layers=3), decoder(layers=3, rope=None), *UNUSUAL.values()):
        for fuse in (True, False):
            for record in lower(graph() if callable(graph) else graph, fuse=fuse).ops:
                shared = {one.number for one in record.inputs} & {one.number for one in record.outputs}
                assert not shared, record


def test_a_graph_without_an_end_is_refused():
    for g in (Graph(), Sketch()):
        with pytest.raises(LoweringError, match="end in logits"):
            lower(g)


def test_two_attentions_can_t_write_one_layer_of_the_cache():
    g = Sketch()
    h = g.rms_norm(g.linear(g.attend(*g.qkv()), "o1", 32), "norm2", 1e-5)
    with pytest.raises(LoweringError, match=r"written once; there are \[0, 0\]"):
        lower(g.finish(g.attend(*g.qkv(h, "2"))))


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_a_node_that_an_executor_does_not_know_is_refused_by_name(executor, monkeypatch):
    monkeypatch.setattr("octavo.graph.node.OPS", {})

    @op
    class Softmax(Node):
        x: Node

        def reference(self, run: ReferencePass, x: Floats) -> Floats:
            return x

    g = Sketch()
    g.finish(g.append(Softmax(g.attend(*g.qkv()))))
    if executor == "native":
        with pytest.raises(LoweringError, match="no op softmax"):
            lower(g)
    else:
        pytest.importorskip("octavo.executor.torch.executor")
        from harness import make_torch

        with pytest.raises(TypeError, match="no op softmax"):
            make_torch(g, random_tensors(g))


def no_norm_before_logits():
    g = Sketch()
    g.logits(g.linear(g.attend(*g.qkv()), "o", 32), "head", 131)
    return g


def logits_of_what_others_read():
    g = Sketch()
    h = g.rms_norm(g.finish(g.attend(*g.qkv())).nodes[-2], "again", 1e-5)
    g.logits(g.add(h, g.nodes[-3]), "head2", 131)
    return g


def a_norm_that_is_added():
    g = Sketch()
    h = g.rms_norm(g.linear(g.attend(*g.qkv()), "o1", 32), "post", 1e-5)
    x = g.add(g.x, h)
    h = g.layer_norm(g.linear(g.glu(g.linear(x, "gate", 24), g.linear(x, "up", 24)), "down", 32), "post2", 1e-5)
    g.logits(g.rms_norm(g.add(x, h), "norm", 1e-5), "head", 131)
    return g


def chains_before_attention():
    """What is not one linear of one input, or is used elsewhere too."""
    g = Sketch()
    q, k, v = g.qkv()
    other = g.rms_norm(g.x, "other", 1e-5)
    q = g.rope(g.rms_norm(q, "q_norm", 1e-5), 8, plain_rope(8))
    k = g.rope(g.rms_norm(g.linear(other, "k2", 16), "k_norm", 1e-5), 8, plain_rope(8, theta=100.0))
    h = g.attend(q, k, g.add(v, v))
    return g.finish(g.add(g.linear(h, "o1", 16), g.add(g.activation(q, "gelu"), g.rope(v, 4, plain_rope(4)))))


def keys_that_are_values():
    g = Sketch()
    q, k, _ = g.qkv()
    return g.finish(g.attend(q, k, k))


def queries_that_are_rotated_alone():
    g = Sketch()
    q, k, v = g.qkv()
    return g.finish(g.attend(g.rope(q, 8, plain_rope(8)), k, v))


def heads_that_differ_by_layer():
    g = Sketch()
    x = g.add(g.x, g.linear(g.attend(*g.qkv()), "o1", 32))
    h = g.rms_norm(x, "norm2", 1e-5)
    q, k, v = (g.linear(h, f"{name}2", columns) for name, columns in (("q", 64), ("k", 16), ("v", 32)))
    return g.finish(g.attend(q, k, v, layer=1, head_dim=16, value_dim=32))


def a_layer_that_looks_at_another_s_keys():
    g = Sketch()
    x = g.add(g.x, g.linear(g.attend(*g.qkv(), window=20), "o1", 32))
    q = g.linear(g.rms_norm(x, "norm2", 1e-5), "q2", 32)
    return g.finish(g.attend(q, None, None, kv_heads=2))


def nothing_kept():
    """Attention over the tokens of a step, which leaves nothing behind."""
    g = Sketch()
    return g.finish(g.attend(*g.qkv(), layer=None, causal=False))


def nothing_kept_beside_a_sink():
    g = Sketch()
    return g.finish(g.attend(*g.qkv(), layer=None, causal=False, softcap=0.8, sinks="sinks"))


def queries_that_grow():
    g = Sketch()
    q, k, v = g.qkv()
    q = g.rope(g.position_scale(q, 0.7, 16, 3), 8, plain_rope(8))
    return g.finish(g.attend(q, g.rope(k, 8, plain_rope(8)), v))


def heads_that_share_a_part():
    """As in multi-head latent attention: 6 columns of every key are the same for all heads."""
    g = Sketch()
    q = g.join(g.linear(g.h, "q_r", 24), g.linear(g.h, "q_n", 40), 6, 10)
    k = g.join(g.linear(g.h, "k_r", 6), g.linear(g.h, "k_n", 40), 6, 10)
    q, k = (g.rope(x, 16, plain_rope(6)) for x in (q, k))
    h = g.attend(q, k, g.linear(g.h, "v", 48), head_dim=16, value_dim=12)
    return g.finish(g.join(h, g.linear(g.h, "more", 12), 4, 1))


def no_attention():
    g = Sketch()
    return g.finish(g.activation(g.linear(g.h, "up", 48), "gelu"))


def values_that_are_capped():
    g = Sketch()
    h = g.softcap(g.linear(g.attend(*g.qkv()), "o1", 48), 0.4)
    return g.finish(g.softcap(h, 30.0))


def heads_of_length_one():
    g = Sketch()
    q, k, v = g.qkv()
    h = g.attend(g.normalise(q, 8), g.rope(g.normalise(k, 8), 8, plain_rope(8)), v)
    return g.finish(g.normalise(g.linear(h, "o1", 38), 19))


def convolutions_between_attentions():
    g = Sketch()
    x = g.add(g.x, g.causal_conv(g.linear(g.h, "in", 32), "conv", 4, layer=0))
    h = g.attend(*g.qkv(g.rms_norm(x, "norm2", 1e-5)), layer=1)
    x = g.add(x, g.linear(h, "o1", 32))
    h = g.causal_conv(g.rms_norm(x, "norm3", 1e-5), "conv2", 2, layer=2)
    return g.finish(g.activation(h, "gelu"))


UNUSUAL = {
    build.__name__: build
    for build in (
        no_norm_before_logits,
        logits_of_what_others_read,
        a_norm_that_is_added,
        chains_before_attention,
        keys_that_are_values,
        queries_that_are_rotated_alone,
        heads_that_differ_by_layer,
        a_layer_that_looks_at_another_s_keys,
        nothing_kept,
        nothing_kept_beside_a_sink,
        queries_that_grow,
        heads_that_share_a_part,
        no_attention,
        values_that_are_capped,
        heads_of_length_one,
        convolutions_between_attentions,
    )
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("build", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("executor", ["native", "native unfused", "torch"])
def test_what_the_nodes_can_say_is_computed(build, executor, dtype):
    graph = build()
    tensors, tokens = random_tensors(graph, dtype), random_tokens(60)
    found = logits_of(make_executor_for(executor)(graph, tensors, dtype), tokens)
    assert error(found, reference_logits(graph, tensors, tokens)) < TOLERANCE[dtype]


def test_layers_may_differ_in_their_windows():
    g = Sketch()
    h = g.attention(*g.qkv(), layer=0, head_dim=8, scale=1.0, window=4)
    h = g.rms_norm(g.linear(h, "o1", 32), "norm2", 1e-5)
    tape = lower(g.finish(g.attend(*g.qkv(h, "2"), layer=1)))
    assert [op.params.get("window") for op in tape.ops if op.name == "attend"] == [4, 0]
    assert [layer.window for layer in tape.layers] == [4, None]
