"""Gemma 3 in all sizes: the models of text, and the text part of those that see."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.gemma import Gemma
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily

NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


class Gemma3(Gemma):
    """Gemma with norms before and after each branch, and of q and k; of six layers, one looks at everything.

    Those that do not have a window, and frequencies of their own (Gemma Team 2025).
    """

    architectures = ("Gemma3ForCausalLM",)
    model_types = ("gemma3_text",)
    defaults = {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "rope_theta": 1e6,
    }
    gguf = (
        GGUFFamily(
            "gemma3",
            "Gemma3ForCausalLM",
            layer=LAYER | HEAD_NORMS | NAMES,
            keys={"rope.freq_base_swa": "rope_local_base_freq", "final_logit_softcapping": "final_logit_softcapping"},
            values={"one_is_in_norms": True, "rope_local_base_freq": 10000.0},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        for field in ("attn_logit_softcapping", "use_bidirectional_attention"):
            if config.values.get(field):
                raise config.fail(field, f"{config.values[field]!r} is not supported in this architecture")
        if config.values.get("final_logit_softcapping") is not None:
            self.logits_softcap = config.number("final_logit_softcapping")
        default = self.hidden / self.heads if self.layers == 62 else self.head_dim  # GGUF files don't say it of 27B
        self.scale = config.number("query_pre_attn_scalar", default) ** -0.5
        local = self.rope(for_layers(config, "sliding_attention", config.number("rope_local_base_freq", 10000.0)))
        self.ropes = [self.ropes[i] if self.full[i] else local for i in range(self.layers)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 6) == 0

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn")
        x = g.add(x, self.norm(g, h, f"{at}.post_attention_layernorm"))
        h = self.mlp(g, self.norm(g, x, f"{at}.pre_feedforward_layernorm"), f"{at}.mlp")
        return g.add(x, self.norm(g, h, f"{at}.post_feedforward_layernorm"))

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        how = {"width": self.head_dim, "offset": self.norm_offset}
        return g.rms_norm(q, f"{at}.q_norm", self.eps, **how), g.rms_norm(k, f"{at}.k_norm", self.eps, **how)
