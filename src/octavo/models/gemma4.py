"""Gemma 4 in all sizes, as models of text: dense, small ones with embeddings of each layer, and with experts."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.gemma import dtype_of, rounded
from octavo.models.gemma2 import NAMES
from octavo.models.layer_inputs import LayerInputs
from octavo.models.mixture import Mixture
from octavo.models.rope import for_layers, rope_table
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import EXPERTS, HEAD_NORMS, LAYER, OUTER, GGUFFamily

GGUF_OUTER = {
    **OUTER, "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}  # fmt: skip
GGUF_LAYER = {
    **LAYER, **HEAD_NORMS, **NAMES, **{name: ours.removeprefix("mlp.") for name, ours in EXPERTS.items()},
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1", "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_inp": "router.proj", "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale", "layer_output_scale.weight": "layer_scalar",
    "inp_gate": "per_layer_input_gate", "proj": "per_layer_projection", "post_norm": "post_per_layer_input_norm",
}  # fmt: skip
GGUF_KEYS = {
    "attention.key_length": "global_head_dim", "attention.key_length_swa": "head_dim",
    "attention.shared_kv_layers": "num_kv_shared_layers", "rope.freq_base_swa": "rope_local_base_freq",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    "final_logit_softcapping": "final_logit_softcapping",
}  # fmt: skip
GGUF_VALUES = {"hidden_activation": "gelu_pytorch_tanh", "rope_parameters": {}, "final_logit_softcapping": 30.0}
GGUF_LISTS = {"attention.head_count_kv": "kv_heads_of_layers", "feed_forward_length": "widths_of_layers"}
GGUF_REQUIRED = ("attention.key_length", "attention.key_length_swa", "embedding_length_per_layer_input")


class Gemma4(Mixture):
    """Norms before and after each branch, of q, k and v; heads of two widths; of six layers, one looks at everything.

    The last `num_kv_shared_layers` look at the keys of the last one of their kind before them. In small models each
    layer adds something of its own that a token's id makes; in others, experts compute beside an MLP (Gemma Team 2026).
    """

    architectures = ("Gemma4ForCausalLM",)
    model_types = ("gemma4_text",)
    fields = {"num_experts_per_tok": "top_k_experts", "hidden_act": "hidden_activation"}
    defaults: ClassVar[dict[str, object]] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "sliding_window": 512,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        },
    }
    gguf = (
        GGUFFamily(
            "gemma4", "Gemma4ForCausalLM", GGUF_OUTER, GGUF_LAYER, keys=GGUF_KEYS, lists=GGUF_LISTS, values=GGUF_VALUES,
            required=GGUF_REQUIRED,
        ),
    )  # fmt: skip

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        if config.values.get("use_bidirectional_attention") == "all":
            raise config.fail("use_bidirectional_attention", "'all' is not supported in this architecture")
        cap = config.values.get("final_logit_softcapping")
        self.logits_softcap = None if cap is None else config.number("final_logit_softcapping")
        self.has_experts = config.flag("enable_moe_block", self.num_experts > 1)
        self.reuses_keys = config.flag("attention_k_eq_v")
        self.full[-1], self.windows[-1] = True, None  # whatever layer_types says
        self.sizes = [self.heads_of(i) for i in range(self.layers)]
        shared = config.integer("num_kv_shared_layers", 0, low=0, high=self.layers - 1)
        self.owners = [self.owner(i, self.layers - shared) for i in range(self.layers)]
        wide = 2 if config.flag("use_double_wide_mlp") else 1
        widths = [self.intermediate * (wide if self.owners[i] != i else 1) for i in range(self.layers)]
        self.widths = config.integers("widths_of_layers", low=1, count=self.layers) or widths
        local = for_layers(config, "sliding_attention", config.number("rope_local_base_freq", 1e4))
        kinds = [for_layers(config, "full_attention") if full else local for full in self.full]
        limits = self.max_positions, self.max_model_len
        self.ropes = [rope_table(kind, dim, *limits) for kind, (dim, _) in zip(kinds, self.sizes, strict=True)]
        self.own = LayerInputs(config, self.hidden, self.layers, self.vocab_size, self.eps)

    def is_full(self, i: int) -> bool:
        return (i + 1) % 6 == 0

    def rope(self, config: ConfigReader) -> RopeTable | None:
        """None of all layers: each kind has its own."""
        return None

    def heads_of(self, i: int) -> tuple[int, int]:
        """The width of a layer's heads, and how many heads of keys it has."""
        config, said = self.config, self.config.object("per_layer_config")
        if said.values:
            own = said.object(next((name for name in said.values if name.lstrip("0") == str(i).lstrip("0")), str(i)))
            return own.integer("head_dim", self.head_dim), own.integer("num_key_value_heads", self.kv_heads)
        dim = config.integer("global_head_dim", 512, high=1024) if self.full[i] else self.head_dim
        if kv_heads := config.integers("kv_heads_of_layers", low=1, count=self.layers):
            return dim, kv_heads[i]
        field = "num_global_key_value_heads" if self.full[i] and self.reuses_keys else "num_key_value_heads"
        return dim, config.integer(field, self.kv_heads)

    def owner(self, i: int, first_shared: int) -> int:
        """The layer at whose keys a layer looks."""
        kind = (layer for layer in range(first_shared) if self.full[layer] == self.full[i])
        return i if i < first_shared else max(kind)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Also keys and values of layers that look at another's."""
        shared = "|".join(str(i) for i in range(self.layers) if self.owners[i] != i)
        return (*super().ignored, rf"^{self.layers_name}\.({shared})\.self_attn\.[kv]_")

    def embed(self, g: Graph) -> Node:
        x = g.scale(super().embed(g), rounded(self.hidden**0.5, dtype_of(self.config)))
        self.own.build(g, x)
        return x

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn")
        x = g.add(x, self.norm(g, h, f"{at}.post_attention_layernorm"))
        h = self.gated(g, self.norm(g, x, f"{at}.pre_feedforward_layernorm"), f"{at}.mlp", self.widths[i])
        if self.has_experts:
            made = self.norm(g, self.mixture(g, x, at), f"{at}.post_feedforward_layernorm_2")
            h = g.add(self.norm(g, h, f"{at}.post_feedforward_layernorm_1"), made)
        x = g.add(x, self.norm(g, h, f"{at}.post_feedforward_layernorm"))
        if self.own.size:
            h = self.own.read(g, x, i, at, self.activation)
            x = g.add(x, self.norm(g, h, f"{at}.post_per_layer_input_norm"))
        return g.scale_by(x, f"{at}.layer_scalar")

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        (dim, kv_heads), rope, k, v = self.sizes[i], self.ropes[i], None, None
        q = g.linear(h, f"{at}.q_proj", self.heads * dim, self.qkv_bias)
        q = g.rope(g.rms_norm(q, f"{at}.q_norm", self.eps, width=dim), dim, rope)
        if self.owners[i] == i:
            k = g.linear(h, f"{at}.k_proj", kv_heads * dim, self.qkv_bias)
            is_same = self.full[i] and self.reuses_keys
            v = k if is_same else g.linear(h, f"{at}.v_proj", kv_heads * dim, self.qkv_bias)
            v = g.rms_norm(v, None, self.eps, width=dim)
            k = g.rope(g.rms_norm(k, f"{at}.k_norm", self.eps, width=dim), dim, rope)
        how = {"layer": self.owners[i], "kv_heads": kv_heads, "head_dim": dim, "scale": 1.0, "window": self.windows[i]}
        return self.project(g, g.attention(q, k, v, **how), at)

    def mixture(self, g: Graph, x: Node, at: str) -> Node:
        asked = g.scale_by(g.rms_norm(x, None, self.eps), f"{at}.router.scale", self.hidden)
        logits = g.linear(g.scale(asked, self.hidden**-0.5), f"{at}.router.proj", self.num_experts)
        routes = g.route(logits, self.top_k, expert_scale=f"{at}.router.per_expert_scale")
        h = self.norm(g, x, f"{at}.pre_feedforward_layernorm_2")
        return g.experts(h, routes, **self.matrices(at), top_k=self.top_k, kind=self.activation)
