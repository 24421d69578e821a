"""RoBERTa, XLM-RoBERTa, CamemBERT, Jina v3: BGE-M3, multilingual E5, all-distilroberta, paraphrase-multilingual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.models.encoders.encoder import TextEncoder
from octavo.models.encoders.heads import ROBERTA_HEADS
from octavo.models.encoders.masked import ROBERTA
from octavo.models.rope import rope_table
from octavo.weights.config_reader import ConfigReader

# The parts as flash-attention's BERT calls them.
FLASH = {
    "embed_norm": "emb_ln",
    "layers": "encoder.layers",
    "attn_qkv": "mixer.Wqkv",
    "attn_output": "mixer.out_proj",
    "attn_norm": "norm1",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
    "ffn_norm": "norm2",
}


class Roberta(TextEncoder):
    """BERT whose positions are counted from behind the padding token's number (Liu et al. 2019)."""

    architectures: ClassVar[tuple[str, ...]] = (
        "RobertaModel", "RobertaForMaskedLM", "CamembertModel", "CamembertForMaskedLM",
    )  # fmt: skip
    base_name: ClassVar[str] = "roberta"
    known_heads = ROBERTA_HEADS
    masked_head = ROBERTA

    def first_position(self) -> int:
        return self.config.integer("pad_token_id", 1, low=0) + 1


class XLMRoberta(Roberta):
    """RoBERTa in a hundred languages (Conneau et al. 2020), and Jina's, v3 with rotary positions (Sturua et al. 2024).

    That has adapters for each of its tasks: see `octavo.weights.adapters`.
    """

    architectures = ("XLMRobertaModel", "XLMRobertaForMaskedLM", "JinaEmbeddingsV3Model", "JinaEmbeddingsV3ForMaskedLM")
    fields: ClassVar[Mapping[str, str]] = {"rope_theta": "rotary_emb_base"}
    position_types = ("absolute", "rotary")

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        kinds = config.values.get("position_embedding_type"), config.values.get("model_type")
        self.is_rotary = "rotary" in kinds or "jina_embeddings_v3" in kinds
        if self.is_rotary or "use_flash_attn" in config.values:
            self.parts = {**self.parts, **FLASH}
        if self.is_rotary:
            self.parts = {**self.parts, "position": ""}
            config = config.renamed({}, {"layer_norm_eps": 1e-5, "rotary_emb_base": 20000.0})
        super().__init__(config, max_model_len)
        if self.is_rotary:
            self.pooling = self.config.text("emb_pooler", self.pooling)
            self.ropes = [rope_table(self.config, self.head_dim, self.max_positions, self.max_model_len)] * self.layers

    def first_position(self) -> int:
        return 0 if self.is_rotary else super().first_position()
