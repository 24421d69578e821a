"""One declaration per family of architectures, each a module here, and what finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from octavo.models.mixture import name_stacks
from octavo.models.multimodal import text_part
from octavo.models.registry import DECLARATIONS, ModelRegistry, declaration, declarations, load_declaration
from octavo.weights import Checkpoint, open_checkpoint
from octavo.weights.gguf_family import GGUFFamily

__all__ = ["DECLARATIONS", "ModelRegistry", "declaration", "declarations", "load_declaration", "open_model"]


def open_model(path: Path) -> Checkpoint:
    """The checkpoint at `path`; of a model of text and images, say, the part that reads text. Raises ModelLoadError."""
    return name_stacks(text_part(open_checkpoint(path, gguf_families), _text_kinds))


def gguf_families() -> Mapping[str, GGUFFamily]:
    """What GGUF files may be of, by general.architecture."""
    return {family.architecture: family for model in declarations() for family in model.gguf}


def _text_kinds() -> Mapping[str, str]:
    """The architectures that text parts of other models may be, by model_type."""
    return {kind: names[0] for model, names in declarations().items() for kind in model.model_types}
