"""Octavo runs open language models.

>>> from octavo import LLM, SamplingParams
>>> llm = LLM()
>>> llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].outputs[0].text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.version import __version__

if TYPE_CHECKING:
    from octavo.async_llm import AsyncLLM
    from octavo.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from octavo.engine.llm_engine import LLMEngine
    from octavo.errors import (
        ConfigError,
        MemoryPlanError,
        ModelLoadError,
        ModelNotFoundError,
        OctavoError,
        RequestError,
        UnsupportedError,
    )
    from octavo.inputs import TextPrompt, TokensPrompt
    from octavo.llm import LLM
    from octavo.request import CompletionOutput, Logprob, RequestOutput
    from octavo.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams

# Loaded when they are asked for, so that `import octavo` takes no time.
_HOMES = {
    "LLM": "octavo.llm",
    "AsyncLLM": "octavo.async_llm",
    "EngineArgs": "octavo.engine.arg_utils",
    "AsyncEngineArgs": "octavo.engine.arg_utils",
    "LLMEngine": "octavo.engine.llm_engine",
    "AsyncLLMEngine": "octavo.engine.async_llm_engine",
    "PromptType": "octavo.inputs",
    "TextPrompt": "octavo.inputs",
    "TokensPrompt": "octavo.inputs",
    "SamplingParams": "octavo.sampling_params",
    "BeamSearchParams": "octavo.sampling_params",
    "RequestOutput": "octavo.request",
    "CompletionOutput": "octavo.request",
    "Logprob": "octavo.request",
    "OctavoError": "octavo.errors",
    "ConfigError": "octavo.errors",
    "ModelLoadError": "octavo.errors",
    "RequestError": "octavo.errors",
    "MemoryPlanError": "octavo.errors",
    "ModelNotFoundError": "octavo.errors",
    "UnsupportedError": "octavo.errors",
    "RequestOutputKind": "octavo.sampling_params",
}

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "BeamSearchParams",
    "CompletionOutput",
    "ConfigError",
    "EngineArgs",
    "LLMEngine",
    "Logprob",
    "MemoryPlanError",
    "ModelLoadError",
    "ModelNotFoundError",
    "OctavoError",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
    "UnsupportedError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
