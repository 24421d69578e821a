"""DBRX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node, Weight
from octavo.models.decoder import split
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import OUTER, GGUFFamily


class Dbrx(Mixture):
    """Layer norms without biases, q, k and v stored as one and clipped, experts below each other (Databricks 2024)."""

    architectures = ("DbrxForCausalLM",)
    fields = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "max_position_embeddings": "max_seq_len",
        "num_key_value_heads": "kv_n_heads",
        "intermediate_size": "ffn_hidden_size",
        "num_experts": "moe_num_experts",
        "num_experts_per_tok": "moe_top_k",
    }
    defaults = {"rms_norm_eps": 1e-5}
    embed_name = "transformer.wte"
    layers_name = "transformer.blocks"
    norm_name = "transformer.norm_f"
    moe_name = "ffn"
    router_name = "router.layer"
    expert_names = ("w1", "v1", "w2")
    gguf = (
        GGUFFamily(
            "dbrx",
            "DbrxForCausalLM",
            outer=dict(zip(OUTER, (embed_name, norm_name, "lm_head"), strict=True)),
            layer={
                "attn_norm": "norm_attn_norm.norm_1",
                "attn_qkv": "norm_attn_norm.attn.Wqkv",
                "attn_output": "norm_attn_norm.attn.out_proj",
                "attn_output_norm": "norm_attn_norm.norm_2",
                "ffn_gate_inp": "ffn.router.layer",
                "ffn_gate_exps": "ffn.experts.w1",
                "ffn_up_exps": "ffn.experts.v1",
                "ffn_down_exps": "ffn.experts.w2",
            },
            layers=layers_name,
            keys={"attention.clamp_kqv": "clip_qkv"},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        attention, experts = config.object("attn_config"), config.object("ffn_config")
        power = experts.values.get("moe_normalize_expert_weights", 1)
        if power not in (1, None):
            raise config.fail("ffn_config.moe_normalize_expert_weights", f"only 1 is supported, got {power!r}")
        act = experts.object("ffn_act_fn").text("name", "silu")
        said = {**attention.values, **experts.values, "hidden_act": act, "norm_topk_prob": power == 1}
        inner = {field: value for field, value in said.items() if field not in ("hidden_size", "model_type")}
        super().__init__(ConfigReader({**config.values, **inner}, config.fail), max_model_len)
        self.limit = self.config.number("clip_qkv") if self.config.values.get("clip_qkv") is not None else None

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps, bias=False)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        inner = f"{at}.norm_attn_norm"
        x = g.add(x, self.attention(g, self.norm(g, x, f"{inner}.norm_1"), i, f"{inner}.attn"))
        return g.add(x, self.feed_forward(g, self.norm(g, x, f"{inner}.norm_2"), i, at))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        found = split(g, h, f"{at}.Wqkv", [self.heads * self.head_dim, kv, kv])
        return found if self.limit is None else [g.clip(x, self.limit) for x in found]

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.out_proj", self.hidden)

    def matrices(self, at: str) -> Mapping[str, list[Weight]]:
        if self.layout != "apart":
            return super().matrices(at)
        inner, at = (self.expert_size, self.hidden), f"{at}.experts.mlp"
        return {
            "gate": self.stack(f"{at}.w1", inner),
            "up": self.stack(f"{at}.v1", inner),
            "down": self.stack(f"{at}.w2", inner[::-1], transposed=True),
        }
