"""Multi-head latent attention: what the DeepSeek family and those built like it have in common."""

from __future__ import annotations

from dataclasses import replace

from octavo.graph import Graph, Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.decoder import Decoder, split
from octavo.models.rope import rope_table, score_scale
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

# What attention has in place of k and v, by GGUF's names; a file has the last two apart, or as one.
LATENT = {
    "attn_q_a": "q_a_proj",
    "attn_q_a_norm": "q_a_layernorm",
    "attn_q_b": "q_b_proj",
    "attn_kv_a_mqa": "kv_a_proj_with_mqa",
    "attn_kv_a_norm": "kv_a_layernorm",
    "attn_kv_b": "kv_b_proj",
    "attn_k_b": "k_b_proj",
    "attn_v_b": "v_b_proj",
}
LATENT_EPS = 1e-6  # of the norms of latent rows, whatever rms_norm_eps is


class LatentAttention(Decoder):
    """Llama whose queries, and keys with values, are made of narrow rows (DeepSeek-AI 2024).

    A head of a key is what all heads share, which alone has positions, and what its own rows make of the latent one.
    The cache has keys and values of all heads. A head's columns with positions come first here, which changes nothing.
    """

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        named = config.renamed(self.fields, self.defaults)
        self.rotated = named.integer("qk_rope_head_dim", 64, high=512)
        self.plain = named.integer("qk_nope_head_dim", 128, high=512)
        super().__init__(config, max_model_len)
        config = self.config
        self.head_dim, self.kv_heads = self.rotated + self.plain, self.heads
        self.value_dim = config.integer("v_head_dim", self.hidden // self.heads, high=1024)
        self.q_rank = None if config.values.get("q_lora_rank") is None else config.integer("q_lora_rank")
        self.kv_rank = config.integer("kv_lora_rank", 512)
        self.scale = self.head_dim**-0.5 * score_scale(config)

    @classmethod
    def completed(cls, family: GGUFFamily) -> GGUFFamily:
        return replace(super().completed(family), latent=True)

    @classmethod
    def gguf_names(cls) -> dict[str, str]:
        return super().gguf_names() | {part: f"{cls.parts['attention']}.{name}" for part, name in LATENT.items()}

    def rope(self, config: ConfigReader) -> RopeTable | None:
        interleaved = config.flag("rope_interleave", self.interleaved)
        return rope_table(config, self.rotated, self.max_positions, self.max_model_len, interleaved)

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        latent, name = h, f"{at}.q_proj"
        if self.q_rank is not None:
            latent, name = g.linear(h, f"{at}.q_a_proj", self.q_rank, self.qkv_bias), f"{at}.q_b_proj"
            latent = g.rms_norm(latent, f"{at}.q_a_layernorm", LATENT_EPS)
        plain, rotated = self.heads * self.plain, self.heads * self.rotated
        q_plain, q_rotated = split(g, latent, name, [plain, rotated], groups=self.heads)
        parts = [self.kv_rank, self.rotated]
        latent, k_rotated = split(g, h, f"{at}.kv_a_proj_with_mqa", parts, bias=self.qkv_bias)
        latent = g.rms_norm(latent, f"{at}.kv_a_layernorm", LATENT_EPS)
        k_plain, v = self.keys_and_values(g, latent, at)
        q = g.join(q_rotated, q_plain, self.rotated, self.plain)
        k = g.join(k_rotated, k_plain, self.rotated, self.plain)
        q, k = self.positions(g, q, k, i, at)
        how = {"head_dim": self.head_dim, "value_dim": self.value_dim, "scale": self.scale}
        return self.project(g, g.attention(q, k, v, layer=i, **how), at)

    def keys_and_values(self, g: Graph, latent: Node, at: str) -> tuple[Node, Node]:
        sizes = [self.heads * self.plain, self.heads * self.value_dim]
        if self.config.flag("kv_b_apart"):  # as GGUF files have them
            return g.linear(latent, f"{at}.k_b_proj", sizes[0]), g.linear(latent, f"{at}.v_b_proj", sizes[1])
        k, v = split(g, latent, f"{at}.kv_b_proj", sizes, groups=self.heads)
        return k, v
