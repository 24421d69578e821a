"""GPT-NeoX, Pythia, Dolly v2, RedPajama-INCITE and StableLM-Alpha."""

from __future__ import annotations

from octavo.models.decoder import MEGATRON, Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class GPTNeoX(Decoder):
    """Attention and MLP side by side, each with its layer norm; a quarter of each head rotated (Black et al. 2022)."""

    architectures = ("GPTNeoXForCausalLM",)
    model_types = ("gpt_neox",)
    fields = {
        "num_key_value_heads": "num_attention_heads",
        "rms_norm_eps": "layer_norm_eps",
        "rope_theta": "rotary_emb_base",
        "partial_rotary_factor": "rotary_pct",
    }
    defaults = {"hidden_act": "gelu", "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5}
    rotary_part = 0.25
    is_layer_norm = True
    qkv_by_heads = True
    embed_name = "gpt_neox.embed_in"
    layers_name = "gpt_neox.layers"
    norm_name = "gpt_neox.final_layer_norm"
    head_name = "embed_out"
    names = MEGATRON | {"attention": "attention"}
    gguf = (GGUFFamily("gptneox", keys={"use_parallel_residual": "use_parallel_residual"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.is_parallel = self.config.flag("use_parallel_residual", True)
