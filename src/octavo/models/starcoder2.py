"""StarCoder2."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class StarCoder2(Decoder):
    """Llama with layer norms, biases everywhere, and an MLP without a gate (Lozhkov et al. 2024)."""

    architectures = ("Starcoder2ForCausalLM",)
    model_types = ("starcoder2",)
    fields = {"rms_norm_eps": "norm_epsilon", "attention_bias": "use_bias", "mlp_bias": "use_bias"}
    defaults = {
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }
    is_layer_norm = True
    names = {"ffn_gate": "", "ffn_up": "c_fc", "ffn_down": "c_proj"}
    gguf = (GGUFFamily("starcoder2"),)
