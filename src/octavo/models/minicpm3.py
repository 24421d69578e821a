"""MiniCPM 3."""

from __future__ import annotations

from octavo.models.mla import LatentAttention
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class MiniCPM3(LatentAttention):
    """Latent attention, and three factors: of embeddings, of branches, by depth, and of logits, by a base width."""

    architectures = ("MiniCPM3ForCausalLM",)
    model_types = ("minicpm3",)
    defaults = {
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "kv_lora_rank": 256,
    }
    gguf = (GGUFFamily("minicpm3"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.embedding_scale = config.number("scale_emb", 12.0)
        self.residual_scale = config.number("scale_depth", 1.4) / self.layers**0.5
        self.logits_scale = config.integer("dim_model_base", 256) / self.hidden
