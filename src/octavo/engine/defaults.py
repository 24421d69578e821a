"""Sampling defaults that come with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.engine.loading import LoadedModel
from octavo.errors import ModelLoadError, ParameterError
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


def default_sampling_params(
    model: LoadedModel, given: Mapping[str, Any] | None = None, neutral: Mapping[str, Any] | None = None
) -> SamplingParams:
    """What `given` says; else generation_config.json; else `neutral`; else the class's defaults.

    Raises ParameterError, or ModelLoadError if it is the file that is wrong.
    """
    said = model.generation_defaults
    defaults = {ours: said[name] for name, ours in NAMES.items() if said.get(name) is not None}
    try:
        SamplingParams(**defaults)
    except ParameterError as error:
        raise ModelLoadError(model.name, f"generation_config.json: {error.name}", str(error)) from None
    return SamplingParams(**{**(neutral or {}), **defaults, **(given or {})})
