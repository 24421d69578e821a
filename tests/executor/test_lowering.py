"""What is fused into what, and which graphs can't be lowered."""

from collections import Counter

import pytest

from harness import decoder, plain_rope
from octavo.executor.native.lowering import AttentionOp, LoweringError, MatmulOp, PointwiseOp, lower
from octavo.graph.builder import Graph

LAYER = {"NormOp": 2, "RopeOp": 1, "AttentionOp": 1, "MatmulOp": 4}


class Sketch(Graph):
    """A graph with an attention over `x`, to which tests add what they are about."""

    def __init__(self):
        super().__init__()
        self.x = self.embed("embed", 131, 32)
        self.h = self.rms_norm(self.x, "norm1", 1e-5)

    def qkv(self, x=None):
        return tuple(self.linear(x or self.h, name, 16) for name in "qkv")

    def attend(self, q, k, v, layer=0, head_dim=8):
        return self.attention(q, k, v, layer=layer, head_dim=head_dim, scale=1.0)

    def finish(self, h):
        x = self.add(self.x, self.linear(h, "o", 32))
        self.logits(self.rms_norm(x, "norm", 1e-5), "head", 131)
        return self


def kinds(tape):
    return Counter(type(op).__name__ for op in tape.ops)


def test_a_layer_of_llama_is_eight_records():
    expected = Counter(LAYER) + Counter(LAYER) + Counter({"EmbedOp": 1, "NormOp": 1, "MatmulOp": 1})
    assert kinds(lower(decoder(layers=2))) == expected


def test_projections_are_packed_together_and_sums_are_epilogues():
    matmuls = [op for op in lower(decoder(layers=1)).ops if isinstance(op, MatmulOp)]
    names = [[weight.name.removesuffix(".weight") for weight in op.weight.weights] for op in matmuls]
    assert names == [["0.q", "0.k", "0.v"], ["0.o"], ["0.gate", "0.up"], ["0.down"], ["head"]]
    assert [op.epilogue for op in matmuls] == ["store_float", "add", "silu_mul", "add", "store_float"]


def test_the_number_of_buffers_does_not_grow_with_the_layers():
    assert len(lower(decoder(layers=9)).buffers) == len(lower(decoder(layers=2)).buffers)


def test_only_the_last_norm_and_the_logits_are_computed_for_logit_rows_alone():
    tape = lower(decoder())
    assert [op.out.logit_rows for op in tape.ops[-2:]] == [True, True]
    assert not any(op.out.logit_rows for op in tape.ops[:-2])


def test_a_projection_with_another_use_is_not_swallowed_by_a_glu():
    for other in ("gate", "up"):
        g = Sketch()
        h = g.attend(*g.qkv())
        nodes = {"gate": g.linear(h, "gate", 32), "up": g.linear(h, "up", 32)}
        mixed = g.linear(g.glu(nodes["gate"], nodes["up"]), "down", 32)
        x = g.add(g.add(mixed, nodes[other]), g.x)
        g.logits(g.rms_norm(x, "norm", 1e-5), "head", 131)
        assert "silu_mul" in [op.kind for op in lower(g).ops if isinstance(op, PointwiseOp)]


def test_a_graph_without_attention_or_logits_is_refused():
    g = Graph()
    x = g.embed("embed", 131, 32)
    with pytest.raises(LoweringError, match="end in logits"):
        lower(g)
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", 131)
    with pytest.raises(LoweringError, match="must have attention"):
        lower(g)


def test_logits_must_follow_a_norm_of_their_own():
    g = Sketch()
    g.logits(g.linear(g.attend(*g.qkv()), "o", 32), "head", 131)
    with pytest.raises(LoweringError, match="follow a norm"):
        lower(g)


def test_attention_s_inputs_must_be_projections_of_one_value_used_nowhere_else():
    g = Sketch()
    q, k, v = g.qkv()
    with pytest.raises(LoweringError, match="linear projections"):
        lower(g.finish(g.attend(q, k, g.add(v, v))))

    g = Sketch()
    (q, _, _), other = g.qkv(), g.rms_norm(g.x, "other", 1e-5)
    with pytest.raises(LoweringError, match="one input"):
        lower(g.finish(g.attend(q, g.linear(other, "k2", 16), g.linear(other, "v2", 16))))

    g = Sketch()
    q, k, v = g.qkv()
    h = g.attend(q, k, v)
    with pytest.raises(LoweringError, match="nothing else"):
        lower(g.finish(g.add(g.linear(h, "o1", 16), q)))

    g = Sketch()
    q, k, _ = g.qkv()
    with pytest.raises(LoweringError, match="nothing else"):
        lower(g.finish(g.attend(q, k, k)))


def test_queries_and_keys_must_be_rotated_alike():
    g = Sketch()
    q, k, v = g.qkv()
    with pytest.raises(LoweringError, match="rotated alike"):
        lower(g.finish(g.attend(g.rope(q, 8, plain_rope(8)), k, v)))

    g = Sketch()
    q, k, v = g.qkv()
    q, k = (g.rope(x, 4, plain_rope(4)) for x in (q, k))
    with pytest.raises(LoweringError, match="heads have 8 columns"):
        lower(g.finish(g.attend(q, k, v)))


def test_all_layers_must_have_the_same_heads():
    for head_dim, columns in ((8, 32), (4, 16), (16, 16)):
        g = Sketch()
        h = g.rms_norm(g.linear(g.attend(*g.qkv()), "o1", 32), "norm2", 1e-5)
        q, k, v = (g.linear(h, f"{name}2", columns) for name in "qkv")
        with pytest.raises(LoweringError, match="layers differ"):
            lower(g.finish(g.attend(q, k, v, layer=1, head_dim=head_dim)))


def test_two_attentions_can_t_share_a_layer_of_the_cache():
    g = Sketch()
    h = g.rms_norm(g.linear(g.attend(*g.qkv()), "o1", 32), "norm2", 1e-5)
    q, k, v = (g.linear(h, f"{name}2", 16) for name in "qkv")
    with pytest.raises(LoweringError, match=r"each once; there are \[0, 0\]"):
        lower(g.finish(g.attend(q, k, v)))


def test_a_rotation_outside_attention_is_refused():
    g = Sketch()
    h = g.attend(*g.qkv())
    with pytest.raises(LoweringError, match="Rope"):
        lower(g.finish(g.rope(g.linear(h, "r", 16), 8, plain_rope(8))))


def test_layers_may_differ_in_their_windows():
    g = Sketch()
    h = g.attention(*g.qkv(), layer=0, head_dim=8, scale=1.0, window=4)
    h = g.rms_norm(g.linear(h, "o1", 32), "norm2", 1e-5)
    q, k, v = (g.linear(h, f"{name}2", 16) for name in "qkv")
    tape = lower(g.finish(g.attend(q, k, v, layer=1)))
    assert [op.node.window for op in tape.ops if isinstance(op, AttentionOp)] == [4, None]
