"""PLaMo 3."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import HEAD_NORMS, Decoder
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader

OFFSETS = {"post_attention_norm": 1 / 5, "post_ffw_norm": 5**-1.5}


class Plamo3(Decoder):
    """Llama with norms before and after each branch and of q and k, to whose weights something is added.

    Layers with a window have frequencies of their own; what is stored as one matrix is split (Preferred Networks 2025).
    """

    architectures = ("Plamo3ForCausalLM",)
    model_types = ("plamo3",)
    defaults = {"head_dim": 128, "tie_word_embeddings": True}
    layers_name = "model.layers.layers"
    norm_offset = 1.0
    names = HEAD_NORMS | {
        "attn_norm": "pre_mixer_norm",
        "attention": "mixer",
        "attn_qkv": "qkv_proj",
        "post_attention_norm": "post_mixer_norm",
        "ffn_norm": "pre_mlp_norm",
        "ffn_gate_up": "gate_up_proj",
        "post_ffw_norm": "post_mlp_norm",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        windows = config.values.get("sliding_window")
        one = {"sliding_window": next(filter(None, windows), None)} if isinstance(windows, list) else {}
        super().__init__(ConfigReader({**config.values, **one}, config.fail), max_model_len)
        if isinstance(windows, list) and [bool(w) for w in windows[: self.layers]] != [not full for full in self.full]:
            raise config.fail(
                "sliding_window", "must have a number for each of layer_types with a window, and no other"
            )
        if isinstance(windows, list) and len({w for w in windows if w}) > 1:
            raise config.fail("sliding_window", "must be the same for all layers that have one")
        local = self.rope(for_layers(self.config, "sliding_attention", self.config.number("rope_local_theta", 10000.0)))
        self.ropes = [self.ropes[i] if self.full[i] else local for i in range(self.layers)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 8) == 0

    def norm_of(self, g: Graph, x: Node, at: str, part: str) -> Node:
        return g.rms_norm(x, f"{at}.{self.parts[part]}", self.eps, offset=OFFSETS.get(part, self.norm_offset))
