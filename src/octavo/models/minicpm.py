"""MiniCPM 1 and 2; the third has another attention."""

from __future__ import annotations

from octavo.models.granite import Granite
from octavo.weights.config_reader import ConfigReader


class MiniCPM(Granite):
    """Granite whose factors are said otherwise: by depth and by a base width (Hu et al. 2024)."""

    architectures = ("MiniCPMForCausalLM",)
    model_types = ("minicpm",)
    defaults = {"rms_norm_eps": 1e-5, "tie_word_embeddings": True}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        if config.values.get("num_experts"):
            raise config.fail("num_experts", "mixtures of experts are not supported")
        self.scale = self.head_dim**-0.5
        self.embedding_scale = config.number("scale_emb", 1.0)
        self.residual_scale = config.number("scale_depth", 1.0) / self.layers**0.5
        self.logits_scale = config.number("dim_model_base", self.hidden) / self.hidden
