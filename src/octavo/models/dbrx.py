"""DBRX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from octavo.graph import Graph, Node, Weight
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


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
    names = {
        "attn_norm": "norm_attn_norm.norm_1",
        "attention": "norm_attn_norm.attn",
        "attn_qkv": "Wqkv",
        "attn_output": "out_proj",
        "ffn_norm": "norm_attn_norm.norm_2",
        "mlp": "ffn",
        "ffn_gate": "w1",
        "ffn_up": "v1",
        "ffn_down": "w2",
    }
    is_layer_norm, norm_bias = True, False
    router_name = "router.layer"
    gguf = (
        GGUFFamily(
            "dbrx",
            layer={"attn_output_norm": "norm_attn_norm.norm_2"},
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

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return self.clipped(g, super().qkv(g, h, at))

    def matrices(self, at: str) -> Mapping[str, list[Weight]]:
        if self.layout != "apart":
            return super().matrices(at)
        inner, at = (self.expert_size, self.hidden), f"{at}.experts.mlp"
        return {
            "gate": self.stack(f"{at}.w1", inner),
            "up": self.stack(f"{at}.v1", inner),
            "down": self.stack(f"{at}.w2", inner[::-1], transposed=True),
        }
