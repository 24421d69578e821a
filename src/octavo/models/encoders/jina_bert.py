"""Jina v2: small, base, and those for code and for German, Spanish and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.graph import Graph, Node
from octavo.models.alibi import alibi_slopes
from octavo.models.encoders.encoder import TextEncoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

QK_POST_NORM = {  # what jina-bert-v2-qk-post-norm has otherwise
    "attn_q_norm": "attention.self.layer_norm_q",
    "attn_k_norm": "attention.self.layer_norm_k",
    "attn_norm_2": "layer_norm_1",
    "ffn_gate_up": "",
    "ffn_up_gate": "mlp.up_gated_layer",
    "ffn_down": "mlp.down_layer",
    "ffn_norm": "layer_norm_2",
}


class JinaBert(TextEncoder):
    """BERT with slopes (ALiBi) to both sides in place of positions, and a gated MLP (Guenther et al. 2023).

    In some, all of q and all of k have norms, and what attention's norm makes is added to its input once more.
    """

    architectures: ClassVar[tuple[str, ...]] = ("JinaBertModel", "JinaBertForMaskedLM")
    pooling = "mean"
    gate_bias = False
    position_types = ("alibi",)
    gguf = (GGUFFamily("jina-bert-v2", values={"mlp_bias": True}),)
    names = {
        "position": "",
        "attn_norm_2": "",
        "ffn_gate_up": "mlp.gated_layers",
        "ffn_down": "mlp.wo",
        "ffn_norm": "mlp.layernorm",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if "qk-post-norm" in str(config.values.get("auto_map")):
            self.parts = {**self.parts, **QK_POST_NORM}
        kinds = {"geglu": "gelu", "reglu": "relu"}
        kind = config.text("feed_forward_type", "geglu")
        if kind not in kinds:
            raise config.fail("feed_forward_type", f"{kind!r:.80} is not known; {' and '.join(kinds)} are")
        super().__init__(ConfigReader({**config.values, "hidden_act": kinds[kind]}, config.fail), max_model_len)

    def scoring(self, i: int) -> Mapping[str, Any]:
        return {**super().scoring(i), "slopes": alibi_slopes(self.heads)}

    def layer(self, g: Graph, x: Node, i: int) -> Node:
        h = self.norm(g, g.add(x, self.attention(g, x, i)), self.at("attn_norm", i))
        if self.parts["attn_norm_2"]:
            h = self.norm(g, g.add(x, h), self.at("attn_norm_2", i))
        return self.norm(g, g.add(h, self.mlp(g, h, i)), self.at("ffn_norm", i))
