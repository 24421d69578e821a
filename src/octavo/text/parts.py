"""What every source of a tokenizer delivers, and the guard around the Rust library that builds it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import tokenizers

from octavo.errors import ModelLoadError


@dataclass(frozen=True)
class TokenizerParts:
    """A Rust tokenizer and what it does not know about itself.

    `named` maps "bos_token", "eos_token", "unk_token", "pad_token" … to token texts. `add_bos` and `add_eos`
    say what `add_special_tokens` puts around a text; None leaves that to the post-processor of the backend.
    `templates` are the chat templates by name; the usual one is called "default".
    """

    backend: tokenizers.Tokenizer
    named: Mapping[str, str] = field(default_factory=dict)
    add_bos: bool | None = None
    add_eos: bool | None = None
    templates: Mapping[str, str] = field(default_factory=dict)


def is_rust_panic(error: BaseException) -> bool:
    """Whether a bug in the Rust library was hit. Its panics are not an `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def loading(file: str | os.PathLike[str], field: str) -> Iterator[None]:
    """Raises what goes wrong inside as ModelLoadError: the Rust library's errors have no types."""
    try:
        yield
    except ModelLoadError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_rust_panic(error):
            raise
        raise ModelLoadError(file, field, " ".join(str(error).split())[:300]) from None
