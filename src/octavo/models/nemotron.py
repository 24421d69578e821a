"""Nemotron 4 and Minitron."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Nemotron(Decoder):
    """Layer norms by 1 + weight, squared ReLU without a gate, half of each head rotated (Parmar et al. 2024)."""

    architectures = ("NemotronForCausalLM",)
    model_types = ("nemotron",)
    fields = {"rms_norm_eps": "norm_eps"}
    defaults = {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    names = {"ffn_gate": ""}
    rotary_part = 0.5
    is_layer_norm, norm_offset = True, 1.0
    gguf = (GGUFFamily("nemotron"),)
