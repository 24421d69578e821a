"""gpt-oss: 20B and 120B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.graph import Rows, Weight
from octavo.graph.ops.rope import RopeTable
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

NAMES = {"post_attention_norm": "post_attention_layernorm", "attn_sinks.weight": "self_attn.sinks"}
LIMIT, ALPHA = 7.0, 1.702  # of the GLU


class GptOss(Mixture):
    """Biases everywhere, sinks, a window in every second layer, rows of gate and up that alternate (OpenAI 2025)."""

    architectures = ("GptOssForCausalLM",)
    model_types = ("gpt_oss",)
    fields = {"num_experts": "num_local_experts"}
    defaults = {
        "attention_bias": True,
        "head_dim": 64,
        "sliding_window": 128,
        "rope_theta": 150000.0,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
    }
    router_name = "router"
    router_bias = True
    gguf = (GGUFFamily("gpt-oss", layer=NAMES),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        for field, only in (("swiglu_limit", LIMIT), ("swiglu_alpha", ALPHA)):
            if self.config.number(field, only) != only:
                raise self.config.fail(field, f"only {only} is supported")
        self.activation = "swigluoai"

    def is_full(self, i: int) -> bool:
        return i % 2 == 1

    def rope(self, config: ConfigReader) -> RopeTable | None:
        """Unless it is said, the borders of YaRN's frequencies are not rounded."""
        exact = {
            field: {"truncate": False, **config.values[field]}
            for field in ("rope_scaling", "rope_parameters")
            if isinstance(config.values.get(field), dict)
        }
        return super().rope(ConfigReader({**config.values, **exact}, config.fail))

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"sinks": f"{at}.sinks"}

    def matrices(self, at: str) -> Mapping[str, list[Weight]]:
        if self.layout == "stacked":
            names = {part: f"{at}.experts.{part}_proj" for part in ("gate", "up", "down")}
            rows: dict[str, Rows | None] = dict.fromkeys(names)
        else:
            both, size = f"{at}.experts.gate_up_proj", self.expert_size
            names = {"gate": both, "up": both, "down": f"{at}.experts.down_proj"}
            rows = {"gate": Rows(size, 2, 0, 1), "up": Rows(size, 2, 1, 2), "down": None}
        inner = (self.expert_size, self.hidden)
        found = {}
        for part, name in names.items():
            shape = inner[::-1] if part == "down" else inner
            found[part] = self.stack(f"{name}.weight", shape, rows[part], self.layout == "transposed")
            found[f"{part}_bias"] = self.stack(f"{name}.bias", shape[:1], rows[part])
        return found
