"""ModernBERT: gte-modernbert, granite-embedding R2, modernbert-embed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder, full_layers
from octavo.models.encoders.encoder import COLBERT_GGUF, COLBERT_KEYS, GGUF_NAMES, TextEncoder
from octavo.models.encoders.heads import modernbert_heads
from octavo.models.encoders.masked import MODERNBERT
from octavo.models.rope import for_layers, rope_table
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class ModernBert(TextEncoder):
    """Norms before the branches, rotary positions, a gated MLP, and a window in two of three layers.

    Source: Warner et al. 2024.
    """

    architectures: ClassVar[tuple[str, ...]] = ("ModernBertModel", "ModernBertForMaskedLM")
    fields: ClassVar[Mapping[str, str]] = {"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"}
    defaults: ClassVar[Mapping[str, object]] = {
        "norm_bias": False,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    }
    bias = False
    is_pre_norm = True
    base_name = "model"
    masked_head = MODERNBERT
    names = {
        "word": "embeddings.tok_embeddings",
        "position": "",
        "segment": "",
        "embed_norm": "embeddings.norm",
        "layers": "layers",
        "attn_norm": "attn_norm",
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.Wo",
        "ffn_norm": "mlp_norm",
        "ffn_gate_up": "mlp.Wi",
        "ffn_down": "mlp.Wo",
        "final_norm": "final_norm",
    }
    gguf_names = GGUF_NAMES | {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}
    gguf = (
        GGUFFamily(
            "modern-bert",
            outer={**COLBERT_GGUF, "cls": "head.dense", "cls.norm": "head.norm", "cls.output": "classifier"},
            keys={
                **COLBERT_KEYS,
                "attention.sliding_window": "local_attention",
                "attention.sliding_window_pattern": "global_attn_every_n_layers",
                "rope.freq_base": "global_rope_theta",
                "rope.freq_base_swa": "local_rope_theta",
                "hidden_activation": "hidden_activation",
            },
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.known_heads = modernbert_heads(config, self.eps)
        every = config.integer("global_attn_every_n_layers", 3)
        reach = config.integer("local_attention", 128) // 2 + 1
        full = full_layers(config, self.layers, lambda i: i % every == 0, Decoder.kinds)
        self.windows = [None if is_full else reach for is_full in full]
        sizes = self.head_dim, self.max_positions, self.max_model_len
        names = {True: ("full_attention", "global_rope_theta"), False: ("sliding_attention", "local_rope_theta")}
        tables = {
            is_full: rope_table(for_layers(config, kind, config.number(theta)), *sizes)
            for is_full, (kind, theta) in names.items()
        }
        self.ropes = [tables[is_full] for is_full in full]

    def branch(self, g: Graph, x: Node, norm: str, i: int) -> Node:
        is_first = i == 0 and norm == "attn_norm"  # which has that of the embeddings
        return x if is_first else super().branch(g, x, norm, i)
