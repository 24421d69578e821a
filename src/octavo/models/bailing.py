"""Ling and Ring, of both versions, whose architecture is called Bailing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import split
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import EXPERTS, LAYER, OUTER, SHARED, GGUFFamily

NAMES = {name: ours for name, ours in LAYER.items() if not name.startswith("attn_")} | EXPERTS | SHARED
NAMES |= {
    "attn_norm": "input_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "attn_q_norm": "attention.query_layernorm",
    "attn_k_norm": "attention.key_layernorm",
    "exp_probs_b.bias": "mlp.gate.expert_bias",
}


class BailingMoe(Mixture):
    """Llama whose q, k and v are stored as one, with DeepSeek-MoE's experts (Ling Team 2025)."""

    architectures: ClassVar[tuple[str, ...]] = ("BailingMoeForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("bailing_moe",)
    fields = {
        "attention_bias": "use_qkv_bias",
        "n_shared_experts": "num_shared_experts",
        "scoring_func": "score_function",
    }
    embed_name = "model.word_embeddings"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.o_bias = self.config.flag("use_bias")
        self.has_head_norms = self.config.flag("use_qk_norm")
        if self.config.flag("norm_head"):
            raise self.config.fail("norm_head", "a normalised matrix of logits is not supported in this architecture")

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.attention"))
        return g.add(x, self.feed_forward(g, self.norm(g, x, f"{at}.post_attention_layernorm"), i, at))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        return split(g, h, f"{at}.query_key_value", [self.heads * self.head_dim, kv, kv], bias=self.qkv_bias)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.has_head_norms:
            q = g.rms_norm(q, f"{at}.query_layernorm", self.eps, width=self.head_dim)
            k = g.rms_norm(k, f"{at}.key_layernorm", self.eps, width=self.head_dim)
        return super().positions(g, q, k, i, at)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden, self.o_bias)


class BailingMoeV2(BailingMoe):
    """The same with norms of the heads of q and k, half of each rotated, and DeepSeek-V3's experts."""

    architectures = ("BailingMoeV2ForCausalLM",)
    model_types = ("bailing_moe_v2",)
    defaults = {"use_qk_norm": True}
    rotary_part = 1.0
    score = "sigmoid"
    choice_bias = "gate.expert_bias"
    gguf = (
        GGUFFamily(
            "bailingmoe2",
            "BailingMoeV2ForCausalLM",
            outer=OUTER | {"token_embd": BailingMoe.embed_name},
            layer=NAMES,
            partial_rope=True,
        ),
    )
