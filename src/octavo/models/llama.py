"""Llama 2, 3 and 3.1+, and the models built like it: TinyLlama, SmolLM2, Yi, Falcon 3, Mistral (sliding window)."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import Decoder
from octavo.models.mixtral import Mixtral
from octavo.weights.gguf_family import GGUFFamily


class Llama(Decoder):
    """Pre-norm decoder with rotary positions, grouped-query attention and a SwiGLU MLP (Touvron et al. 2023)."""

    architectures: ClassVar[tuple[str, ...]] = (
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
    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral", "ministral", "cwm", "emu3_text_model")
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("llama", layer=Mixtral.gguf_experts(), permuted=True, with_experts="MixtralForCausalLM"),
        GGUFFamily("internlm2", permuted=True),
        GGUFFamily("xverse", permuted=True),
    )


class PanguEmbedded(Llama):
    """openPangu's dense models: Llama whose attention has biases where `bias` says it (Pangu Team 2025)."""

    architectures = ("PanguEmbeddedForCausalLM",)
    model_types = ()
    gguf = (GGUFFamily("pangu-embedded"),)
    fields = {"attention_bias": "bias"}
