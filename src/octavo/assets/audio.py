"""`AudioAsset`: a sound for a prompt of `LLM.generate`, from a file of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.errors import PromptError
from octavo.speech import SAMPLE_RATE

if TYPE_CHECKING:
    from octavo.speech.sources import Samples


@dataclass(frozen=True)
class AudioAsset:
    """`name` is a path; without its ending, .wav, .flac, .ogg and .mp3 are looked for. Nothing is downloaded."""

    name: str

    def get_local_path(self) -> Path:
        """Raises PromptError if there is no such file."""
        path = Path(self.name).expanduser()
        candidates = [path, *(Path(f"{path}{ending}") for ending in (".wav", ".flac", ".ogg", ".mp3"))]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise PromptError(f"audio {self.name!r}: no such file here, and none is downloaded; give a path")

    @property
    def audio_and_sample_rate(self) -> tuple[Samples, int]:
        """Samples, float32 [n], mono, and how many a second has. Raises PromptError or AudioError."""
        from octavo.speech.decode import read_audio

        return read_audio(self.get_local_path()), SAMPLE_RATE
