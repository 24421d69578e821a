"""GLM-4-9B, GLM-4-0414 and GLM-Edge as transformers has them, and ChatGLM2, 3 and GLM-4-9B in their authors' form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Glm(Decoder):
    """Llama with biases on q, k and v, half of each head rotated in neighbouring pairs, and gate and up stored as one.

    Source: Zeng et al. 2024.
    """

    architectures: ClassVar[tuple[str, ...]] = ("GlmForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("glm",)
    defaults: ClassVar[Mapping[str, object]] = {
        "attention_bias": True,
        "attention_out_bias": False,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-7,
    }
    rotary_part = 0.5
    interleaved = True
    names = {"ffn_gate_up": "gate_up_proj"}


class Glm4(Glm):
    """GLM-4-0414 and GLM-Z1: with norms behind each branch, too."""

    architectures: ClassVar[tuple[str, ...]] = ("Glm4ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("glm4", "glm4v_text")
    names = {"post_attention_norm": "post_self_attn_layernorm", "post_ffw_norm": "post_mlp_layernorm"}
    gguf = (GGUFFamily("glm4"),)


class GlmOcr(Glm4):
    """The text part of GLM-OCR: GLM-4 without biases."""

    architectures = ("GlmOcrTextModel",)
    model_types = ("glm_ocr_text",)
    defaults = {**Glm.defaults, "attention_bias": False}
    rotary_part = 1.0


class ChatGlm(Glm):
    """The same, with q, k and v stored as one, too."""

    architectures = ("ChatGLMModel", "ChatGLMForConditionalGeneration")
    model_types = ("chatglm",)
    fields = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "ffn_hidden_size",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
        "vocab_size": "padded_vocab_size",
        "max_position_embeddings": "seq_length",
        "rms_norm_eps": "layernorm_epsilon",
        "attention_bias": "add_qkv_bias",
    }
    defaults = {"attention_out_bias": False, "rms_norm_eps": 1e-5}
    embed_name = "transformer.embedding.word_embeddings"
    layers_name = "transformer.encoder.layers"
    norm_name = "transformer.encoder.final_layernorm"
    head_name = "transformer.output_layer"
    names = {
        "attention": "self_attention",
        "attn_qkv": "query_key_value",
        "attn_output": "dense",
        "ffn_gate_up": "dense_h_to_4h",
        "ffn_down": "dense_4h_to_h",
    }
    gguf = (GGUFFamily("chatglm"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        ratio = config.number("rope_ratio", 1.0)
        super().__init__(config.renamed({}, {"rope_theta": 10000.0 * ratio}), max_model_len)
        for field, only in (("multi_query_attention", True), ("rmsnorm", True), ("post_layer_norm", True)):
            if config.flag(field, only) is not only:
                raise config.fail(field, f"only {only} is known")
        for field in ("add_bias_linear", "apply_residual_connection_post_layernorm", "pre_seq_len"):
            if config.values.get(field):
                raise config.fail(field, f"{config.values[field]!r} is not supported")

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, r"\.rotary_pos_emb\.inv_freq$")
