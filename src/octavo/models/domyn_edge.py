"""Domyn Edge."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader


class DomynEdge(Decoder):
    """Llama with norms before and after each branch, and of q, without a weight, and k (Domyn 2026).

    Each layer says its window, and whether it has positions.
    """

    architectures = ("DomynEdgeForCausalLM",)
    model_types = ("domyn_edge", "domynedge")
    names = {
        "attn_norm": "pre_attention_norm",
        "attention": "attention",
        "attn_k_norm": "k_norm",
        "post_attention_norm": "post_attention_norm",
        "ffn_norm": "pre_feedforward_norm",
        "mlp": "feedforward",
        "post_ffw_norm": "post_feedforward_norm",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        sizes = config.integers("head_sizes", low=1, high=1024)
        if len(set(sizes)) > 1:
            raise config.fail("head_sizes", f"heads of one size are supported, not of {sorted(set(sizes))}")
        one = {"head_dim": sizes[0]} if sizes else {}
        super().__init__(ConfigReader({**config.values, **one}, config.fail), max_model_len)
        self.windows = [self._window(i) for i in range(self.layers)]
        kinds = self.config.values.get("position_layers")
        known = ("rope", "nope")
        if not isinstance(kinds, list) or len(kinds) < self.layers or not all(kind in known for kind in kinds):
            raise self.config.fail(
                "position_layers", f"must be a list of {self.layers} of rope and nope, got {kinds!r}"
            )
        self.ropes = [self.ropes[i] if kinds[i] == "rope" else None for i in range(self.layers)]

    def _window(self, i: int) -> int | None:
        """Tokens before its own that a token sees, and after, which there are none of; none are said by 0 or less."""
        windows = self.config.values.get("window_sizes")
        if not isinstance(windows, list) or len(windows) < self.layers:
            raise self.config.fail("window_sizes", f"must be a list of {self.layers} pairs, got {windows!r:.80}")
        pair = windows[i]
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(size) is int for size in pair):
            raise self.config.fail("window_sizes", f"must be a list of pairs of integers, got {pair!r:.80}")
        return pair[0] + 1 if pair[0] > 0 else None
