"""AFM 4.5B of Arcee."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Arcee(Decoder):
    """Llama with a squared ReLU and no gate (Arcee 2025)."""

    architectures = ("ArceeForCausalLM",)
    model_types = ("arcee",)
    defaults = {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    names = {"ffn_gate": ""}
    gguf = (GGUFFamily("arcee", permuted=True),)
