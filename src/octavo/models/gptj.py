"""GPT-J 6B and its descendants."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.models.gpt2 import FIELDS
from octavo.weights.config_reader import ConfigReader


class GPTJ(Decoder):
    """Attention and MLP side by side, of one layer norm; no gate; neighbouring pairs of a part of a head are rotated.

    Source: Wang and Komatsuzaki 2021.
    """

    architectures = ("GPTJForCausalLM",)
    model_types = ("gptj",)
    fields = FIELDS
    defaults = {"attention_out_bias": False, "mlp_bias": True, "hidden_act": "gelu_new", "rms_norm_eps": 1e-5}
    mlp_factor = 4
    interleaved = True
    is_parallel = True
    is_layer_norm = True
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = {
        "attn_norm": "ln_1",
        "attention": "attn",
        "attn_output": "out_proj",
        "ffn_norm": "",
        "ffn_gate": "",
        "ffn_up": "fc_in",
        "ffn_down": "fc_out",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.head_bias = True

    @property
    def rotary_part(self) -> float | None:  # type: ignore[override]
        return self.config.integer("rotary_dim", self.head_dim, high=self.head_dim) / self.head_dim
