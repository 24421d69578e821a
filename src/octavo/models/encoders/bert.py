"""BERT and what is built like it: MiniLM, BGE v1.5, E5, GTE, all-MiniLM; DistilBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.models.encoders.encoder import COLBERT_GGUF, COLBERT_KEYS, HEAD_GGUF, TextEncoder
from octavo.models.encoders.heads import DISTILBERT_HEADS
from octavo.models.encoders.masked import DISTILBERT, MaskedHead
from octavo.weights.gguf_family import GGUFFamily


class Bert(TextEncoder):
    """Learned positions and segments, a layer norm behind each sum, an MLP without a gate (Devlin et al. 2019)."""

    architectures: ClassVar[tuple[str, ...]] = ("BertModel", "BertForMaskedLM")
    masked_head = MaskedHead()
    # Also of RoBERTa and DistilBERT: positions begin with the first row.
    gguf = (GGUFFamily("bert", outer=COLBERT_GGUF | HEAD_GGUF, keys=COLBERT_KEYS),)


class DistilBert(TextEncoder):
    """BERT of half as many layers, without segments (Sanh et al. 2019)."""

    architectures = ("DistilBertModel", "DistilBertForMaskedLM")
    fields: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }
    base_name = "distilbert"
    known_heads = DISTILBERT_HEADS
    masked_head = DISTILBERT
    names = {
        "segment": "",
        "layers": "transformer.layer",
        "attn_q": "attention.q_lin",
        "attn_k": "attention.k_lin",
        "attn_v": "attention.v_lin",
        "attn_output": "attention.out_lin",
        "attn_norm": "sa_layer_norm",
        "ffn_up": "ffn.lin1",
        "ffn_down": "ffn.lin2",
        "ffn_norm": "output_layer_norm",
    }
