"""LFM2, dense and with experts."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph import Graph, Node, Weight
from octavo.models.decoder import split
from octavo.models.hybrid import Hybrid
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_OUTER = {"token_embd_norm": "model.embedding_norm"}
GGUF_LAYER = {f"shortconv.{name}": f"conv.{name}" for name in ("in_proj", "conv", "out_proj")}
GGUF_KEYS = {"shortconv.l_cache": "conv_L_cache"}
GGUF_LISTS = {"attention.head_count_kv": "kv_heads_of_layers"}


class Lfm2(Hybrid):
    """Gated convolutions over three tokens in most layers, attention in the others (Liquid AI 2025)."""

    architectures = ("Lfm2ForCausalLM",)
    model_types = ("lfm2",)
    kinds = ("full_attention", "conv")
    fields = {"rms_norm_eps": "norm_eps", "tie_word_embeddings": "tie_embedding", "intermediate_size": "block_ff_dim"}
    defaults = {"tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 128000}
    norm_name = "model.embedding_norm"
    adjusts: ClassVar[bool] = True  # the size of MLPs, where the configuration does not say it
    mixer_name = "conv"
    names = {
        "attn_norm": "operator_norm",
        "attn_q_norm": "q_layernorm",
        "attn_k_norm": "k_layernorm",
        "attn_output": "out_proj",
        "ffn_norm": "ffn_norm",
        "mlp": "feed_forward",
        "ffn_gate": "w1",
        "ffn_up": "w3",
        "ffn_down": "w2",
    }
    gguf = (
        GGUFFamily(
            "lfm2",
            outer=GGUF_OUTER,
            layer=GGUF_LAYER,
            keys=GGUF_KEYS,
            lists=GGUF_LISTS,
            values={"block_auto_adjust_ff_dim": False},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.kernel = config.integer("conv_L_cache", 3, low=2, high=64)
        self.conv_bias = config.flag("conv_bias")
        if config.flag("block_auto_adjust_ff_dim", self.adjusts):
            multiple = config.integer("block_multiple_of", 256)
            size = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * self.intermediate / 3))
            self.intermediate = -(-size // multiple) * multiple

    def is_full(self, i: int) -> bool:
        if by_layer := self.config.integers("kv_heads_of_layers", count=self.layers):
            return by_layer[i] > 0
        indices = self.config.values.get("full_attn_idxs")
        return indices is None or i in self.config.integers("full_attn_idxs")

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        before, behind, x = split(g, h, f"{at}.in_proj", [self.hidden] * 3, bias=self.conv_bias)
        x = g.glu(before, x, "none")
        x = g.causal_conv(x, f"{at}.conv", self.kernel, self.places[i], bias=self.conv_bias)
        return g.linear(g.glu(behind, x, "none"), f"{at}.out_proj", self.hidden, self.conv_bias)


class Lfm2Moe(Mixture, Lfm2):
    """LFM2, of which all layers but the first have experts, whose scores are sigmoids (Liquid AI 2025)."""

    architectures = ("Lfm2MoeForCausalLM",)
    model_types = ("lfm2_moe",)
    kind = "hybrid, experts"
    fields = {**Lfm2.fields, "first_k_dense_replace": "num_dense_layers"}
    defaults = {**Lfm2.defaults, "first_k_dense_replace": 2}
    adjusts = False
    choice_bias = "expert_bias"
    score = "sigmoid"
    gguf = (GGUFFamily("lfm2moe", outer=GGUF_OUTER, layer=GGUF_LAYER, keys=GGUF_KEYS, lists=GGUF_LISTS),)

    def added(self, at: str) -> Weight | None:
        return super().added(at) if self.config.flag("use_expert_bias", True) else None
