"""The text part of Muse Glimmer."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.models.gemma2 import Gemma2
from octavo.weights.config_reader import ConfigReader

EVERY = 4  # layers, counted from the last one back, the first of which looks at everything and has no positions


class MuseGlimmer(Decoder):
    """Norms by 1 + weight before and after each branch, of q and k, and of embeddings; attention has a gate.

    Three of four layers have a window, and they alone positions (Meta 2026).
    """

    architectures = ("MuseGlimmerForCausalLM",)
    model_types = ("muse_glimmer_text",)
    defaults = {"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "sliding_window": 2048}
    names = Gemma2.names | {"attn_gate": "gate_proj"}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.scale *= config.number("qk_scale_factor", 3.87)
        self.has_head_norms = True  # without weights
        self.post_eps = config.number("post_norm_eps", 1e-8)
        self.logits_scale = config.number("output_multiplier", (256 / self.hidden) ** 0.5)
        self.logits_softcap = config.number("final_logit_softcapping", 20.0)
        thetas = config.values.get("layer_rope_theta")
        if thetas is None:
            thetas = [not self.is_full(i) for i in range(self.layers)]
        if not isinstance(thetas, list) or len(thetas) < self.layers:
            raise config.fail("layer_rope_theta", f"must be a list of {self.layers} numbers, got {thetas!r:.80}")
        self.ropes = [self.ropes[i] if thetas[i] else None for i in range(self.layers)]

    def is_full(self, i: int) -> bool:
        return (self.layers - 1 - i) % EVERY == 0

    def embed(self, g: Graph) -> Node:
        return g.rms_norm(super().embed(g), None, self.eps)

    def norm_of(self, g: Graph, x: Node, at: str, part: str) -> Node:
        eps = self.post_eps if part.startswith("post") else self.eps
        return g.rms_norm(x, f"{at}.{self.parts[part]}", eps, offset=1.0)
