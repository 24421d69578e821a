"""Models of text and of images or sounds, whose text part is a model by itself: what of a checkpoint that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from octavo.errors import ModelLoadError, UnknownArchitectureError, nearest
from octavo.weights import Checkpoint

# Whose text part answers a text as it does in the whole. What kind it is, text_config says.
ARCHITECTURES = tuple(
    f"{name}ForConditionalGeneration"
    for name in (
        "AudioFlamingo3",
        "AyaVision",
        "Cohere2Vision",
        "Gemma3",
        "Gemma4",
        "Glm4vMoe",
        "GlmAsr",
        "GotOcr2",
        "Idefics3",
        "InternVL",
        "Lfm2Vl",
        "LightOnOCR",
        "LightOnOcr",
        "Llava",
        "LlavaNext",
        "LlavaNextVideo",
        "Llama4",
        "LlavaOnevision",
        "Mistral3",
        "MuseGlimmer",
        "Ovis2",
        "Qwen2Audio",
        "Qwen2VL",
        "Qwen2_5_VL",
        "Qwen3_5",
        "Qwen3_5Moe",
        "Qwen3VL",
        "Qwen3VLMoe",
        "SmolVLM",
        "VideoLlava",
        "VipLlava",
        "Voxtral",
    )
)

# What encodes images and sounds, and what drafts tokens.
_OTHERS = re.compile(
    r"^(model\.)?(visual\w*|vision_\w+|image_\w+|video_\w+|audio_\w+|connector|multi_modal_projector)\b|^mtp\."
)
_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}


def text_part(checkpoint: Checkpoint, kinds: Mapping[str, str]) -> Checkpoint:
    """The model of text in a checkpoint whose architecture is one of `ARCHITECTURES`; any other as it is.

    Its configuration is in text_config, or, in older files, among that of the whole. `kinds` gives architectures by
    model_type.
    """
    config = checkpoint.config
    found = config.get("architectures")
    if not isinstance(found, list) or not any(isinstance(name, str) and name in ARCHITECTURES for name in found):
        return checkpoint
    text = config.get("text_config") or {}
    file = checkpoint.path / "config.json"
    if not isinstance(text, dict):
        raise ModelLoadError(file, "text_config", f"must be an object, got {type(text).__name__}")
    kind = text.get("model_type", config.get("model_type"))
    if not isinstance(kind, str) or kind not in kinds:
        reason = f"{kind!r:.80} is not known; {nearest(str(kind), kinds)}; a plugin could declare it"
        raise UnknownArchitectureError(file, "text_config.model_type", reason)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        if not _OTHERS.match(name):
            prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
            ours = _PREFIXES.get(prefix, "") + name.removeprefix(prefix)
            tensors[ours] = replace(tensor, name=ours)
    tied = "lm_head.weight" not in tensors
    config = {**config, **text, "architectures": [kinds[kind]], "tie_word_embeddings": tied}
    return replace(checkpoint, config=config, tensors=tensors)
