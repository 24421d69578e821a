"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Phi3(Decoder):
    """Llama whose matrices of q, k and v are stored as one, and those of gate and up (Abdin et al. 2024)."""

    architectures = ("Phi3ForCausalLM",)
    model_types = ("phi3",)
    defaults = {"rms_norm_eps": 1e-5}
    rotary_part = 1.0
    names = {"attn_qkv": "qkv_proj", "ffn_gate_up": "gate_up_proj"}
    gguf = (GGUFFamily("phi3"),)
