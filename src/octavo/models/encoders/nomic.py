"""Nomic Embed v1 and v1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.models.encoders.encoder import TextEncoder
from octavo.models.rope import rope_table
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class NomicBert(TextEncoder):
    """BERT with rotary positions and a gated MLP, without biases but those of norms (Nussbaum et al. 2024)."""

    architectures: ClassVar[tuple[str, ...]] = ("NomicBertModel",)
    fields: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "max_trained_positions",
        "layer_norm_eps": "layer_norm_epsilon",
        "rope_theta": "rotary_emb_base",
    }
    defaults: ClassVar[Mapping[str, object]] = {"hidden_act": "silu", "max_position_embeddings": 2048}
    needs: ClassVar[Mapping[str, object]] = {  # what the older form of its configuration has to say
        "activation_function": "swiglu",
        "prenorm": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "parallel_block": False,
        "num_experts": 0,
    }
    bias = False
    gguf = (GGUFFamily("nomic-bert"),)
    position_types = ("rope", "rotary", "absolute")
    base_name = "nomic_bert"
    names = {
        "position": "",
        "embed_norm": "emb_ln",
        "layers": "encoder.layers",
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "attn_norm": "norm1",
        "ffn_gate": "mlp.fc12",
        "ffn_up": "mlp.fc11",
        "ffn_down": "mlp.fc2",
        "ffn_norm": "norm2",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        for field, wanted in self.needs.items():
            if config.values.get(field) not in (None, wanted):
                raise config.fail(field, f"only {wanted!r} is known here, got {config.values[field]!r}")
        super().__init__(config, max_model_len)
        theta = {"rope_theta": self.config.number("rope_theta", 1000.0)}
        config = ConfigReader({**self.config.values, **theta}, self.config.fail)
        self.ropes = [rope_table(config, self.head_dim, self.max_positions, self.max_model_len)] * self.layers
