"""Rotary frequencies of every `rope_scaling` type of the Llama family.

A model's frequencies are fixed when it is loaded, so that a token's key never depends on how long its request is, or
on what else runs. Types whose frequencies depend on length ("dynamic", "longrope") take them for `max_model_len`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from octavo.graph.ops.rope import RopeTable
from octavo.weights.config_reader import ConfigReader

Frequencies = np.ndarray[Any, np.dtype[np.float32]]


def rope_table(
    config: ConfigReader, head_dim: int, max_positions: int, max_model_len: int, interleaved: bool = False
) -> RopeTable:
    """Reads `rope_theta`, `rope_scaling` or, as newer files have it, `rope_parameters`."""
    rope, kind = _scaling(config)
    if head_dim % 2:
        raise config.fail("head_dim", f"rotary positions need an even head_dim, got {head_dim}")
    theta = rope.number("rope_theta", 10000.0)
    try:
        with np.errstate(all="ignore"):
            frequencies, scale = SCALINGS[kind](rope, theta, head_dim, max_positions, max_model_len)
        is_finite = bool(np.isfinite(frequencies).all()) and math.isfinite(scale)
    except (ArithmeticError, ValueError):  # a number too large, a division by zero, a logarithm of a negative number
        is_finite = False
    if not is_finite:
        raise rope.fail("rope_type", f"the numbers of type {kind} make frequencies that are not finite")
    return RopeTable(tuple(float(f) for f in frequencies), scale, interleaved)


def for_layers(config: ConfigReader, kind: str, theta: float | None = None) -> ConfigReader:
    """The configuration of the layers of one kind ("full_attention", "sliding_attention").

    Newer files have an entry for each in rope_parameters. In others, `theta` is all that such layers have of their own.
    """
    entries = config.values.get("rope_parameters")
    found = entries.get(kind) if isinstance(entries, dict) else None
    if isinstance(found, dict):
        own: dict[str, Any] = {"rope_parameters": found, "rope_scaling": None, "rope_theta": None}
    elif theta is not None:
        own = {"rope_parameters": None, "rope_scaling": None, "rope_theta": theta}
    else:
        return config
    return ConfigReader({**config.values, **own}, config.fail)


def longest_positions(config: ConfigReader, max_positions: int) -> int:
    """The longest context that may be asked for: interpolating types reach `factor` times as far as the model."""
    rope, kind = _scaling(config)
    if kind in ("linear", "dynamic") and not rope.values.get("alpha"):
        return int(max_positions * rope.number("factor"))
    if kind == "yarn" and rope.values.get("original_max_position_embeddings") is not None:
        original = rope.integer("original_max_position_embeddings", high=1 << 28)
        return max(max_positions, int(original * rope.number("factor", max_positions / original)))
    return max_positions


def score_scale(config: ConfigReader) -> float:
    """What YaRN's `mscale_all_dim` multiplies scores with: 1 where there is none."""
    rope, kind = _scaling(config)
    if kind == "default" or not rope.values.get("mscale_all_dim"):
        return 1.0
    factor = rope.number("factor")
    return (0.1 * rope.number("mscale_all_dim") * math.log(factor) + 1) ** 2 if factor > 1 else 1.0


def _scaling(config: ConfigReader) -> tuple[ConfigReader, str]:
    """The entries that describe rotary positions, wherever they are, and the type that they name."""
    values: dict[str, Any] = {}
    for field in ("rope_scaling", "rope_parameters"):
        entry = config.values.get(field)
        if entry is not None and not isinstance(entry, dict):
            raise config.fail(field, f"must be an object, got {type(entry).__name__}")
        values |= entry or {}
    for field in ("rope_theta", "original_max_position_embeddings"):
        values.setdefault(field, config.values.get(field))
    rope = ConfigReader(values, lambda field, reason: config.fail(f"rope_scaling.{field}", reason))
    kind = str(values.get("rope_type", values.get("type", "default")))
    if kind not in SCALINGS:
        raise rope.fail("rope_type", f"{kind!r} is not known; known are {', '.join(sorted(SCALINGS))}")
    return rope, kind


def _plain(theta: float, head_dim: int) -> Frequencies:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.asarray(1.0 / np.power(np.float32(theta), exponents), np.float32)


Result = tuple[Frequencies, float]


def _default(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    return _plain(theta, head_dim), 1.0


def _linear(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    return _plain(theta, head_dim) / np.float32(rope.number("factor")), 1.0


def _proportional(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    """The frequencies of a whole head, of which `partial_rotary_factor` is rotated: the others are 0."""
    rotated = int(rope.number("partial_rotary_factor", 1.0, high=1.0) * head_dim // 2)
    keep = np.arange(head_dim // 2) < rotated
    return np.where(keep, _plain(theta, head_dim) / np.float32(rope.number("factor", 1.0)), np.float32(0)), 1.0


def _dynamic(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    """NTK-aware scaling of theta for contexts longer than the model was trained on, or as `alpha` says."""
    if rope.values.get("alpha"):
        return _plain(theta * rope.number("alpha") ** (head_dim / (head_dim - 2)), head_dim), 1.0
    factor = rope.number("factor")
    original = rope.integer("original_max_position_embeddings", positions, high=1 << 28)
    stretch = factor * max(length, original) / original - (factor - 1)
    return _plain(theta * stretch ** (head_dim / (head_dim - 2)), head_dim), 1.0


def _llama3(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    """Llama 3.1: long wavelengths are stretched, short ones kept, those between interpolated."""
    factor, low, high = (rope.number(f) for f in ("factor", "low_freq_factor", "high_freq_factor"))
    original = rope.integer("original_max_position_embeddings", positions, high=1 << 28)
    if low >= high:
        raise rope.fail("low_freq_factor", f"must be less than high_freq_factor {high}, got {low}")
    plain = _plain(theta, head_dim)
    wavelength = 2 * np.float32(math.pi) / plain
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return ((1 - smooth) * plain / factor + smooth * plain).astype(np.float32), 1.0


def _yarn(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    """YaRN (Peng et al. 2023): interpolation by frequency, with a correction of attention's temperature."""
    if all(rope.values.get(field) is None for field in ("factor", "original_max_position_embeddings")):
        raise rope.fail("factor", "is missing: type yarn needs it, or original_max_position_embeddings")
    original = rope.integer("original_max_position_embeddings", positions, high=1 << 28)
    factor = rope.number("factor", positions / original)
    fast, slow = rope.number("beta_fast", 32), rope.number("beta_slow", 1)

    def pair_of(rotations: float) -> float:
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(fast), pair_of(slow)
    if rope.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - low) / max(high - low, 0.001)
    keep = 1 - np.clip(ramp, 0, 1)
    plain = _plain(theta, head_dim)
    frequencies = (plain / np.float32(factor) * (1 - keep) + plain * keep).astype(np.float32)
    return frequencies, _yarn_scale(rope, factor)


def _yarn_scale(rope: ConfigReader, factor: float) -> float:
    if rope.values.get("attention_factor") is not None:
        return rope.number("attention_factor")

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        return temperature(rope.number("mscale")) / temperature(rope.number("mscale_all_dim"))
    return temperature(1.0)


def _longrope(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    """LongRoPE (Ding et al. 2024): one set of factors for short contexts, one for long ones."""
    original = rope.integer("original_max_position_embeddings", positions, high=1 << 28)
    which = "long" if length > original else "short"
    factors = _factors(rope, f"{which}_factor", head_dim)
    factor = rope.number("factor", positions / original)
    if rope.values.get(f"{which}_mscale") is not None:
        scale = rope.number(f"{which}_mscale")
    elif rope.values.get("attention_factor") is not None:
        scale = rope.number("attention_factor")
    else:
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return _plain(theta, head_dim) / factors, scale


def _given(rope: ConfigReader, theta: float, head_dim: int, positions: int, length: int) -> Result:
    """Divisors of every frequency, as GGUF files carry them."""
    return _plain(theta, head_dim) / _factors(rope, "factors", head_dim), 1.0


def _factors(rope: ConfigReader, field: str, head_dim: int) -> Frequencies:
    factors = rope.values.get(field)
    is_list = isinstance(factors, list | tuple) and len(factors) == head_dim // 2
    if not is_list or not all(isinstance(f, int | float) and 0 < f < 1e31 for f in factors):  # type: ignore[union-attr]
        raise rope.fail(field, f"must be {head_dim // 2} positive numbers")
    return np.asarray(factors, np.float32)


SCALINGS: dict[str, Callable[[ConfigReader, float, int, int, int], Result]] = {
    "default": _default,
    "mrope": _default,  # of text alone: all its positions are the same
    "linear": _linear,
    "proportional": _proportional,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
    "factors": _given,
}
