"""What decoders built like Llama have in common: sizes, the skeleton of a block, SwiGLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from octavo.graph import Graph, Node, Rows, Weight
from octavo.graph.ops.linear import Linear
from octavo.graph.ops.rope import RopeTable
from octavo.models.base import CausalLM
from octavo.models.rope import for_layers, longest_positions, rope_table
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

# The activations that configurations name, by the names that the vocabulary has for them.
ACTIVATIONS = {
    **dict.fromkeys(("silu", "swish"), "silu"),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"),
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
}

# Parts of a layer that are in its attention, and in its MLP.
IN_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_q_norm", "attn_k_norm", "attn_gate", "attn_output")
IN_MLP = ("ffn_gate", "ffn_up", "ffn_gate_up", "ffn_down")
# Names that several families have in common.
HEAD_NORMS = {"attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}
MEGATRON = {  # what is trained by it calls them so
    "attn_qkv": "query_key_value",
    "attn_output": "dense",
    "ffn_gate": "",
    "ffn_up": "dense_h_to_4h",
    "ffn_down": "dense_4h_to_h",
}
NORMS_BEHIND = {  # the branches alone
    "attn_norm": "",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "",
    "post_ffw_norm": "post_feedforward_layernorm",
}


class Decoder(CausalLM):
    """Token ids, blocks of attention and MLP over a residual stream, a norm, logits. A family overrides what differs.

    Class variables say how its configuration spells Llama's fields, what they are where it leaves them out, and how its
    checkpoints name what is outside of the blocks. `names` are the parts of a layer, by the names that GGUF files have
    for them; each class says those that differ from what it is built on. A part without a name is not there. Where one
    matrix has q, k and v, it is `attn_qkv`; where one has gate and up, `ffn_gate_up`.
    """

    fields: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, object]] = {}
    rotary_part: ClassVar[float | None] = None  # of a head, unless partial_rotary_factor is said; None: all, always
    interleaved: ClassVar[bool] = False
    has_rope: bool = True
    kinds: ClassVar[tuple[str, str]] = ("full_attention", "sliding_attention")  # that layer_types may name
    mlp_factor: ClassVar[int | None] = None  # of the hidden size that the MLP has, unless its own is said
    is_layer_norm: ClassVar[bool] = False  # not an RMS norm
    norm_bias: ClassVar[bool] = True  # of a layer norm
    norm_offset: float = 0.0  # what is added to weights of norms; it is in those of GGUF files
    norms_heads: ClassVar[bool] = True  # each by itself; or else all of q and all of k
    is_parallel: bool = False  # the MLP reads what attention reads, not the sum
    qkv_by_heads: ClassVar[bool] = False  # attn_qkv has q, k and v of each KV head below each other
    embed_name: ClassVar[str] = "model.embed_tokens"
    layers_name: ClassVar[str] = "model.layers"
    norm_name: ClassVar[str] = "model.norm"
    head_name: ClassVar[str] = "lm_head"
    names: ClassVar[Mapping[str, str]] = {
        "attn_norm": "input_layernorm",
        "attention": "self_attn",
        "attn_q": "q_proj",
        "attn_k": "k_proj",
        "attn_v": "v_proj",
        "attn_qkv": "",
        "attn_q_norm": "",
        "attn_k_norm": "",
        "attn_gate": "",
        "attn_output": "o_proj",
        "post_attention_norm": "",
        "ffn_norm": "post_attention_layernorm",
        "mlp": "mlp",
        "ffn_gate": "gate_proj",
        "ffn_up": "up_proj",
        "ffn_gate_up": "",
        "ffn_down": "down_proj",
        "post_ffw_norm": "",
    }

    @classmethod
    def completed(cls, family: GGUFFamily) -> GGUFFamily:
        outer = {"token_embd": cls.embed_name, "output_norm": cls.norm_name, "output": cls.head_name}
        layer = {part: name for part, name in cls.gguf_names().items() if name not in family.layer.values()}
        activation = {"hidden_act": cls.defaults["hidden_act"]} if "hidden_act" in cls.defaults else {}
        return replace(
            family,
            name=family.name or next(iter(cls.architectures), ""),
            outer=outer | {**family.outer},
            layer=layer | {**family.layer},
            layers=cls.layers_name,
            values={**activation, **({"one_is_in_norms": True} if cls.norm_offset else {}), **family.values},
            partial_rope=cls.rotary_part is not None,
            qkv_by_heads=cls.qkv_by_heads,
        )

    @classmethod
    def gguf_names(cls) -> dict[str, str]:
        """The checkpoint's names of a layer's tensors, by GGUF's."""
        found = {}
        for part, name in cls.parts.items():
            module = "attention" if part in IN_ATTENTION else "mlp" if part in IN_MLP else None
            if name and part not in ("attention", "mlp"):
                theirs = "ffn_up" if part == "ffn_gate_up" else part
                found[theirs] = inside(cls.parts[module], name) if module else name
        return found

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
        self.qkv_bias = config.flag("attention_bias")
        self.o_bias = config.flag("attention_out_bias", self.qkv_bias)
        self.mlp_bias = config.flag("mlp_bias")
        self.activation = activation_of(config, "hidden_act")
        self.scale = self.head_dim**-0.5
        self.qkv_limit = config.number("clip_qkv") if config.values.get("clip_qkv") else None
        self.has_head_norms = bool(self.parts["attn_k_norm"]) and config.flag("has_head_norms", True)
        self.norm_offset = 0.0 if config.flag("one_is_in_norms") else self.norm_offset
        self.full = full_layers(config, self.layers, self.is_full, self.kinds)
        self.windows = [None if full else window_of(config) for full in self.full]
        self.places: Sequence[int] = range(self.layers)  # in the cache
        self.longest_positions = longest_positions(for_layers(config, "full_attention"), self.max_positions)
        self.max_model_len = max_model_len or self.max_positions
        table = self.rope(for_layers(config, "full_attention")) if self.has_rope else None
        self.ropes: list[RopeTable | None] = [table] * self.layers
        self.embedding_scale = self.residual_scale = self.logits_scale = 1.0
        self.head_bias = False
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
        return scaled(g, g.embed(self.embed_name, self.vocab_size, self.hidden), self.embedding_scale)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        if self.is_layer_norm:
            return g.layer_norm(x, name, self.eps, bias=self.norm_bias, offset=self.norm_offset)
        return g.rms_norm(x, name, self.eps, offset=self.norm_offset)

    def norm_of(self, g: Graph, x: Node, at: str, part: str) -> Node:
        """The norm that is a `part` of the layer, or `x` itself where there is none."""
        return self.norm(g, x, f"{at}.{self.parts[part]}") if self.parts[part] else x

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm_of(g, x, at, "attn_norm")
        made = self.norm_of(g, self.mix(g, h, i, at), at, "post_attention_norm")
        y = g.add(x, scaled(g, made, self.residual_scale))
        if self.parts["ffn_norm"] or not self.is_parallel:
            h = self.norm_of(g, x if self.is_parallel else y, at, "ffn_norm")
        made = self.norm_of(g, self.feed_forward(g, h, i, at), at, "post_ffw_norm")
        return g.add(y, scaled(g, made, self.residual_scale))

    def mix(self, g: Graph, h: Node, i: int, at: str) -> Node:
        """What layer `i` has before its MLP: attention, or, in a `Hybrid`, something with a state."""
        return self.attention(g, h, i, f"{at}.{self.parts['attention']}")

    def feed_forward(self, g: Graph, h: Node, i: int, at: str) -> Node:
        """What layer `i` has behind its attention: an MLP, or, in a `Mixture`, experts."""
        return self.mlp(g, h, inside(at, self.parts["mlp"]))

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        q, k, v = self.qkv(g, h, at)
        q, k = self.positions(g, q, k, i, at)
        how = {"layer": self.places[i], "scale": self.scale, "window": self.windows[i], **self.scoring(i, at)}
        made = g.attention(q, k, v, head_dim=self.head_dim, **how)
        if self.parts["attn_gate"]:
            made = g.glu(g.linear(h, f"{at}.{self.parts['attn_gate']}", made.columns), made, "sigmoid")
        return self.project(g, made, at)

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        """What else attention does with scores, as its options."""
        return {}

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        sizes = [self.heads * self.head_dim, kv, kv]
        if name := self.parts["attn_qkv"]:
            groups = self.kv_heads if self.qkv_by_heads else 1
            return split(g, h, f"{at}.{name}", sizes, bias=self.qkv_bias, groups=groups)
        names = (f"{at}.{self.parts[part]}" for part in ("attn_q", "attn_k", "attn_v"))
        return [g.linear(h, name, size, self.qkv_bias) for name, size in zip(names, sizes, strict=True)]

    def clipped(self, g: Graph, nodes: Sequence[Node]) -> Sequence[Node]:
        """q, k and v within the limits of `clip_qkv`, for those that want it."""
        return nodes if self.qkv_limit is None else [g.clip(x, self.qkv_limit) for x in nodes]

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        """q and k, normed if they are, and rotated."""
        if self.has_head_norms:
            q, k = self.head_norms(g, q, k, at)
        rope = self.ropes[i]
        return (q, k) if rope is None else (g.rope(q, self.head_dim, rope), g.rope(k, self.head_dim, rope))

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        """q and k with every head normalised by itself, or all as one. One without a name has no weight."""
        names = (self.parts[part] and f"{at}.{self.parts[part]}" for part in ("attn_q_norm", "attn_k_norm"))
        how = {"width": self.head_dim if self.norms_heads else None, "offset": self.norm_offset}
        q, k = (g.rms_norm(x, name or None, self.eps, **how) for x, name in zip((q, k), names, strict=True))
        return q, k

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return self.linear(g, h, f"{at}.{self.parts['attn_output']}", self.hidden, self.o_bias)

    def linear(self, g: Graph, x: Node, name: str, columns: int, bias: bool) -> Node:
        return g.linear(x, name, columns, bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        if self.parts["ffn_gate"]:
            return self.gated(g, h, at, self.intermediate)
        h = self.linear(g, h, f"{at}.{self.parts['ffn_up']}", self.intermediate, self.mlp_bias)
        h = g.activation(h, self.activation)
        return self.linear(g, h, f"{at}.{self.parts['ffn_down']}", self.hidden, self.mlp_bias)

    def gated(self, g: Graph, h: Node, at: str, width: int) -> Node:
        if both := self.parts["ffn_gate_up"]:
            gate, up = split(g, h, f"{at}.{both}", [width] * 2, bias=self.mlp_bias)
        else:
            names = (f"{at}.{self.parts[part]}" for part in ("ffn_gate", "ffn_up"))
            gate, up = (self.linear(g, h, name, width, self.mlp_bias) for name in names)
        h = g.glu(gate, up, self.activation)
        return self.linear(g, h, f"{at}.{self.parts['ffn_down']}", self.hidden, self.mlp_bias)


def inside(module: str, name: str) -> str:
    """The name of what is in a module; the module itself where that has none."""
    return f"{module}.{name}".strip(".")


def scaled(g: Graph, x: Node, factor: float) -> Node:
    return x if factor == 1.0 else g.scale(x, factor)


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
