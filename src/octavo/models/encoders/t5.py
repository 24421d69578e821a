"""The encoders of T5: Sentence-T5, GTR, Instructor's base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.graph import Graph, Node
from octavo.models.encoders.encoder import TextEncoder
from octavo.models.encoders.mpnet import buckets_of
from octavo.weights.config_reader import ConfigReader

PROJECTIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}


class T5Encoder(TextEncoder):
    """RMS norms before the branches, no biases, scores that are not scaled but have biases by distance.

    Those of the first layer are those of all. Source: Raffel et al. 2020.
    """

    architectures: ClassVar[tuple[str, ...]] = ("T5EncoderModel", "MT5EncoderModel")
    fields: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "head_dim": "d_kv",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "layer_norm_eps": "layer_norm_epsilon",
        "max_position_embeddings": "n_positions",
    }
    defaults: ClassVar[Mapping[str, object]] = {"layer_norm_eps": 1e-6}
    pooling = "mean"
    bias = False
    is_pre_norm = True
    base_name = "transformer"
    names = {
        "word": "shared",
        "position": "",
        "segment": "",
        "embed_norm": "",
        "layers": "encoder.block",
        "attn_q": "layer.0.SelfAttention.q",
        "attn_k": "layer.0.SelfAttention.k",
        "attn_v": "layer.0.SelfAttention.v",
        "attn_output": "layer.0.SelfAttention.o",
        "attn_norm": "layer.0.layer_norm",
        "ffn_up": "layer.1.DenseReluDense.wi",
        "ffn_down": "layer.1.DenseReluDense.wo",
        "ffn_norm": "layer.1.layer_norm",
        "final_norm": "encoder.final_layer_norm",
        "biases": "layer.0.SelfAttention.relative_attention_bias",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        kind = config.text("feed_forward_proj", "relu")
        if kind not in PROJECTIONS:
            raise config.fail("feed_forward_proj", f"{kind!r:.80} is not known; known are {', '.join(PROJECTIONS)}")
        if kind.startswith("gated"):
            mlp = "layer.1.DenseReluDense"
            self.parts = {**self.parts, "ffn_gate": f"{mlp}.wi_0", "ffn_up": f"{mlp}.wi_1"}
        super().__init__(ConfigReader({**config.values, "hidden_act": PROJECTIONS[kind]}, config.fail), max_model_len)
        count = self.config.integer("relative_attention_num_buckets", 32, low=4, high=1 << 16)
        self.buckets = buckets_of(count, self.config.integer("relative_attention_max_distance", 128, high=1 << 16))

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, r"encoder\.embed_tokens\.")

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.rms_norm(x, name, self.eps)

    def scoring(self, i: int) -> Mapping[str, Any]:
        biases = f"{self.at('biases', 0)}.weight"
        return {**super().scoring(i), "scale": 1.0, "biases": biases, "buckets": self.buckets}
