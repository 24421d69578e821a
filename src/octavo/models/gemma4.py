"""Gemma 4 in all sizes, as models of text: dense, small ones with embeddings of each layer, and with experts."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph import Graph, Node
from octavo.models.decoder import HEAD_NORMS
from octavo.models.gemma import dtype_of, rounded
from octavo.models.gemma2 import Gemma2
from octavo.models.layer_inputs import LayerInputs
from octavo.models.mixture import Mixture
from octavo.models.shared_keys import SharedKeys
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_LAYER = {
    **LayerInputs.gguf_layer,
    **{f"ffn_{part}_exps": f"experts.{part}_proj" for part in ("gate", "up", "gate_up", "down")},
    "ffn_gate_inp": "router.proj", "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale", "layer_output_scale.weight": "layer_scalar",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2", "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
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


class Gemma4(SharedKeys, Mixture):
    """Norms before and after each branch, of q, k and v; heads of two widths; of six layers, one looks at everything.

    In small models each layer adds something of its own that a token's id makes; in others, experts compute beside an
    MLP (Gemma Team 2026).
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
    names = {**Gemma2.names, **HEAD_NORMS}
    gguf = (
        GGUFFamily(
            "gemma4", outer=LayerInputs.gguf_outer, layer=GGUF_LAYER, keys=GGUF_KEYS, lists=GGUF_LISTS,
            values=GGUF_VALUES, required=GGUF_REQUIRED,
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
        wide = 2 if config.flag("use_double_wide_mlp") else 1
        widths = [self.intermediate * (wide if self.owners[i] != i else 1) for i in range(self.layers)]
        self.widths = config.integers("widths_of_layers", low=1, count=self.layers) or widths
        self.own = LayerInputs(config, self.hidden, self.layers, self.vocab_size, self.eps)

    def is_full(self, i: int) -> bool:
        return (i + 1) % 6 == 0

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

    def mixture(self, g: Graph, x: Node, at: str) -> Node:
        asked = g.scale_by(g.rms_norm(x, None, self.eps), f"{at}.router.scale", self.hidden)
        logits = g.linear(g.scale(asked, self.hidden**-0.5), f"{at}.router.proj", self.num_experts)
        routes = g.route(logits, self.top_k, expert_scale=f"{at}.router.per_expert_scale")
        h = self.norm(g, x, f"{at}.pre_feedforward_layernorm_2")
        return g.experts(h, routes, **self.matrices(at), top_k=self.top_k, kind=self.activation)
