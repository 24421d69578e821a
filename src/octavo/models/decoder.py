"""What decoders built like Llama have in common: sizes, the skeleton of a block, SwiGLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node, Rows, Weight
from octavo.graph.ops.linear import Linear
from octavo.graph.ops.rope import RopeTable
from octavo.models.base import CausalLM
from octavo.models.rope import for_layers, longest_positions, rope_table
from octavo.weights.config_reader import ConfigReader

# The activations that configurations name, by the names that the vocabulary has for them.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
}


class Decoder(CausalLM):
    """Token ids, blocks of attention and MLP over a residual stream, a norm, logits. A family overrides what differs.

    Class variables say how its configuration spells Llama's fields, what they are where it leaves them out, and how its
    checkpoints name what is outside of the blocks.
    """

    fields: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, object]] = {}
    rotary_part: ClassVar[float | None] = None  # of a head, unless partial_rotary_factor is said; None: all, always
    interleaved: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, str]] = ("full_attention", "sliding_attention")  # that layer_types may name
    mlp_factor: ClassVar[int | None] = None  # of the hidden size that the MLP has, unless its own is said
    embed_name: ClassVar[str] = "model.embed_tokens"
    layers_name: ClassVar[str] = "model.layers"
    norm_name: ClassVar[str] = "model.norm"
    head_name: ClassVar[str] = "lm_head"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        self.config = config = config.renamed(self.fields, self.defaults)
        self.hidden = config.integer("hidden_size")
        self.layers = config.integer("num_hidden_layers", high=4096)
        self.intermediate = config.integer("intermediate_size", self.mlp_factor and self.mlp_factor * self.hidden)
        self.heads = config.integer("num_attention_heads")
        self.kv_heads = config.integer("num_key_value_heads", self.heads)
        if self.heads % self.kv_heads:
            reason = f"must divide num_attention_heads, which is {self.heads}, got {self.kv_heads}"
            raise config.fail("num_key_value_heads", reason)
        self.head_dim = config.integer("head_dim", self.hidden // self.heads, high=1024)
        self.vocab_size = config.integer("vocab_size")
        self.max_positions = config.integer("max_position_embeddings", 2048, high=1 << 28)
        self.eps = config.number("rms_norm_eps", 1e-6, high=1.0)
        self.tied = config.flag("tie_word_embeddings")
        self.qkv_bias = self.o_bias = config.flag("attention_bias")
        self.mlp_bias = config.flag("mlp_bias")
        self.activation = activation_of(config, "hidden_act")
        self.scale = self.head_dim**-0.5
        self.full = full_layers(config, self.layers, self.is_full, self.kinds)
        self.windows = [None if full else window_of(config) for full in self.full]
        self.longest_positions = longest_positions(for_layers(config, "full_attention"), self.max_positions)
        self.max_model_len = max_model_len or self.max_positions
        self.ropes: list[RopeTable | None] = [self.rope(for_layers(config, "full_attention"))] * self.layers
        self.logits_scale, self.head_bias = 1.0, False
        self.logits_softcap: float | None = None

    def is_full(self, i: int) -> bool:
        """Whether layer `i` looks at everything though there is a window, where `layer_types` does not say it."""
        return False

    def rope(self, config: ConfigReader) -> RopeTable | None:
        """The frequencies of all layers; None for a model without rotary positions."""
        part = self.rotary_part and part_of_head(config, self.rotary_part)
        columns = int(self.head_dim * (part or 1.0))
        return rope_table(config, columns, self.max_positions, self.max_model_len, self.interleaved)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Old checkpoints store rotary frequencies and masks; some store the tied table twice, some draft layers."""
        needless = (r"\.rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$", r"\.attention\.(masked_)?bias$", r"^mtp\.")
        return (rf"^{self.head_name}\.weight$", *needless) if self.tied else needless

    def build(self) -> Graph:
        g = Graph()
        x = self.embed(g)
        for i in range(self.layers):
            x = self.layer(g, x, i, f"{self.layers_name}.{i}")
        self.logits(g, self.norm(g, x, self.norm_name))
        return g

    def logits(self, g: Graph, x: Node) -> Node:
        head = self.embed_name if self.tied else self.head_name
        return g.logits(x, head, self.vocab_size, self.head_bias, self.logits_scale, self.logits_softcap)

    def embed(self, g: Graph) -> Node:
        return g.embed(self.embed_name, self.vocab_size, self.hidden)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.rms_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn"))
        return g.add(x, self.feed_forward(g, self.norm(g, x, f"{at}.post_attention_layernorm"), i, at))

    def feed_forward(self, g: Graph, h: Node, i: int, at: str) -> Node:
        """What layer `i` has behind its attention: an MLP, or, in a `Mixture`, experts."""
        return self.mlp(g, h, f"{at}.mlp")

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        q, k, v = self.qkv(g, h, at)
        q, k = self.positions(g, q, k, i, at)
        how = {"scale": self.scale, "window": self.windows[i], **self.scoring(i, at)}
        return self.project(g, g.attention(q, k, v, layer=i, head_dim=self.head_dim, **how), at)

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        """What else attention does with scores, as its options."""
        return {}

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        q = g.linear(h, f"{at}.q_proj", self.heads * self.head_dim, self.qkv_bias)
        k = g.linear(h, f"{at}.k_proj", self.kv_heads * self.head_dim, self.qkv_bias)
        v = g.linear(h, f"{at}.v_proj", self.kv_heads * self.head_dim, self.qkv_bias)
        return q, k, v

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        rope = self.ropes[i]
        return (q, k) if rope is None else (g.rope(q, self.head_dim, rope), g.rope(k, self.head_dim, rope))

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        """q and k with every head normalised by itself, for those that want it."""
        q = g.rms_norm(q, f"{at}.q_norm", self.eps, width=self.head_dim)
        return q, g.rms_norm(k, f"{at}.k_norm", self.eps, width=self.head_dim)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.o_proj", self.hidden, self.o_bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        return self.gated(g, h, at, self.intermediate)

    def gated(self, g: Graph, h: Node, at: str, width: int) -> Node:
        gate = g.linear(h, f"{at}.gate_proj", width, self.mlp_bias)
        up = g.linear(h, f"{at}.up_proj", width, self.mlp_bias)
        return g.linear(g.glu(gate, up, self.activation), f"{at}.down_proj", self.hidden, self.mlp_bias)


def split(
    g: Graph,
    x: Node,
    name: str,
    columns: Sequence[int],
    *,
    bias: bool = False,
    groups: int = 1,
    transposed: bool = False,
) -> list[Node]:
    """Linears of `columns` each whose matrices are stored as one, in each of `groups` below each other.

    With `transposed`, it is stored as [inputs, rows].
    """
    block, found, start = sum(columns) // groups, [], 0
    for count in columns:
        stop = start + count // groups
        rows = Rows(groups, block, start, stop)
        weight = Weight(f"{name}.weight", (count, x.columns), rows, transposed)
        found.append(g.append(Linear(x, weight, Weight(f"{name}.bias", (count,), rows) if bias else None)))
        start = stop
    return found


def activation_of(config: ConfigReader, field: str, default: str = "silu") -> str:
    """The activation that a field names."""
    name = config.text(field, default)
    if name not in ACTIVATIONS:
        raise config.fail(field, f"{name!r} is not known; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def window_of(config: ConfigReader) -> int | None:
    return config.integer("sliding_window", high=1 << 28) if config.values.get("sliding_window") is not None else None


def part_of_head(config: ConfigReader, default: float) -> float:
    """`partial_rotary_factor`, which newer files have in `rope_parameters`, older ones outside of it."""
    rope, field = config.object("rope_parameters"), "partial_rotary_factor"
    return rope.number(field, high=1) if rope.values.get(field) is not None else config.number(field, default, high=1)


def full_layers(
    config: ConfigReader, layers: int, default: Callable[[int], bool], known: tuple[str, str]
) -> list[bool]:
    """Which layers are of the first kind, that looks at everything: as `layer_types` says, or else `default`."""
    kinds = config.values.get("layer_types")
    if kinds is None:
        return [default(i) for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) < layers or not all(kind in known for kind in kinds):
        raise config.fail("layer_types", f"must be a list of {layers} of {' and '.join(known)}, got {kinds!r}")
    return [kind == known[0] for kind in kinds[:layers]]
