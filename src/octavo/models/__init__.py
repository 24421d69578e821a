"""One declaration per architecture, and the table that finds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from octavo.errors import UnknownArchitectureError
from octavo.models.base import CausalLM
from octavo.models.llama import Llama
from octavo.models.whisper import Whisper
from octavo.weights.config_reader import ConfigReader

DECLARATIONS: tuple[type[CausalLM], ...] = (Llama, Whisper)


def declaration(config: Mapping[str, Any], file: str | os.PathLike[str]) -> type[CausalLM]:
    """The class that declares the architecture that `config` names; `file` is for the error."""
    names = config.get("architectures")
    names = names if isinstance(names, list) else [names]
    for model in DECLARATIONS:
        if any(name in model.architectures for name in names):
            return model
    known = ", ".join(name for model in DECLARATIONS for name in model.architectures)
    raise UnknownArchitectureError(file, "architectures", f"{names} is not known here; known are {known}")


def load_declaration(
    config: Mapping[str, Any], file: str | os.PathLike[str], max_model_len: int | None = None
) -> CausalLM:
    """The model that `config` describes, ready to build its graph."""
    return declaration(config, file)(ConfigReader.of_file(config, file), max_model_len)
