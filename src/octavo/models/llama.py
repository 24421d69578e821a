"""Llama 2, 3 and 3.1+, and the models built like it: TinyLlama, SmolLM2, Yi, Falcon 3, Mistral (sliding window)."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import EXPERTS, LAYER, GGUFFamily

# What Mixtral's files have, whose architecture is this one's.
MIXTRAL = {name: ours.replace("mlp.", "block_sparse_moe.") for name, ours in EXPERTS.items()}
for theirs, w in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
    MIXTRAL[f"ffn_{theirs}_exps"] = f"block_sparse_moe.experts.{w}"


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
    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral", "ministral", "cwm")
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily(
            "llama",
            "LlamaForCausalLM",
            layer=LAYER | MIXTRAL,
            permuted=True,
            with_experts="MixtralForCausalLM",
        ),
        GGUFFamily("internlm2", "LlamaForCausalLM", permuted=True),
        GGUFFamily("xverse", "LlamaForCausalLM", permuted=True),
    )


class PanguEmbedded(Llama):
    """openPangu's dense models: Llama whose attention has biases where `bias` says it (Pangu Team 2025)."""

    architectures = ("PanguEmbeddedForCausalLM",)
    model_types = ()
    gguf = (GGUFFamily("pangu-embedded", "PanguEmbeddedForCausalLM"),)
    fields = {"attention_bias": "bias"}
