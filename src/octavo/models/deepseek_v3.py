"""DeepSeek V3, V3.1, R1 and V3.2, Kimi K2, Moonlight, and GLM-4.7-Flash."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.graph import Graph, Node, Weight
from octavo.models.deepseek_v2 import DeepseekV2
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class DeepseekV3(DeepseekV2):
    """DeepSeek V2 whose experts are chosen by sigmoids, with biases that balance them (DeepSeek-AI 2024)."""

    architectures = ("DeepseekV3ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_v3", "kimi_k2")
    defaults: ClassVar[dict[str, object]] = {**DeepseekV2.defaults, "routed_scaling_factor": 2.5}
    choice_bias = "gate.e_score_correction_bias"
    gguf = (GGUFFamily("deepseek2"),)

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        is_file = self.layout == "stacked"  # GGUF, which says it where it is not DeepSeek V2
        if config.text("scoring_func", "softmax" if is_file else "sigmoid") == "softmax":
            as_second = {"scoring_func": "softmax", "topk_method": "group_limited_greedy"}
            return super().routes(ConfigReader({**config.values, **as_second}, config.fail))
        if (method := config.text("topk_method", "noaux_tc")) != "noaux_tc":
            raise config.fail("topk_method", f"{method!r} is not supported in this architecture, only 'noaux_tc'")
        return Mixture.routes(self, config.renamed({}, {"scoring_func": "sigmoid", "norm_topk_prob": True}))

    def added(self, at: str) -> Weight | None:
        return super().added(at) if self.routing["score"] == "sigmoid" else None


class DeepseekV32(DeepseekV3):
    """The same, whose tokens look at `index_topk` others, which an indexer picks (DeepSeek-AI 2025).

    As many are all there are in contexts up to that length, which is where they end here.
    """

    architectures = ("DeepseekV32ForCausalLM",)
    model_types = ("deepseek_v32",)

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


class GlmMoeDsa(DeepseekV32):
    """GLM-5: DeepSeek V3.2 in another size (Z.ai 2026)."""

    architectures = ("GlmMoeDsaForCausalLM",)
    model_types = ("glm_moe_dsa",)
    defaults = {**DeepseekV32.defaults, "first_k_dense_replace": 3}


class AXK1(DeepseekV3):
    """DeepSeek V3 with a norm behind its experts (SK Telecom 2026)."""

    architectures = ("AXK1ForCausalLM",)
    model_types = ("axk1",)

    def feed_forward(self, g: Graph, h: Node, i: int, at: str) -> Node:
        made = super().feed_forward(g, h, i, at)
        return self.norm(g, made, f"{at}.post_mlp_layernorm") if self.is_sparse(i) else made


class Glm4MoeLite(DeepseekV3):
    """DeepSeek V3 in another size (Z.ai 2026)."""

    architectures = ("Glm4MoeLiteForCausalLM",)
    model_types = ("glm4_moe_lite",)
    defaults = {**DeepseekV3.defaults, "v_head_dim": 256, "first_k_dense_replace": 1}
