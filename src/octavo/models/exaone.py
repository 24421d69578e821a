"""EXAONE 3.0, 3.5 and Deep."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Exaone(Decoder):
    """Llama with names of its own (LG AI Research 2024)."""

    architectures = ("ExaoneForCausalLM",)
    model_types = ("exaone",)
    fields = {
        "num_hidden_layers": "num_layers",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    }
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = {
        "attn_norm": "ln_1",
        "attention": "attn.attention",
        "attn_output": "out_proj",
        "ffn_norm": "ln_2",
        "ffn_gate": "c_fc_0",
        "ffn_up": "c_fc_1",
        "ffn_down": "c_proj",
    }
    gguf = (GGUFFamily("exaone"),)
