"""MiMo-V2-Flash."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.mixture import Mixture
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader


class MiMoV2Flash(Mixture):
    """Values narrower than keys; in five of six layers windows, sinks and twice the KV heads; DeepSeek-V3's experts.

    Source: Xiaomi LLM-Core Team 2026.
    """

    architectures = ("MiMoV2FlashForCausalLM",)
    model_types = ("mimo_v2_flash",)
    fields = {"num_experts": "n_routed_experts"}
    defaults = {
        "head_dim": 192,
        "v_head_dim": 128,
        "attention_out_bias": False,
        "rms_norm_eps": 1e-5,
        "attention_value_scale": 0.707,
        "sliding_window": 129,
        "rope_theta": 5e6,
        "swa_rope_theta": 1e4,
    }
    rotary_part = 0.334
    score = "sigmoid"
    choice_bias = "gate.e_score_correction_bias"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.values.get("sliding_window_size") is not None:  # the tokens before one's own
            window = {"sliding_window": config.integer("sliding_window_size") + 1}
            config = ConfigReader({**config.values, **window}, config.fail)
        super().__init__(config, max_model_len)
        config = self.config
        self.value_dim = config.integer("v_head_dim", high=1024)
        self.value_scale = config.number("attention_value_scale")
        local = self.rope(for_layers(config, "sliding_attention", config.number("swa_rope_theta")))
        self.ropes = [rope if full else local for full, rope in zip(self.full, self.ropes, strict=True)]

    def is_full(self, i: int) -> bool:
        pattern = self.config.integers("hybrid_layer_pattern", high=1)
        return pattern[i] == 0 if len(pattern) >= self.layers else i == 0 or (i + 1) % 6 == 0

    def is_sparse(self, i: int) -> bool:
        listed = self.config.values.get("moe_layer_freq")
        if isinstance(listed, list) and len(listed) >= self.layers:
            return bool(listed[i])
        has_kinds = self.config.values.get("mlp_layer_types") is not None
        return super().is_sparse(i) if has_kinds else i > 0

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        kv_heads = self.kv_heads if self.full[i] else 2 * self.kv_heads
        q = g.linear(h, f"{at}.q_proj", self.heads * self.head_dim, self.qkv_bias)
        k = g.linear(h, f"{at}.k_proj", kv_heads * self.head_dim, self.qkv_bias)
        v = g.linear(h, f"{at}.v_proj", kv_heads * self.value_dim, self.qkv_bias)
        q, k = self.positions(g, q, k, i, at)
        made = g.attention(
            q,
            k,
            g.scale(v, self.value_scale),
            layer=i,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            scale=self.scale,
            window=self.windows[i],
            sinks=None if self.full[i] else f"{at}.attention_sink_bias",
        )
        return self.project(g, made, at)
