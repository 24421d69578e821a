"""Nomic Embed v1, v1.5 and v2-MoE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph, Node, Weight
from octavo.models.encoders.encoder import TextEncoder
from octavo.models.encoders.masked import NOMIC
from octavo.models.rope import rope_table
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class NomicBert(TextEncoder):
    """BERT with rotary positions and a gated MLP, without biases but those of norms (Nussbaum et al. 2024).

    v2 has an MLP without a gate, biases, and experts in every other layer, whose shares don't sum up to 1 (Nussbaum and
    Duderstadt 2025).
    """

    architectures: ClassVar[tuple[str, ...]] = ("NomicBertModel", "NomicBertForMaskedLM", "NomicBertForPreTraining")
    fields: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "max_trained_positions",
        "layer_norm_eps": "layer_norm_epsilon",
        "rope_theta": "rotary_emb_base",
        "attention_bias": "qkv_proj_bias",
        "mlp_bias": "mlp_fc1_bias",
    }
    defaults: ClassVar[Mapping[str, object]] = {
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "classifier_bias": True,
    }
    needs: ClassVar[Mapping[str, object]] = {  # what the older form of its configuration has to say
        "prenorm": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "parallel_block": False,
        "moe_normalize_expert_weights": False,
        "expert_choice_router": False,
        "num_shared_experts": 0,
        "ffn_div": 1,
    }
    bias = False
    masked_head = NOMIC
    gguf = (
        GGUFFamily("nomic-bert"),
        GGUFFamily(
            "nomic-bert-moe",
            layer={
                "ffn_up": "mlp.fc1",
                "ffn_gate_inp": "mlp.router.layer",
                "ffn_up_exps.weight": "mlp.experts.mlp.w1",
                "ffn_down_exps.weight": "mlp.experts.mlp.w2",
            },
            keys={"expert_used_count": "moe_top_k", "moe_every_n_layers": "moe_every_n_layers"},
            values={"activation_function": "gelu", "experts_are_stacked": True},  # without their common bias
        ),
    )
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
        "experts": "mlp.experts",
        "router": "mlp.router.layer",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        for field, wanted in self.needs.items():
            if config.values.get(field) not in (None, wanted):
                raise config.fail(field, f"only {wanted!r} is known here, got {config.values[field]!r}")
        kind = config.text("activation_function", "swiglu")
        if kind != "swiglu":
            self.parts = {**self.parts, "ffn_gate": "", "ffn_up": "mlp.fc1"}
            config = ConfigReader({**config.values, "hidden_act": kind}, config.fail)
        super().__init__(config, max_model_len)
        config = self.config
        if config.flag("mlp_fc2_bias", self.mlp_bias) != self.mlp_bias:
            raise config.fail("mlp_fc2_bias", f"must be {self.mlp_bias}, as the bias of fc1 is")
        self.experts = config.integer("num_experts", 0, low=0, high=1024)
        self.top_k = config.integer("moe_top_k", 1, high=max(1, self.experts))
        self.every = config.integer("moe_every_n_layers", 1) if self.experts else 0
        theta = {"rope_theta": config.number("rope_theta", 1000.0)}
        config = ConfigReader({**config.values, **theta}, config.fail)
        self.ropes = [rope_table(config, self.head_dim, self.max_positions, self.max_model_len)] * self.layers

    def mlp(self, g: Graph, x: Node, i: int) -> Node:
        return self.mixture(g, x, i) if self.every and i % self.every == 1 else super().mlp(g, x, i)

    def mixture(self, g: Graph, x: Node, i: int) -> Node:
        logits = g.linear(x, self.at("router", i), self.experts)
        routes = g.route(logits, self.top_k, normalise=False)
        at, inner = self.at("experts", i), (self.intermediate, self.hidden)
        each = range(self.experts)
        gate = [Weight(f"{at}.mlp.w1", inner, expert=e) for e in each]
        stacked = self.config.flag("experts_are_stacked")
        down = [Weight(f"{at}.mlp.w2", inner[::-1], transposed=not stacked, expert=e) for e in each]
        how = {"top_k": self.top_k, "kind": self.activation, "bias": None if stacked else f"{at}.bias"}
        return g.experts(x, routes, gate, (), down, **how)
