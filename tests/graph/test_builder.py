import pytest

from octavo.graph.builder import Graph
from octavo.graph.node import ShapeError, Weight
from octavo.graph.ops.rope import RopeTable


@pytest.fixture
def g():
    return Graph()


@pytest.fixture
def x(g):
    return g.embed("embed", 100, 24)


def attend(g, q, k, v, head_dim=8):
    return g.attention(q, k, v, layer=0, head_dim=head_dim, scale=1.0)


def test_an_op_of_unequal_inputs_is_refused(g, x):
    narrow = g.linear(x, "narrow", 8)
    with pytest.raises(ShapeError, match="add: inputs have 24 and 8 columns"):
        g.add(x, narrow)
    with pytest.raises(ShapeError, match="glu: 24 gates for 8 columns"):
        g.glu(x, narrow)


def test_rope_wants_whole_heads_and_no_more_pairs_than_they_have(g, x):
    with pytest.raises(ShapeError, match="24 columns are no whole number of heads of 16"):
        g.rope(x, 16, RopeTable((1.0,)))
    with pytest.raises(ShapeError, match="5 pairs do not fit a head of 8"):
        g.rope(x, 8, RopeTable((1.0,) * 5))


def test_attention_wants_whole_heads_that_share_kv_heads_evenly(g, x):
    wide, odd = g.linear(x, "wide", 16), g.linear(x, "odd", 12)
    with pytest.raises(ShapeError, match="24 heads are no multiple of 16 KV heads"):
        attend(g, x, wide, wide, head_dim=1)
    with pytest.raises(ShapeError, match="12 and 16 columns are no whole heads of 8"):
        attend(g, odd, wide, wide)
    with pytest.raises(ShapeError, match="24 and 16 columns are no whole heads of 32"):
        attend(g, x, wide, wide, head_dim=32)


def test_attention_wants_a_slope_for_each_head_and_one_way_of_looking_back(g, x):
    def attend(layer=0, **how):
        return g.attention(x, x, x, layer=layer, head_dim=8, scale=1.0, **how)

    with pytest.raises(ShapeError, match="2 slopes for 3 heads"):
        attend(slopes=(1.0, 0.5))
    with pytest.raises(ShapeError, match="a window and a chunk exclude each other"):
        attend(window=4, chunk=8)
    with pytest.raises(ShapeError, match="a chunk looks back"):
        attend(layer=None, causal=False, chunk=8)
    for buckets in ((0, 1), (0, -1, 0)):
        with pytest.raises(ShapeError, match="buckets are not of as many distances on either side"):
            attend(biases="biases", buckets=buckets)


def test_heads_that_are_joined_are_as_many_or_one(g, x):
    assert g.join(x, g.linear(x, "one", 4), 8, 4).columns == 3 * 12
    with pytest.raises(ShapeError, match="24 and 8 columns are no heads of 8 and 4, as many or one"):
        g.join(x, g.linear(x, "two", 8), 8, 4)


def test_a_node_of_another_graph_is_refused(x):
    with pytest.raises(ShapeError, match="another graph"):
        Graph().linear(x, "w", 8)


def test_weights_have_the_checkpoint_s_names_and_the_shapes_that_follow(g, x):
    y = g.linear(x, "proj", 8, bias=True)
    g.logits(g.rms_norm(y, "norm", 1e-5), "head", 100)
    assert g.weights == [
        Weight("embed.weight", (100, 24)),
        Weight("proj.weight", (8, 24)),
        Weight("proj.bias", (8,)),
        Weight("norm.weight", (8,)),
        Weight("head.weight", (100, 8)),
    ]


def test_a_weight_that_is_used_twice_is_listed_once(g, x):
    g.logits(x, "embed", 100)
    assert g.weights == [Weight("embed.weight", (100, 24))]
