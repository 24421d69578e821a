"""Octavo runs open language models.

>>> from octavo import LLM, SamplingParams
>>> llm = LLM()
>>> llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].outputs[0].text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.errors import (
    ConfigError,
    MemoryPlanError,
    ModelLoadError,
    ModelNotFoundError,
    OctavoError,
    RequestError,
    UnsupportedError,
)
from octavo.version import __version__

if TYPE_CHECKING:
    from octavo.async_llm import AsyncLLM
    from octavo.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from octavo.engine.llm_engine import LLMEngine
    from octavo.inputs import TextPrompt, TokensPrompt
    from octavo.llm import LLM
    from octavo.models.registry import ModelRegistry
    from octavo.pooling_params import PoolingParams
    from octavo.request import (
        ClassificationOutput,
        ClassificationRequestOutput,
        CompletionOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        Logprob,
        PoolingOutput,
        PoolingRequestOutput,
        RequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from octavo.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
    from octavo.structured.params import GuidedDecodingParams, StructuredOutputsParams

# Modules and their names, loaded when those are asked for, so that `import octavo` takes no time.
_LATER = {
    "octavo.llm": ("LLM",),
    "octavo.async_llm": ("AsyncLLM",),
    "octavo.engine.arg_utils": ("AsyncEngineArgs", "EngineArgs"),
    "octavo.engine.llm_engine": ("LLMEngine",),
    "octavo.engine.async_llm_engine": ("AsyncLLMEngine",),
    "octavo.inputs": ("PromptType", "TextPrompt", "TokensPrompt"),
    "octavo.models.registry": ("ModelRegistry",),
    "octavo.pooling_params": ("PoolingParams",),
    "octavo.request": (
        "ClassificationOutput",
        "ClassificationRequestOutput",
        "CompletionOutput",
        "EmbeddingOutput",
        "EmbeddingRequestOutput",
        "Logprob",
        "PoolingOutput",
        "PoolingRequestOutput",
        "RequestOutput",
        "ScoringOutput",
        "ScoringRequestOutput",
    ),
    "octavo.sampling_params": ("BeamSearchParams", "RequestOutputKind", "SamplingParams"),
    "octavo.structured.params": ("GuidedDecodingParams", "StructuredOutputsParams"),
}

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "BeamSearchParams",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "ConfigError",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "GuidedDecodingParams",
    "LLMEngine",
    "Logprob",
    "MemoryPlanError",
    "ModelLoadError",
    "ModelNotFoundError",
    "ModelRegistry",
    "OctavoError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "UnsupportedError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(module), name)
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
