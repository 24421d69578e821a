"""GLM-4-9B and GLM-Edge as transformers has them, and ChatGLM2, 3 and GLM-4-9B in their authors' own form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import OUTER, GGUFFamily


class Glm(Decoder):
    """Llama with biases on q, k and v, half of each head rotated in neighbouring pairs, and gate and up stored as one.

    Source: Zeng et al. 2024.
    """

    architectures: ClassVar[tuple[str, ...]] = ("GlmForCausalLM",)
    model_types = ("glm",)
    defaults = {"attention_bias": True, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7}
    rotary_part = 0.5
    interleaved = True

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.o_bias = False

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = split(g, h, f"{at}.gate_up_proj", [self.intermediate] * 2)
        return g.linear(g.glu(gate, up, self.activation), f"{at}.down_proj", self.hidden)


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
    defaults = {"rms_norm_eps": 1e-5}
    embed_name = "transformer.embedding.word_embeddings"
    layers_name = "transformer.encoder.layers"
    norm_name = "transformer.encoder.final_layernorm"
    head_name = "transformer.output_layer"
    gguf = (
        GGUFFamily(
            "chatglm",
            "ChatGLMModel",
            outer=dict(zip(OUTER, (embed_name, norm_name, head_name), strict=True)),
            layer={
                "attn_norm": "input_layernorm",
                "attn_qkv": "self_attention.query_key_value",
                "attn_output": "self_attention.dense",
                "ffn_norm": "post_attention_layernorm",
                "ffn_up": "mlp.dense_h_to_4h",
                "ffn_down": "mlp.dense_4h_to_h",
            },
            layers=layers_name,
            partial_rope=True,
        ),
    )

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

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attention"))
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp"))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        return split(g, h, f"{at}.query_key_value", [self.heads * self.head_dim, kv, kv], bias=self.qkv_bias)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = split(g, h, f"{at}.dense_h_to_4h", [self.intermediate] * 2)
        return g.linear(g.glu(gate, up), f"{at}.dense_4h_to_h", self.hidden)
