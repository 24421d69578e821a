"""Orion 14B."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Orion(Decoder):
    """Llama with layer norms (Chen et al. 2024)."""

    architectures = ("OrionForCausalLM",)
    model_types = ("orion",)
    defaults = {"rms_norm_eps": 1e-5}
    is_layer_norm = True
    gguf = (GGUFFamily("orion"),)
