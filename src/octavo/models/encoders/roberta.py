"""RoBERTa, XLM-RoBERTa and CamemBERT: BGE-M3, multilingual E5, all-distilroberta, paraphrase-multilingual."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.encoders.encoder import TextEncoder


class Roberta(TextEncoder):
    """BERT whose positions are counted from behind the padding token's number (Liu et al. 2019)."""

    architectures: ClassVar[tuple[str, ...]] = ("RobertaModel", "RobertaForMaskedLM", "CamembertModel")
    base_name: ClassVar[str] = "roberta"

    def first_position(self) -> int:
        return self.config.integer("pad_token_id", 1, low=0) + 1


class XLMRoberta(Roberta):
    """RoBERTa in a hundred languages (Conneau et al. 2020)."""

    architectures = ("XLMRobertaModel", "XLMRobertaForMaskedLM")
