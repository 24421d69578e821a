"""The forms of a prompt that `LLM.generate` takes, under vLLM's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict


class TextPrompt(TypedDict):
    prompt: str
    multi_modal_data: NotRequired[dict[str, Any]]  # {"audio": (samples, rate)}, for a model that reads speech
    text_pair: NotRequired[str]  # of models that read two texts together
    cache_salt: NotRequired[str]  # cached beginnings are shared only with prompts of the same salt


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    token_type_ids: NotRequired[list[int]]  # 0 for a text, and then 1 for a second one
    multi_modal_data: NotRequired[dict[str, Any]]
    cache_salt: NotRequired[str]


PromptType = str | Sequence[int] | TextPrompt | TokensPrompt
