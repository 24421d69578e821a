"""Masks of tokens: uint32 words, in which bit i % 32 of word i / 32 is set where token i may be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

Bits = np.ndarray[Any, np.dtype[np.uint32]]


def no_tokens(num_masks: int, vocab_size: int) -> Bits:
    """Masks that allow nothing yet: [masks, words]."""
    return np.zeros((num_masks, -(-vocab_size // 32)), np.uint32)


def allowed_tokens(mask: Bits, vocab_size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each token may be drawn: bool [vocabulary], of [words]."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size].astype(bool)
