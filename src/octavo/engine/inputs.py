"""From what a user passes as a prompt to checked token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from octavo.config import EngineConfig
from octavo.errors import ParameterError, PromptError
from octavo.request import Prompt, check_length
from octavo.sampling_params import SamplingParams
from octavo.text.tokenizer import Tokenizer
from octavo.weights.config_reader import ConfigReader


class PromptReader(Protocol):
    """Makes prompts of what users give to a model."""

    def read(self, prompt: Any) -> Prompt:
        """Raises PromptError for what is no prompt of this model."""


# Of the user's options, the tokenizer, the size of the vocabulary, config.json and generation_config.json. Raises
# ConfigError or ModelLoadError.
ReaderFactory = Callable[[EngineConfig, Tokenizer, int, ConfigReader, ConfigReader], PromptReader]


@dataclass(frozen=True, slots=True)
class TextReader:
    """Reads prompts of text alone."""

    tokenizer: Tokenizer

    @classmethod
    def of(cls, config: EngineConfig, tokenizer: Tokenizer, *_: object) -> TextReader:
        return cls(tokenizer)

    def read(self, prompt: Any) -> Prompt:
        return read_prompt(prompt, self.tokenizer)


def read_prompt(prompt: Any, tokenizer: Tokenizer) -> Prompt:
    """A string, a list of token ids, {"prompt": …} or {"prompt_token_ids": […]}; raises PromptError for others.

    A pair of texts has "text_pair" beside "prompt", or "token_type_ids", which are 1 for the second text's tokens.
    """
    salt = ""
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, Mapping):
        salt = str(prompt.get("cache_salt", ""))
        unknown = set(prompt) - {"prompt", "prompt_token_ids", "cache_salt", "text_pair", "token_type_ids"}
        if unknown:
            raise PromptError(f"prompt: {sorted(unknown)} is not supported; give 'prompt' or 'prompt_token_ids'")
        if "prompt_token_ids" in prompt:
            text = prompt.get("prompt")
            ids = _token_ids(prompt["prompt_token_ids"])
            second = _second_start(ids, prompt.get("token_type_ids"))
            return Prompt(text if isinstance(text, str) else None, ids, cache_salt=salt, second_start=second)
        if prompt.get("text_pair") is not None:
            return read_pair(prompt.get("prompt"), prompt["text_pair"], tokenizer, cache_salt=salt)
        prompt = prompt.get("prompt")
    if isinstance(prompt, str):
        return Prompt(prompt, tokenizer.encode(prompt), cache_salt=salt)
    return Prompt(None, _token_ids(prompt), cache_salt=salt)


def read_pair(first: Any, second: Any, tokenizer: Tokenizer, longest: int | None = None, **options: Any) -> Prompt:
    """Two texts as one prompt, cut to `longest` tokens; raises PromptError for what are no texts."""
    check_pair(first, second)
    ids, second_start = tokenizer.encode_pair(first, second, longest)
    return Prompt(None, ids, second_start=second_start, **options)


def check_pair(first: Any, second: Any) -> None:
    """Raises PromptError for what are no texts."""
    for text in (first, second):
        if not isinstance(text, str):
            raise PromptError(f"a pair is of two texts, got {type(text).__name__}")


def check_prompt(token_ids: list[int], vocab_size: int, max_model_len: int, room: int = 1) -> None:
    """Raises PromptError if the prompt is empty, names tokens that are not there, or leaves no `room` for an answer."""
    check_length(len(token_ids), max_model_len, room)
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        bad = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise PromptError(f"prompt token id {bad} is outside the vocabulary; ids are 0..{vocab_size - 1}")


def truncated(prompt: Prompt, params: SamplingParams, max_model_len: int) -> Prompt:
    """The last `truncate_prompt_tokens` tokens of a prompt; -1 leaves as much room as the answer asks for.

    Raises ParameterError for more than the model reads, as vLLM does.
    """
    count = params.truncate_prompt_tokens
    if count is None:
        return prompt
    if count > max_model_len:
        raise ParameterError("truncate_prompt_tokens", count, f"at most {max_model_len}, which the model reads")
    if count == -1:
        count = max(1, max_model_len - (params.max_tokens or 1))
    return prompt.last(count) if len(prompt.token_ids) > count else prompt


def split_prompts(prompts: Any) -> tuple[list[Any], bool]:
    """The single prompts of what `generate` was given, and whether that was just one."""
    if isinstance(prompts, str | Mapping):
        return [prompts], True
    if not isinstance(prompts, Sequence) and hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if not isinstance(prompts, Sequence):
        raise PromptError(f"prompts must be a string, token ids, or a list of them, got {type(prompts).__name__}")
    if prompts and all(type(item) is int for item in prompts):
        return [prompts], True
    return list(prompts), False


def _second_start(ids: list[int], types: Any) -> int:
    """Where the second text begins, by the types of tokens; 0: nowhere."""
    found = [] if types is None else _token_ids(types)
    second = found.index(1) if 1 in found else 0
    if found and found != [0] * second + [int(second > 0)] * (len(ids) - second):
        raise PromptError(f"token_type_ids must be {len(ids)}: 0 for a text, and then 1 for a second one")
    return second


def _token_ids(value: Any) -> list[int]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise PromptError(f"a prompt must be text or a list of token ids, got {type(value).__name__}")
    if any(type(item) is not int for item in value):
        bad = next(item for item in value if type(item) is not int)
        raise PromptError(f"prompt token ids must be integers, got {bad!r}")
    return list(value)
