"""From what a user passes as a prompt to checked token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from octavo.errors import PromptError, PromptTooLongError
from octavo.request import Source
from octavo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from octavo.engine.speech import SpeechTask
    from octavo.speech.model import SpeechModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as text, where it came as text, and as token ids; and what it is about, for models that encode that."""

    text: str | None
    token_ids: list[int]
    cache_salt: str = ""
    source: Source | None = None
    speech: SpeechTask | None = None

    def salted(self, salt: str | None) -> Prompt:
        """The same prompt, sharing cached prefixes only with those of the same salt."""
        return replace(self, cache_salt=salt) if salt else self


def read_prompt(prompt: Any, tokenizer: Tokenizer, speech: SpeechModel | None = None) -> Prompt:
    """A string, a list of token ids, {"prompt": …} or {"prompt_token_ids": […]}; raises PromptError for others.

    For a model of `speech`, "multi_modal_data" says {"audio": (samples, rate)} beside them, or samples at 16 kHz.
    """
    salt = ""
    if isinstance(prompt, Mapping) and speech is not None:
        return _speech_prompt(prompt, tokenizer, speech)
    if isinstance(prompt, Mapping):
        salt = str(prompt.get("cache_salt", ""))
        unknown = set(prompt) - {"prompt", "prompt_token_ids", "cache_salt"}
        if unknown:
            raise PromptError(f"prompt: {sorted(unknown)} is not supported; give 'prompt' or 'prompt_token_ids'")
        if "prompt_token_ids" in prompt:
            text = prompt.get("prompt")
            return Prompt(text if isinstance(text, str) else None, _token_ids(prompt["prompt_token_ids"]), salt)
        prompt = prompt.get("prompt")
    if isinstance(prompt, str):
        return Prompt(prompt, tokenizer.encode(prompt), salt)
    return Prompt(None, _token_ids(prompt), salt)


def _speech_prompt(prompt: Mapping[str, Any], tokenizer: Tokenizer, speech: SpeechModel) -> Prompt:
    """Also in the form that names encoder and decoder."""
    from octavo.speech.mel import WINDOW_SAMPLES, WINDOW_SECONDS
    from octavo.speech.sources import samples_of

    given = dict(prompt)
    if "encoder_prompt" in given and "decoder_prompt" in given:
        encoder, decoder = given.pop("encoder_prompt"), given.pop("decoder_prompt")
        given |= {**(encoder if isinstance(encoder, Mapping) else {}), "prompt": decoder}
    audio = given.pop("multi_modal_data", None)
    if not isinstance(audio, Mapping) or set(audio) != {"audio"}:
        raise PromptError("multi_modal_data must be {'audio': (samples, rate)}: this model reads audio")
    samples = samples_of(audio["audio"][0] if isinstance(audio["audio"], list) else audio["audio"])
    if len(samples) > WINDOW_SAMPLES:
        seconds = f"{len(samples) / WINDOW_SAMPLES * WINDOW_SECONDS:.1f}"
        raise PromptError(
            f"audio: a prompt has at most {WINDOW_SECONDS} s, got {seconds}; LLM.transcribe takes any length"
        )
    text = given.get("prompt")
    if isinstance(text, str) and text:
        read = Prompt(text, tokenizer.encode(text, add_special_tokens=False))
        given.pop("prompt")
    else:
        read = read_prompt(given, tokenizer)
    return replace(read, source=speech.source(samples))


def check_prompt(token_ids: list[int], vocab_size: int, max_model_len: int) -> None:
    """Raises PromptError if the prompt is empty, names tokens that are not there, or leaves no room for an answer."""
    if not token_ids:
        raise PromptError("the prompt is empty; it must have at least one token")
    if len(token_ids) >= max_model_len:
        raise PromptTooLongError(len(token_ids), max_model_len)
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        bad = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise PromptError(f"prompt token id {bad} is outside the vocabulary; ids are 0..{vocab_size - 1}")


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


def _token_ids(value: Any) -> list[int]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise PromptError(f"a prompt must be text or a list of token ids, got {type(value).__name__}")
    if any(type(item) is not int for item in value):
        bad = next(item for item in value if type(item) is not int)
        raise PromptError(f"prompt token ids must be integers, got {bad!r}")
    return list(value)
