"""DeepSeek V3, V3.1, R1 and V3.2, Kimi K2, Moonlight, and GLM-4.7-Flash."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.models.deepseek_v2 import DeepseekV2
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LATENT, GGUFFamily

SOFTMAX, SIGMOID = 1, 2  # of expert_gating_func, in GGUF files
KEYS = {
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_gating_func": "expert_gating_func",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "leading_dense_block_count": "first_k_dense_replace",
}
NAMES = {
    "ffn_gate_inp": "mlp.gate",
    "exp_probs_b": "mlp.exp_probs_b",
    **{f"ffn_{part}_exps": f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")},
    **{f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
}


class DeepseekV3(DeepseekV2):
    """DeepSeek V2 whose experts are chosen by sigmoids, with biases that balance them (DeepSeek-AI 2024)."""

    architectures = ("DeepseekV3ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_v3", "kimi_k2")
    score = "sigmoid"

    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily(
            "deepseek2",
            "DeepseekV3ForCausalLM",
            layer=LATENT | NAMES,
            keys=KEYS,
            values={"experts_are_stacked": True, "expert_gating_func": SOFTMAX},
            latent=True,
        ),
    )

    def route(self, config: ConfigReader) -> dict[str, Any]:
        self.has_bias = config.integer("expert_gating_func", SIGMOID) == SIGMOID
        if not self.has_bias:  # a GGUF file of DeepSeek V2
            return {**super().route(config), "score": "softmax", **self.groups(config)}
        if (method := config.text("topk_method", "noaux_tc")) != "noaux_tc":
            raise config.fail("topk_method", f"{method!r} is not supported in this architecture, only 'noaux_tc'")
        normalise, factor = config.flag("norm_topk_prob", True), config.number("routed_scaling_factor", 2.5)
        found = {"score": self.score, "normalise": normalise, "factor": factor}
        return found | self.groups(config) | {"group_best": min(2, self.experts // config.integer("n_group", 1))}

    def bias(self, at: str) -> dict[str, str]:
        name = "exp_probs_b.bias" if self.config.flag("experts_are_stacked") else "gate.e_score_correction_bias"
        return {"choice_bias": f"{at}.{name}"} if self.has_bias else {}


class DeepseekV32(DeepseekV3):
    """The same, whose tokens look at `index_topk` others, which an indexer picks (DeepSeek-AI 2025).

    As many are all there are in contexts up to that length, which is where they end here.
    """

    architectures = ("DeepseekV32ForCausalLM",)
    model_types = ("deepseek_v32",)
    gguf = ()

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        plain = {"layer_types": None} if set(config.values.get("layer_types") or ()) == {"indexed_attention"} else {}
        super().__init__(ConfigReader({**config.values, **plain}, config.fail), max_model_len)
        most = self.config.integer("index_topk", 2048)
        if max_model_len is not None and max_model_len > most:
            raise config.fail(
                "index_topk", f"is {most}: longer contexts, as of {max_model_len} tokens, need an indexer"
            )
        self.max_positions = self.longest_positions = min(self.max_positions, most)

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, r"\.self_attn\.indexer\.")


class Glm4MoeLite(DeepseekV3):
    """DeepSeek V3 in another size (Z.ai 2026)."""

    architectures = ("Glm4MoeLiteForCausalLM",)
    model_types = ("glm4_moe_lite",)
    gguf = ()
    defaults = {"v_head_dim": 256, "first_k_dense_replace": 1}
