"""HyperCLOVA X SEED."""

from __future__ import annotations

from octavo.models.granite import Granite
from octavo.weights.config_reader import ConfigReader


class HyperClovaX(Granite):
    """Granite with norms behind the branches, too; logits are multiplied, not divided (Naver Cloud 2025)."""

    architectures = ("HyperCLOVAXForCausalLM",)
    model_types = ("hyperclovax",)
    names = {"post_attention_norm": "post_norm1", "post_ffw_norm": "post_norm2"}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.logits_scale = self.config.number("logits_scaling", 1.0)
        if not self.config.flag("use_post_norm", True):
            self.parts = Granite.parts
