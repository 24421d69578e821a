"""Phi-1, Phi-1.5 and Phi-2."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Phi(Decoder):
    """Attention and MLP side by side, of one layer norm; no gate; biases everywhere (Li et al. 2023)."""

    architectures = ("PhiForCausalLM",)
    model_types = ("phi",)
    fields = {"rms_norm_eps": "layer_norm_eps"}
    defaults = {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_new", "rms_norm_eps": 1e-5}
    rotary_part = 0.5
    is_parallel = True
    is_layer_norm = True
    norm_name = "model.final_layernorm"
    names = {"attn_output": "dense", "ffn_norm": "", "ffn_gate": "", "ffn_up": "fc1", "ffn_down": "fc2"}
    gguf = (GGUFFamily("phi2"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.head_bias = True
        if self.config.flag("qk_layernorm"):
            raise self.config.fail("qk_layernorm", "norms of q and k are not supported in this architecture")
