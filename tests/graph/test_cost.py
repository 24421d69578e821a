"""Costs against counts by hand. SmolLM2-135M has 134,515,008 parameters."""

import pytest

from octavo.executor.native.lowering import lower
from octavo.executor.torch.program import compile_graph
from octavo.graph.builder import Graph
from octavo.graph.cost import step_cost
from octavo.graph.node import StepShape
from octavo.models import load_declaration
from octavo.weights.layout import PLAIN

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
NORMS = 61 * 576  # values of norms, which stay float32


def attention_only(window=None, **options):
    """Hidden size 8, two heads of 4 over one KV head, a vocabulary of 10."""
    g = Graph()
    x = g.embed("embed", 10, 8)
    q, k, v = g.linear(x, "q", 8), g.linear(x, "k", 4), g.linear(x, "v", 4)
    h = g.linear(g.attention(q, k, v, layer=0, head_dim=4, scale=1, window=window, **options), "o", 8)
    g.logits(g.rms_norm(h, "norm", 1e-5), "head", 10)
    return g


def cost_of(graph, contexts, logit_rows, cached_bytes=2):
    """With two bytes for every value."""
    step = StepShape(contexts, logit_rows)
    return step_cost(graph, lambda weight: PLAIN["bfloat16"].nbytes(weight.shape), 2, cached_bytes, step)


def pairs(cost_of, base):
    """Pairs of query and key that attention's FLOPs stand for: each is 4 FLOPs for each of 8 columns."""
    return (cost_of.flops - base) / (4 * 8)


def test_smollm2_has_the_published_number_of_parameters():
    graph = load_declaration(SMOLLM2, "config.json").build()
    for footprint in (lower(graph), compile_graph(graph)):
        assert footprint.weight_bytes("bfloat16") == 2 * (134_515_008 - NORMS) + 4 * NORMS
        assert footprint.weight_bytes("float32") == 4 * 134_515_008
        assert footprint.page_bytes("bfloat16", 16) == (16 * 30 * 2 * 3 * 64 * 2,)


def test_a_decode_step_reads_every_weight_once_and_every_key_and_value():
    linears, head, norm = 8 * (8 + 4 + 4 + 8), 80, 8
    cost = cost_of(attention_only(), [(1, 7), (1, 3)], 2)
    assert cost.read_bytes == 2 * (2 * 8 + linears + head + norm) + (7 + 3) * 2 * 4 * 2
    assert cost.flops == 2 * 2 * linears + 2 * 2 * head + 4 * 8 * (7 + 3)
    half = cost_of(attention_only(), [(1, 7), (1, 3)], 2, cached_bytes=1.0625)
    assert cost.read_bytes - half.read_bytes == (7 + 3) * 2 * 4 * 0.9375


def test_cross_attention_reads_the_source_of_each_sequence():
    g = Graph()
    x = g.embed("embed", 10, 8)
    g.logits(g.cross_attention(x, layer=0, kv_heads=1, head_dim=4, scale=1), "head", 10)
    without, with_it = (StepShape([(1, 7), (3, 3)], 2, positions) for positions in (0, 100))
    costs = [step_cost(g, lambda weight: 0, 2, 2, step) for step in (without, with_it)]
    assert costs[1].read_bytes - costs[0].read_bytes == 2 * 100 * (4 + 4) * 2
    assert costs[1].flops - costs[0].flops == (1 + 3) * 100 * 4 * 8


def test_rows_without_logits_cost_none():
    with_logits, without = (cost_of(attention_only(), [(5, 5)], rows) for rows in (5, 0))
    assert with_logits.flops - without.flops == 2 * 5 * 80


@pytest.mark.parametrize(
    ("window", "count", "total", "expected"),
    [
        (None, 4, 4, 1 + 2 + 3 + 4),
        (None, 2, 5, 4 + 5),
        (3, 5, 5, 1 + 2 + 3 + 3 + 3),
        (3, 2, 9, 3 + 3),
        (3, 1, 2, 2),
        (3, 3, 3, 1 + 2 + 3),
        (3, 2, 4, 3 + 3),
        (100, 2, 4, 3 + 4),
    ],
)
def test_a_query_meets_the_keys_up_to_itself_or_its_window(window, count, total, expected):
    linears = 2 * count * 8 * (8 + 4 + 4 + 8)
    assert pairs(cost_of(attention_only(window), [(count, total)], 0), linears) == expected


@pytest.mark.parametrize(
    ("count", "total", "expected"), [(5, 5, 1 + 2 + 3 + 1 + 2), (1, 7, 1), (3, 9, 1 + 2 + 3), (4, 6, 3 + 1 + 2 + 3)]
)
def test_a_query_meets_the_keys_of_its_chunk(count, total, expected):
    linears = 2 * count * 8 * (8 + 4 + 4 + 8)
    assert pairs(cost_of(attention_only(chunk=3), [(count, total)], 0), linears) == expected


@pytest.mark.parametrize(
    ("count", "total", "expected"), [(8, 8, 1 + 2 + 3 + 4 + 3 + 4 + 3 + 4), (1, 7, 3), (2, 6, 3 + 4)]
)
def test_a_query_meets_the_keys_of_the_chunk_before_its_own(count, total, expected):
    linears = 2 * count * 8 * (8 + 4 + 4 + 8)
    assert pairs(cost_of(attention_only(chunk=2, lookback=1), [(count, total)], 0), linears) == expected
