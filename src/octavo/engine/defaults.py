"""Sampling defaults that come with a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from octavo.errors import ConfigError, ModelLoadError, OctavoError, ParameterError
from octavo.sampling_params import SamplingParams

# generation_config.json's names, and ours.
NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def read_defaults(said: Mapping[str, Any], file: Path, override: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that a model's `file` gives, or the user instead of it, by our names.

    Raises ModelLoadError if one of the file's is out of range, ConfigError for one of the user's.
    """
    defaults = _checked({}, said, lambda error: ModelLoadError(file, error.name, str(error)))
    return _checked(
        defaults, override, lambda error: ConfigError("override_generation_config", error.value, str(error))
    )


def _checked(
    before: dict[str, Any], said: Mapping[str, Any], refusal: Callable[[ParameterError], OctavoError]
) -> dict[str, Any]:
    defaults = before | {ours: said[name] for name, ours in NAMES.items() if said.get(name) is not None}
    try:
        SamplingParams(**defaults)
    except ParameterError as error:
        raise refusal(error) from None
    return defaults
