"""What a speech model has besides its graphs: control tokens, banned tokens, and the size of its spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.request import Source
from octavo.speech.mel import window_features
from octavo.speech.tokens import SpeechTokens
from octavo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """`suppressed_ids` are never written, `suppressed_first_ids` not first; `alignment_heads` are (layer, head)."""

    tokens: SpeechTokens
    num_mel_bins: int
    source_positions: int  # of a window of 30 s in the encoder's output
    suppressed_ids: tuple[int, ...]
    suppressed_first_ids: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, config: Mapping[str, Any]) -> SpeechModel:
        """From config.json and generation_config.json in one. Raises ModelLoadError."""
        return cls(
            SpeechTokens(tokenizer, vocab_size, config),
            int(config.get("num_mel_bins", 80)),
            int(config.get("max_source_positions", 1500)),
            _ids(config.get("suppress_tokens"), vocab_size),
            _ids(config.get("begin_suppress_tokens"), vocab_size),
            tuple((int(layer), int(head)) for layer, head in config.get("alignment_heads") or ())
            or _late_heads(config),
        )

    def source(self, samples: NDArray[np.float32]) -> Source:
        """What the encoder reads of up to 30 s of mono samples at 16 kHz; the rest of a window is silence."""
        features = window_features(samples, self.num_mel_bins)
        return Source(np.ascontiguousarray(features.T), self.source_positions)


def _late_heads(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """All heads of the second half of the decoder: those that follow the sound are among them."""
    layers, heads = int(config.get("decoder_layers", 0)), int(config.get("decoder_attention_heads", 0))
    return tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))


def _ids(values: Any, vocab_size: int) -> tuple[int, ...]:
    """Those of a list that are tokens; some files have -1 in it."""
    return tuple(value for value in values or () if isinstance(value, int) and 0 <= value < vocab_size)
