"""GPT-NeoX, Pythia, Dolly v2, RedPajama-INCITE and StableLM-Alpha."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import OUTER, GGUFFamily, grouped_row_order


class GPTNeoX(Decoder):
    """Attention and MLP side by side, each with its layer norm; a quarter of each head rotated (Black et al. 2022)."""

    architectures = ("GPTNeoXForCausalLM",)
    model_types = ("gpt_neox",)
    fields = {"rms_norm_eps": "layer_norm_eps", "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    defaults = {"hidden_act": "gelu", "attention_bias": True, "rms_norm_eps": 1e-5}
    rotary_part = 0.25
    embed_name = "gpt_neox.embed_in"
    layers_name = "gpt_neox.layers"
    norm_name = "gpt_neox.final_layer_norm"
    head_name = "embed_out"
    gguf = (
        GGUFFamily(
            "gptneox",
            "GPTNeoXForCausalLM",
            outer=dict(zip(OUTER, (embed_name, norm_name, head_name), strict=True)),
            layer={
                "attn_norm": "input_layernorm",
                "attn_qkv": "attention.query_key_value",
                "attn_output": "attention.dense",
                "ffn_norm": "post_attention_layernorm",
                "ffn_up": "mlp.dense_h_to_4h",
                "ffn_down": "mlp.dense_4h_to_h",
            },
            layers=layers_name,
            keys={"use_parallel_residual": "use_parallel_residual"},
            values={"hidden_act": "gelu"},
            partial_rope=True,
            row_orders={
                "attn_qkv": lambda config: grouped_row_order(config["num_attention_heads"], (config["head_dim"],) * 3)
            },
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.is_parallel = self.config.flag("use_parallel_residual", True)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        y = g.add(x, self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.attention"))
        h = self.norm(g, x if self.is_parallel else y, f"{at}.post_attention_layernorm")
        return g.add(y, self.mlp(g, h, f"{at}.mlp"))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        sizes = [self.heads * self.head_dim] * 3
        return split(g, h, f"{at}.query_key_value", sizes, bias=self.qkv_bias, groups=self.heads)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden, self.o_bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.dense_h_to_4h", self.intermediate, True), self.activation)
        return g.linear(h, f"{at}.dense_4h_to_h", self.hidden, True)
