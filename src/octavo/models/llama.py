"""Llama 2, 3 and 3.1+, and the models built like it: TinyLlama, SmolLM2, Yi, Falcon 3, Mistral (sliding window)."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Llama(Decoder):
    """Pre-norm decoder with rotary positions, grouped-query attention and a SwiGLU MLP (Touvron et al. 2023)."""

    architectures = (
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "AquilaForCausalLM",
        "AquilaModel",
        "CwmForCausalLM",
        "IQuestCoderForCausalLM",
        "MinistralForCausalLM",
        "MistralForCausalLM",
        "TeleChat3ForCausalLM",
        "XverseForCausalLM",
        "YiForCausalLM",
    )
    model_types = ("llama", "mistral", "ministral", "cwm")
    gguf = (
        GGUFFamily("llama", "LlamaForCausalLM", permuted=True),
        GGUFFamily("internlm2", "LlamaForCausalLM", permuted=True),
        GGUFFamily("xverse", "LlamaForCausalLM", permuted=True),
    )
