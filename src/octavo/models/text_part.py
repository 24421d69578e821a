"""Models of text and of images or sounds, whose text part is a model by itself: what of a checkpoint that is."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from octavo.errors import ModelLoadError
from octavo.weights import Checkpoint

# What encodes images and sounds, and what drafts tokens.
_OTHERS = re.compile(
    r"^(model\.)?(visual|vision_\w+|audio_\w+|embed_vision|embed_audio|patch_\w+|multi_modal_projector|mm_projector)\.|^mtp\."
)
_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}


def text_part(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    """The model of text in a checkpoint whose architecture is one of `names`; any other as it is.

    Its configuration is in text_config, or, in older files, among that of the whole.
    """
    config = checkpoint.config
    found = config.get("architectures")
    if not isinstance(found, list) or not any(isinstance(name, str) and name in names for name in found):
        return checkpoint
    text = config.get("text_config") or {}
    if not isinstance(text, dict):
        raise ModelLoadError(checkpoint.path, "text_config", f"must be an object, got {type(text).__name__}")
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        if not _OTHERS.match(name):
            prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
            ours = name if prefix is None else _PREFIXES[prefix] + name.removeprefix(prefix)
            tensors[ours] = replace(tensor, name=ours)
    tied = "lm_head.weight" not in tensors
    config = {**config, **text, "architectures": found, "tie_word_embeddings": tied}
    return replace(checkpoint, config=config, tensors=tensors)
