"""Llama 2, 3 and 3.1+, and the models built like it: TinyLlama, SmolLM2, Yi, Mistral (sliding window)."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.base import CausalLM
from octavo.models.rope import longest_positions, rope_table
from octavo.weights.config_reader import ConfigReader


class Llama(CausalLM):
    """Pre-norm decoder with rotary positions, grouped-query attention and a SwiGLU MLP (Touvron et al. 2023)."""

    architectures = ("LlamaForCausalLM", "MistralForCausalLM", "YiForCausalLM")

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        self.hidden = config.integer("hidden_size")
        self.layers = config.integer("num_hidden_layers", high=4096)
        self.intermediate = config.integer("intermediate_size")
        self.heads = config.integer("num_attention_heads")
        self.kv_heads = config.integer("num_key_value_heads", self.heads)
        if self.heads % self.kv_heads:
            reason = f"must divide num_attention_heads, which is {self.heads}, got {self.kv_heads}"
            raise config.fail("num_key_value_heads", reason)
        self.head_dim = config.integer("head_dim", self.hidden // self.heads, high=1024)
        self.vocab_size = config.integer("vocab_size")
        self.max_positions = config.integer("max_position_embeddings", 2048, high=1 << 28)
        self.eps = config.number("rms_norm_eps", 1e-6, high=1.0)
        self.tied = config.flag("tie_word_embeddings")
        self.attention_bias = config.flag("attention_bias")
        self.mlp_bias = config.flag("mlp_bias")
        self.window = None
        if config.values.get("sliding_window") is not None:
            self.window = config.integer("sliding_window", high=1 << 28)
        if config.values.get("hidden_act", "silu") not in ("silu", "swish"):
            raise config.fail("hidden_act", f"only silu is known, got {config.values['hidden_act']!r}")
        self.longest_positions = longest_positions(config, self.max_positions)
        self.rope = rope_table(config, self.head_dim, self.max_positions, max_model_len or self.max_positions)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Old checkpoints store rotary frequencies; some store the tied table twice."""
        return (r"\.rotary_emb\.inv_freq$", r"^lm_head\.weight$") if self.tied else (r"\.rotary_emb\.inv_freq$",)

    def build(self) -> Graph:
        g = Graph()
        x = g.embed("model.embed_tokens", self.vocab_size, self.hidden)
        for i in range(self.layers):
            x = self.layer(g, x, i)
        x = g.rms_norm(x, "model.norm", self.eps)
        g.logits(x, "model.embed_tokens" if self.tied else "lm_head", self.vocab_size)
        return g

    def layer(self, g: Graph, x: Node, i: int) -> Node:
        at = f"model.layers.{i}"
        h = g.rms_norm(x, f"{at}.input_layernorm", self.eps)
        q = g.linear(h, f"{at}.self_attn.q_proj", self.heads * self.head_dim, self.attention_bias)
        k = g.linear(h, f"{at}.self_attn.k_proj", self.kv_heads * self.head_dim, self.attention_bias)
        v = g.linear(h, f"{at}.self_attn.v_proj", self.kv_heads * self.head_dim, self.attention_bias)
        q, k = g.rope(q, self.head_dim, self.rope), g.rope(k, self.head_dim, self.rope)
        scale = self.head_dim**-0.5
        h = g.attention(q, k, v, layer=i, head_dim=self.head_dim, scale=scale, window=self.window)
        x = g.add(x, g.linear(h, f"{at}.self_attn.o_proj", self.hidden, self.attention_bias))

        h = g.rms_norm(x, f"{at}.post_attention_layernorm", self.eps)
        gate = g.linear(h, f"{at}.mlp.gate_proj", self.intermediate, self.mlp_bias)
        up = g.linear(h, f"{at}.mlp.up_proj", self.intermediate, self.mlp_bias)
        return g.add(x, g.linear(g.glu(gate, up), f"{at}.mlp.down_proj", self.hidden, self.mlp_bias))
