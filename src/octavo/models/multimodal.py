"""Models of text and of images or sounds, whose text part is a model by itself: what of a checkpoint that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from octavo.errors import ModelLoadError, UnknownArchitectureError, nearest
from octavo.weights import Checkpoint

# Models whose text part answers a text as it does in the whole. What kind it is, the configuration says.
_NAMES = (
    "AudioFlamingo3", "AyaVision", "Bee", "Blip2", "Cohere2Vision", "Eagle2_5_VL", "Emu3", "Exaone4_5_",
    "FunAudioChat", "Gemma3", "Gemma4", "Glm4v", "Glm4vMoe", "GlmAsr", "GlmOcr", "GotOcr2", "GraniteSpeech",
    "GraniteSpeechPlus", "Idefics3", "InternS1", "InternVL", "Isaac", "KananaV", "Keye", "KeyeVL1_5", "KimiK25",
    "KimiVL", "Lfm2Vl", "LightOnOCR", "LightOnOcr", "Llama4", "Llava", "LlavaNext", "LlavaNextVideo",
    "LlavaOnevision", "LlavaOnevision2", "MiniCPMV4_6", "Mistral3", "MuseGlimmer", "OpenCUA", "Ovis2", "PaddleOCRVL",
    "QianfanOCR", "Qwen2Audio", "Qwen2VL", "Qwen2_5Omni", "Qwen2_5_VL", "Qwen3ASR", "Qwen3OmniMoe", "Qwen3VL",
    "Qwen3VLMoe", "Qwen3_5", "Qwen3_5Moe", "R", "SmolVLM", "StepVL", "VideoLlava", "VipLlava",
    "Voxtral",
)  # fmt: skip
ARCHITECTURES = (
    *(f"{name}ForConditionalGeneration" for name in _NAMES),
    "DotsOCRForCausalLM", "H2OVLChatModel", "HCXVisionV2ForCausalLM", "InternVLChatModel", "Llama_Nemotron_Nano_VL",
    "MiDashengLMModel", "MossAudioModel", "NVLM_D", "Ovis", "Ovis2_5", "Ovis2_6ForCausalLM", "Ovis2_6_MoeForCausalLM",
    "Phi3VForCausalLM", "Phi4ForCausalLMV", "Phi4MMForCausalLM", "Qwen2_5OmniModel", "Qwen3ASRRealtimeGeneration",
    "SkyworkR1VChatModel",
)  # fmt: skip
# Where configurations have that of the text part, unless its fields are among those of the whole.
_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config.text_config", "thinker_config")
# The kind of text part, where that is not said, by the kind of the whole.
_KINDS = {
    "Keye": "qwen3",
    "KeyeVL1_5": "qwen3",
    "dots_ocr": "qwen2",
    "isaac": "qwen3",
    "paddleocr_vl": "paddleocr_vl_text",
    "phi3_v": "phi3",
    "phi4-siglip": "phi3",
    "phi4mm": "phi3",
}

# What encodes images and sounds, and what makes them; adapters for them; and what drafts tokens.
_OTHERS = re.compile(
    r"^(model\.)?((visual|vision|image|video|audio|vit|speech|acoustic|semantic|discrete|deepstack|continuous_audio)(_\w+)?|"
    r"\w+_(adapter|adaptor|merger|projector)|connector|projector|encoder|merger|resampler|qformer|query_tokens|vqmodel|"
    r"mlp1|mlp_AR|vte|apm|vpm|tts|embed_(vision|audio|tokens_extend)|language_projection|talker|token2wav|code2wav)\b|"
    r"^mtp\.|\.lora_[AB]\."
)
_WRAPPER = re.compile(r"^(thinker|vlm)\.")
_TEXT = re.compile(r"^(model\.)?(language_model|text_model|llm|language|decoder)\.")


def text_part(checkpoint: Checkpoint, kinds: Mapping[str, str]) -> Checkpoint:
    """The model of text in a checkpoint whose architecture is one of `ARCHITECTURES`; any other as it is.

    `kinds` gives architectures by model_type.
    """
    config = checkpoint.config
    found = config.get("architectures")
    if not isinstance(found, list) or not any(isinstance(name, str) and name in ARCHITECTURES for name in found):
        return checkpoint
    file = checkpoint.path / "config.json"
    at, text = _text_config(file, config)
    kind = text.get("model_type", config.get("model_type"))
    kind = _KINDS.get(kind, kind) if isinstance(kind, str) else kind
    if not isinstance(kind, str) or kind not in kinds:
        reason = f"{kind!r:.80} is not known; {nearest(str(kind), kinds)}; a plugin could declare it"
        raise UnknownArchitectureError(file, f"{at}model_type", reason)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        inner = _WRAPPER.sub("", name)
        if not _OTHERS.search(inner):
            ours = _text_name(inner)
            tensors[ours] = replace(tensor, name=ours)
    tied = not {"lm_head.weight", "output.weight"} & tensors.keys()
    config = {**config, **text, "architectures": [kinds[kind]], "tie_word_embeddings": tied}
    return replace(checkpoint, config=config, tensors=tensors)


def _text_config(file: Path, config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Where the configuration of the text part is, and what it says."""
    for path in _CONFIGS:
        found: Any = config
        for field in path.split("."):
            found = found.get(field) if isinstance(found, dict) else None
        if found is not None and not isinstance(found, dict):
            raise ModelLoadError(file, path, f"must be an object, got {type(found).__name__}")
        if found:
            return f"{path}.", found
    return "", {}


def _text_name(name: str) -> str:
    """The name that a tensor has where there is nothing but text."""
    inner = _TEXT.sub("", name).replace(".base_layer.", ".")
    is_whole = inner == name or inner.startswith(("model.", "lm_head.", "output.", "transformer."))
    return inner if is_whole else f"model.{inner}"
