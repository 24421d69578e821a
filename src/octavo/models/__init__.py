"""One declaration per family of architectures, each a module here, and what finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from octavo.models.mixture import name_stacks
from octavo.models.multimodal import text_part
from octavo.models.registry import ByName, ModelRegistry, declaration, declarations, declared, load_declaration
from octavo.weights import Checkpoint, open_checkpoint
from octavo.weights.gguf_family import GGUFFamily

__all__ = ["ModelRegistry", "declaration", "declarations", "declared", "load_declaration", "open_model"]

GGUF_FAMILIES: Mapping[str, GGUFFamily] = ByName(lambda model, _: {one.architecture: one for one in model.gguf})
TEXT_KINDS: Mapping[str, str] = ByName(lambda model, names: dict.fromkeys(model.model_types, names[0]))


def open_model(path: Path) -> Checkpoint:
    """The checkpoint at `path`; of a model of text and images, say, the part that reads text. Raises ModelLoadError."""
    return name_stacks(text_part(open_checkpoint(path, GGUF_FAMILIES), TEXT_KINDS))
