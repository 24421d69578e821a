"""GPT-Neo 125M, 1.3B and 2.7B."""

from __future__ import annotations

from octavo.models.gpt2 import GPT2
from octavo.weights.config_reader import ConfigReader


class GPTNeo(GPT2):
    """GPT-2 with q, k and v apart, scores not scaled, and a window in every second layer (Black et al. 2021)."""

    architectures = ("GPTNeoForCausalLM",)
    model_types = ("gpt_neo",)
    fields = {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_heads",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
        "sliding_window": "window_size",
    }
    defaults = {**GPT2.defaults, "attention_bias": False, "attention_out_bias": True, "sliding_window": 256}
    is_transposed = False
    names = {"attention": "attn.attention", "attn_qkv": "", "attn_output": "out_proj"}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.scale = 1.0

    def is_full(self, i: int) -> bool:
        """As attention_layers says of each layer, or, in groups that are repeated, attention_types."""
        layers = self.config.values.get("attention_layers") or ["global", "local"] * self.layers
        for group in self.config.values.get("attention_types") or ():
            if not isinstance(group, list) or group != [["global", "local"], self.layers // 2]:
                raise self.config.fail("attention_types", f"only global and local by turns is supported, got {group!r}")
        if not isinstance(layers, list) or len(layers) < self.layers or layers[i] not in ("global", "local"):
            raise self.config.fail("attention_layers", f"must say global or local of {self.layers} layers")
        return bool(layers[i] == "global")
