"""What text encoders built like BERT have in common: sizes, embeddings, the block, the names of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from octavo.graph import Graph, Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.base import CausalLM
from octavo.models.decoder import activation_of, split
from octavo.models.encoders.heads import BERT_HEADS, Heads
from octavo.models.encoders.masked import MaskedHead
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

# What GGUF files call the parts that have other names there.
GGUF_NAMES = {
    "word": "token_embd",
    "position": "position_embd",
    "segment": "token_types",
    "embed_norm": "token_embd_norm",
    "attn_norm": "attn_output_norm",
    "ffn_norm": "layer_output_norm",
    "ffn_gate_up": "ffn_up",
    "final_norm": "output_norm",
}
# The linear over rows, and how many columns it has, in files of ColBERT.
COLBERT_GGUF, COLBERT_KEYS = {"dense_2": "dense_2"}, {"embedding_length_out": "embedding_length_out"}
OUTSIDE = ("word", "position", "segment", "embed_norm", "final_norm")  # of layers


class TextEncoder(CausalLM):
    """Embeddings and their norm, blocks of attention and MLP, hidden states. A family overrides what differs.

    A norm follows each sum, or, where it `is_pre_norm`, comes before each branch. `names` are the parts, by names like
    those of `Decoder.names`; each class says those that differ from what it is built on. A part without a name is not
    there. Where one matrix has q, k and v, it is `attn_qkv`; where one has gate and up, `ffn_gate_up`, or, the other
    way round, `ffn_up_gate`.
    """

    kind = "encoder"
    pooling = "cls"
    causal: ClassVar[bool] = False  # a token sees those before it alone
    is_pre_norm: ClassVar[bool] = False
    known_heads: Heads = BERT_HEADS
    fields: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, object]] = {}
    bias: ClassVar[bool] = True  # of linears, unless attention_bias and mlp_bias say otherwise
    gate_bias: ClassVar[bool | None] = None  # of gate and up, where they differ from other linears
    position_types: ClassVar[tuple[str, ...]] = ("absolute",)  # that its configuration may name
    base_name: ClassVar[str] = "bert"
    gguf_names: ClassVar[Mapping[str, str]] = GGUF_NAMES
    masked_head: ClassVar[MaskedHead | None] = None
    names: ClassVar[Mapping[str, str]] = {
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "segment": "embeddings.token_type_embeddings",
        "embed_norm": "embeddings.LayerNorm",
        "layers": "encoder.layer",
        "attn_q": "attention.self.query",
        "attn_k": "attention.self.key",
        "attn_v": "attention.self.value",
        "attn_qkv": "",
        "attn_q_norm": "",
        "attn_k_norm": "",
        "attn_output": "attention.output.dense",
        "attn_norm": "attention.output.LayerNorm",
        "ffn_gate": "",
        "ffn_up": "intermediate.dense",
        "ffn_gate_up": "",  # where it is there, GGUF's ffn_up is this
        "ffn_up_gate": "",
        "ffn_down": "output.dense",
        "ffn_norm": "output.LayerNorm",
        "final_norm": "",
    }

    @classmethod
    def completed(cls, family: GGUFFamily) -> GGUFFamily:
        named = {cls.gguf_names.get(part, part): part for part, name in cls.parts.items() if name and part != "layers"}
        outer = {theirs: f"{cls.base_name}.{cls.parts[part]}" for theirs, part in named.items() if part in OUTSIDE}
        layer = {theirs: cls.parts[part] for theirs, part in named.items() if part not in OUTSIDE}
        return replace(
            family,
            name=cls.architectures[0],
            outer={**outer, **family.outer},
            layer={**layer, **family.layer},
            layers=f"{cls.base_name}.{cls.parts['layers']}",
            values={"hidden_act": cls.defaults.get("hidden_act", "gelu"), **family.values},
            causal=False,
        )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        self.config = config = config.renamed(self.fields, self.defaults)
        self.hidden = config.integer("hidden_size")
        self.layers = config.integer("num_hidden_layers", high=4096)
        self.heads = config.integer("num_attention_heads")
        self.intermediate = config.integer("intermediate_size", 4 * self.hidden)
        if self.hidden % self.heads and config.values.get("head_dim") is None:
            raise config.fail("hidden_size", f"must be a multiple of {self.heads} heads, got {self.hidden}")
        self.head_dim = config.integer("head_dim", self.hidden // self.heads)
        self.width = self.heads * self.head_dim
        self.vocab_size = config.integer("vocab_size")
        self.attention_bias = config.flag("attention_bias", self.bias)
        self.mlp_bias = config.flag("mlp_bias", self.bias)
        self.norm_bias = config.flag("norm_bias", True)
        self.segments = config.integer("type_vocab_size", 2, low=0) if self.parts["segment"] else 0
        self.offset = self.first_position()
        self.max_positions = config.integer("max_position_embeddings", 512) - self.offset
        if self.max_positions < 1:
            raise config.fail("max_position_embeddings", f"must be more than {self.offset}, the row of the first token")
        self.longest_positions = self.max_positions
        self.max_model_len = max_model_len or self.max_positions
        self.ropes: list[RopeTable | None] = [None] * self.layers
        self.windows: list[int | None] = [None] * self.layers  # how far a token sees on either side, itself included
        self.eps = config.number("layer_norm_eps", 1e-12, high=1.0)
        self.activation = activation_of(config, "hidden_act", "gelu")
        positions = config.text("position_embedding_type", self.position_types[0])
        if positions not in self.position_types:
            raise config.fail("position_embedding_type", f"{positions!r:.80} is not one of {self.position_types} here")
        if config.flag("is_decoder") or config.flag("add_cross_attention"):
            raise config.fail("is_decoder", "is not supported: an encoder is expected")

    def first_position(self) -> int:
        """The row of the table of positions that the first token has."""
        return 0

    @property
    def ignored(self) -> tuple[str, ...]:
        """Heads for other tasks, and what is no weight."""
        heads = rf"^({self.base_name}\.)?(pooler|cls|lm_head|vocab_\w+|classifier|qa_outputs|head|decoder)\."
        return (heads, r"position_ids$", r"token_type_ids$", r"inv_freq$")

    def at(self, part: str, layer: int | None = None) -> str:
        """The name of a part, of a layer or outside of them."""
        where = "" if layer is None else f"{self.parts['layers']}.{layer}."
        return f"{self.base_name}.{where}{self.parts[part]}"

    def build(self) -> Graph:
        g = Graph()
        g.hidden_states(self.rows(g))
        return g

    def build_masked(self) -> Graph:
        """The graph that guesses masked tokens: it ends in logits of the words. Raises what `config.fail` makes."""
        g, head, config = Graph(), self.masked_head, self.config
        if head is None:
            raise config.fail("architectures", "no head that guesses masked tokens is known of this one")
        field, default = head.activation
        act = activation_of(config, field, default)
        x = g.linear(self.rows(g), head.dense, self.hidden, config.flag("classifier_bias", self.bias))
        x = self.norm(g, g.activation(x, act), head.norm)
        word = self.at("word") if config.flag("tie_word_embeddings", True) else None
        head.end(g, x, word, self.vocab_size, bias=config.flag("decoder_bias", True))
        return g

    def rows(self, g: Graph) -> Node:
        """A row of each token, as all layers made it."""
        x = self.embed(g)
        for i in range(self.layers):
            x = self.layer(g, x, i)
        return self.end(g, x)

    def embed(self, g: Graph) -> Node:
        x = g.embed(self.at("word"), self.vocab_size, self.hidden)
        if self.parts["position"]:
            x = g.add(x, g.position_embed(self.at("position"), self.max_positions, self.hidden, self.offset))
        if self.segments:
            x = g.add(x, g.segment_embed(self.at("segment"), self.segments, self.hidden))
        return self.norm(g, x, self.at("embed_norm")) if self.parts["embed_norm"] else x

    def end(self, g: Graph, x: Node) -> Node:
        """What becomes of the last layer's rows."""
        return self.norm(g, x, self.at("final_norm")) if self.parts["final_norm"] else x

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps, bias=self.norm_bias)

    def layer(self, g: Graph, x: Node, i: int) -> Node:
        if self.is_pre_norm:
            x = g.add(x, self.attention(g, self.branch(g, x, "attn_norm", i), i))
            return g.add(x, self.mlp(g, self.branch(g, x, "ffn_norm", i), i))
        x = self.norm(g, g.add(x, self.attention(g, x, i)), self.at("attn_norm", i))
        return self.norm(g, g.add(x, self.mlp(g, x, i)), self.at("ffn_norm", i))

    def branch(self, g: Graph, x: Node, norm: str, i: int) -> Node:
        """What a branch reads where norms come before it."""
        return self.norm(g, x, self.at(norm, i))

    def attention(self, g: Graph, x: Node, i: int) -> Node:
        if self.parts["attn_qkv"]:
            q, k, v = split(g, x, self.at("attn_qkv", i), [self.width] * 3, bias=self.attention_bias)
        else:
            q, k, v = (g.linear(x, self.at(f"attn_{part}", i), self.width, self.attention_bias) for part in "qkv")
        if self.parts["attn_q_norm"]:
            q, k = self.norm(g, q, self.at("attn_q_norm", i)), self.norm(g, k, self.at("attn_k_norm", i))
        if (rope := self.ropes[i]) is not None:
            q, k = g.rope(q, self.head_dim, rope), g.rope(k, self.head_dim, rope)
        h = g.attention(q, k, v, layer=None, head_dim=self.head_dim, **self.scoring(i))
        return g.linear(h, self.at("attn_output", i), self.hidden, self.attention_bias)

    def scoring(self, i: int) -> Mapping[str, Any]:
        """Options of `attention`."""
        return {"scale": self.head_dim**-0.5, "window": self.windows[i], "causal": self.causal}

    def mlp(self, g: Graph, x: Node, i: int) -> Node:
        return g.linear(self.inner(g, x, i), self.at("ffn_down", i), self.hidden, self.mlp_bias)

    def inner(self, g: Graph, x: Node, i: int) -> Node:
        """What an MLP has between its linears."""
        bias = self.mlp_bias if self.gate_bias is None else self.gate_bias
        if self.parts["ffn_gate_up"]:
            gate, up = split(g, x, self.at("ffn_gate_up", i), [self.intermediate] * 2, bias=bias)
        elif self.parts["ffn_up_gate"]:
            up, gate = split(g, x, self.at("ffn_up_gate", i), [self.intermediate] * 2, bias=bias)
        elif self.parts["ffn_gate"]:
            gate, up = (g.linear(x, self.at(f"ffn_{part}", i), self.intermediate, bias) for part in ("gate", "up"))
        else:
            return g.activation(g.linear(x, self.at("ffn_up", i), self.intermediate, bias), self.activation)
        return g.glu(gate, up, self.activation)
