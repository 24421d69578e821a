"""MPT 1B to 30B, and those that are built like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.graph import Graph, Node
from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class MPT(Decoder):
    """Positions by slopes (ALiBi), layer norms, no biases, an MLP without a gate (MosaicML 2023)."""

    architectures = ("MPTForCausalLM", "MptForCausalLM")
    model_types = ("mpt",)
    fields = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
        "rms_norm_eps": "layer_norm_epsilon",
    }
    defaults = {"hidden_act": "gelu", "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    embed_name = "transformer.wte"
    layers_name = "transformer.blocks"
    norm_name = "transformer.norm_f"
    has_rope = False
    is_layer_norm, norm_bias = True, False
    names = {
        "attn_norm": "norm_1",
        "attention": "attn",
        "attn_qkv": "Wqkv",
        "attn_output": "out_proj",
        "ffn_norm": "norm_2",
        "mlp": "ffn",
        "ffn_gate": "",
    }
    gguf = (GGUFFamily("mpt", keys={"attention.max_alibi_bias": "alibi_bias_max", "attention.clamp_kqv": "clip_qkv"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        named = config.renamed(self.fields, self.defaults)
        width = named.integer("expansion_ratio", 4) * named.integer("hidden_size")
        super().__init__(ConfigReader({**config.values, "intermediate_size": width}, config.fail), max_model_len)
        attention = self.config.object("attn_config")
        self._check(attention)
        said = config if "alibi_bias_max" in config.values or "clip_qkv" in config.values else attention
        self.qkv_limit = said.number("clip_qkv") if said.values.get("clip_qkv") else None
        self.slopes = alibi_slopes(self.heads, said.number("alibi_bias_max", 8.0))
        if attention.values.get("softmax_scale") is not None:
            self.scale = attention.number("softmax_scale")

    def _check(self, attention: ConfigReader) -> None:
        only = {"alibi": True, "qk_ln": False, "prefix_lm": False, "attn_uses_sequence_id": False}
        for reader, field, expected in (
            *((attention, field, expected) for field, expected in only.items()),
            (self.config, "no_bias", True),
        ):
            if reader.flag(field, expected) != expected:
                raise reader.fail(field, f"only {str(expected).lower()} is supported")
        if (kind := attention.text("attn_type", "multihead_attention")) != "multihead_attention":
            raise attention.fail("attn_type", f"{kind!r} is not supported, only multihead_attention")
        if self.config.values.get("logit_scale") is not None:
            raise self.config.fail("logit_scale", "is not supported")

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"slopes": self.slopes}

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return self.clipped(g, super().qkv(g, h, at))
