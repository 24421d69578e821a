"""Slopes of ALiBi (Press et al. 2021)."""

from __future__ import annotations


def alibi_slopes(heads: int, largest: float = 8.0) -> tuple[float, ...]:
    """2^(-largest * i / n) for head i of n, counted from 1. Heads beyond a power of two get those between these."""
    whole = 1 << (heads - 1).bit_length()  # the power of two from `heads` on
    slopes = [2.0 ** (-largest * i / whole) for i in range(1, whole + 1)]
    return tuple(slopes if whole == heads else (slopes[1::2] + slopes[::2])[:heads])
