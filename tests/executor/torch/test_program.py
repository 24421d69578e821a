"""What the torch executor computes together, and what it must not."""

from collections import Counter

from harness import decoder, plain_rope
from octavo.executor.base import Sizes
from octavo.executor.torch.program import compile_graph, value_bytes
from octavo.graph.builder import Graph
from octavo.graph.ops.attention import Attention
from octavo.graph.ops.linear import Logits
from octavo.graph.ops.rope import Rope


class Sketch(Graph):
    """A graph with an attention over `h`, to which tests add what they are about."""

    def __init__(self):
        super().__init__()
        self.x = self.embed("embed", 131, 32)
        self.h = self.rms_norm(self.x, "norm1", 1e-5)

    def finish(self, q, k, v):
        h = self.attention(q, k, v, layer=0, head_dim=8, scale=1.0)
        x = self.add(self.x, self.linear(h, "o", 32))
        self.logits(self.rms_norm(x, "norm", 1e-5), "head", 131)
        return compile_graph(self).ops


def kinds(ops):
    return Counter(op.kind for op in ops)


def attention(ops):
    return next(op for op in ops if isinstance(op.outputs[0], Attention))


def test_a_layer_of_llama_is_eight_ops():
    more = kinds(compile_graph(decoder(layers=3)).ops) - kinds(compile_graph(decoder(layers=2)).ops)
    assert more == Counter({"linears": 4, "rotated attention": 1, "add and norm": 2, "node": 1})


def test_linears_of_one_input_are_one_matmul():
    names = [
        [node.weight.name.removesuffix(".weight") for node in op.outputs]
        for op in compile_graph(decoder(layers=1)).ops
        if op.kind == "linears"
    ]
    assert names == [["0.q", "0.k", "0.v"], ["0.o"], ["0.gate", "0.up"], ["0.down"]]


def test_every_node_is_computed_once_after_what_it_reads():
    graph = decoder(layers=3)
    ops = compile_graph(graph).ops
    known = set()
    for op in ops:
        assert set(op.inputs) <= known
        assert not known & set(op.outputs)
        known |= set(op.outputs)
    assert {node for node in graph.nodes if not isinstance(node, Rope)} == known


def test_a_value_dies_where_it_is_read_for_the_last_time():
    ops = compile_graph(decoder(layers=2)).ops
    alive = set()
    for op in ops:
        alive |= set(op.outputs)
        assert set(op.dead) <= alive
        alive -= set(op.dead)
        assert not any(node in later.inputs for node in op.dead for later in ops[ops.index(op) + 1 :])
    assert {type(node) for node in alive} == {Logits}


def test_q_and_k_are_rotated_with_the_attention_if_nobody_else_looks_at_them():
    g = Sketch()
    q, k, v = (g.linear(g.h, name, 16) for name in "qkv")
    ops = g.finish(g.rope(q, 8, plain_rope(8)), g.rope(k, 8, plain_rope(8)), v)
    assert attention(ops).table == plain_rope(8)
    assert attention(ops).inputs[0] is q

    g = Sketch()
    q, k, v = (g.linear(g.h, name, 16) for name in "qkv")
    rotated = g.rope(q, 8, plain_rope(8))
    ops = g.finish(rotated, rotated, q)  # in place, the rotation would change the values too
    assert attention(ops).table is None
    assert sum(isinstance(op.outputs[0], Rope) for op in ops) == 1


def test_queries_and_keys_that_are_rotated_differently_are_rotated_one_by_one():
    g = Sketch()
    q, k, v = (g.linear(g.h, name, 16) for name in "qkv")
    ops = g.finish(g.rope(q, 8, plain_rope(8)), g.rope(k, 8, plain_rope(8, theta=5.0)), v)
    assert attention(ops).table is None
    assert sum(isinstance(op.outputs[0], Rope) for op in ops) == 2


def test_a_sum_is_computed_with_its_norm():
    ops = compile_graph(decoder(layers=1)).ops
    assert [op.outputs[1].weight.name for op in ops if op.kind == "add and norm"] == ["0.norm2.weight", "norm.weight"]


def test_the_workspace_holds_what_is_alive_at_once():
    graph = decoder(layers=2, hidden=40, heads=4, kv_heads=2, head_dim=8, inner=56, vocab=131)
    sizes = Sizes(131, 0, 16, max_num_batched_tokens=100, max_num_seqs=3, max_logit_rows=10, max_model_len=50)
    values = 4 * 40 + 3 * 2 * 56  # while gate and up are multiplied: x in float32, both of them, and the product
    tables = 3 * 50 * 4 + 50 * 2 * 4 * 4  # of tokens; of cos and sin
    assert compile_graph(graph).workspace_bytes("bfloat16", sizes) == 100 * values + 2 * 4 * 131 * 10 + tables
    assert value_bytes(graph.nodes[0], "bfloat16") == 160
