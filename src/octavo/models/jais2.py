"""Jais 2."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Jais2(Decoder):
    """Llama with layer norms, a squared ReLU without a gate, and biases everywhere (Inception 2025)."""

    architectures = ("Jais2ForCausalLM",)
    model_types = ("jais2",)
    fields = {"rms_norm_eps": "layer_norm_eps"}
    defaults = {"hidden_act": "relu2", "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5}
    names = {"ffn_gate": ""}
    is_layer_norm = True
    gguf = (GGUFFamily("jais2"),)
