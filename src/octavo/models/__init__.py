"""One declaration per family of architectures, each a module here, and what finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from octavo.errors import UnknownArchitectureError, nearest
from octavo.models.base import CausalLM
from octavo.models.multimodal import text_part
from octavo.weights import Checkpoint, open_checkpoint
from octavo.weights.config_reader import ConfigReader


def _declarations() -> Iterator[type[CausalLM]]:
    """All classes of this package's modules that name architectures."""
    for module in iter_modules(__path__, f"{__name__}."):
        for found in vars(import_module(module.name)).values():
            is_declared = isinstance(found, type) and issubclass(found, CausalLM) and found.__module__ == module.name
            if is_declared and found.architectures:
                yield found


DECLARATIONS: tuple[type[CausalLM], ...] = tuple(_declarations())


def open_model(path: Path) -> Checkpoint:
    """The checkpoint at `path`; of a model of text and images, say, the part that reads text. Raises ModelLoadError."""
    families = {family.architecture: family for model in DECLARATIONS for family in model.gguf}
    kinds = {kind: model.architectures[0] for model in DECLARATIONS for kind in model.model_types}
    return text_part(open_checkpoint(path, families), kinds)


def declaration(config: Mapping[str, Any], file: str | os.PathLike[str]) -> type[CausalLM]:
    """The class that declares the architecture that `config` names; `file` is for the error."""
    names = config.get("architectures")
    names = names if isinstance(names, list) else [names]
    known = {name: model for model in DECLARATIONS for name in model.architectures}
    words = [name for name in names if isinstance(name, str)]
    for name in words:
        if name in known:
            return known[name]
    if not words:
        raise UnknownArchitectureError(file, "architectures", f"must name an architecture, got {names}")
    raise UnknownArchitectureError(file, "architectures", f"{names} is not known here; {nearest(words[0], known)}")


def load_declaration(
    config: Mapping[str, Any], file: str | os.PathLike[str], max_model_len: int | None = None
) -> CausalLM:
    """The model that `config` describes, ready to build its graph."""
    return declaration(config, file)(ConfigReader.of_file(config, file), max_model_len)
