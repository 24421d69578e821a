"""Formats of compressed-tensors: which numbers they have, and how a quantized matrix is written down.

Source: the compressors and the classes QuantizationConfig and QuantizationArgs of compressed-tensors 0.20. Words of
packed numbers hold them from the lowest bits on; a number q of b bits is stored as q + 2^(b-1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ConfigError
from octavo.quantize.rounding import Floats, Numbers, Quantized

GROUP_SIZES = (32, 64, 128)
Stored = dict[str, tuple[str, tuple[int, ...]]]  # of tensors by name: type and shape, as safetensors has them


@dataclass(frozen=True)
class Format:
    """How the weights of linears are stored; with `quantizes_inputs`, engines quantize their inputs, token by token."""

    name: str
    summary: str
    storage: str  # compressed-tensors' name
    numbers: Numbers
    group: int | None = None  # columns that have a scale in common; None: all of a row
    quantizes_inputs: bool = False

    def with_options(self, group_size: int | None, symmetric: bool) -> Format:
        """Raises ConfigError for options that the format does not have."""
        if self.group is None and group_size is not None:
            raise ConfigError("group_size", group_size, f"{self.name} has one scale for each row; groups are int4's")
        if group_size not in (None, *GROUP_SIZES):
            raise ConfigError("group_size", group_size, f"must be one of {', '.join(map(str, GROUP_SIZES))}")
        if symmetric and self.numbers.symmetric:
            raise ConfigError("symmetric", True, f"{self.name} has no zeros")
        numbers = replace(self.numbers, symmetric=self.numbers.symmetric or symmetric)
        return replace(self, group=group_size or self.group, numbers=numbers)

    def stored(self, name: str, shape: tuple[int, ...], dtype: str) -> Stored:
        """The tensors that a weight `name` of this shape becomes; scales have the checkpoint's own `dtype`."""
        rows, columns = shape
        groups = columns // (self.group or columns)
        found: Stored = {f"{name}_scale": (dtype, (rows, groups))}
        if self.storage != "pack-quantized":
            return found | {name: ("F8_E4M3" if self.numbers.is_float else "I8", shape)}
        found[f"{name}_packed"] = "I32", (rows, _words(columns, self.numbers.bits))
        found[f"{name}_shape"] = "I64", (2,)
        if not self.numbers.symmetric:
            found[f"{name}_zero_point"] = "I32", (_words(rows, self.numbers.bits), groups)
        return found

    def tensors(self, name: str, matrix: Quantized, dtype: str) -> Mapping[str, NDArray[Any]]:
        """What `stored` announces."""
        codes, bits = np.ascontiguousarray(matrix.codes.T), self.numbers.bits
        found = {f"{name}_scale": encode(np.ascontiguousarray(matrix.scales.T), dtype)}
        if self.storage != "pack-quantized":
            return found | {name: e4m3_codes(codes) if self.numbers.is_float else codes.astype(np.int8)}
        found[f"{name}_packed"] = pack(codes, bits)
        found[f"{name}_shape"] = np.array(codes.shape, np.int64)
        if not self.numbers.symmetric:
            found[f"{name}_zero_point"] = np.ascontiguousarray(pack(matrix.zeros, bits).T)
        return found

    def config(self, ignored: Iterable[str]) -> dict[str, Any]:
        """What config.json says under quantization_config; `ignored` are modules that are left as they were."""
        weights = self._arguments(self.numbers.symmetric, "channel" if self.group is None else "group", self.group)
        inputs = {**self._arguments(True, "token", None), "dynamic": True} if self.quantizes_inputs else None
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": inputs,
            "output_activations": None,
            "format": self.storage,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": self.storage,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": list(ignored),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def _arguments(self, symmetric: bool, strategy: str, group: int | None) -> dict[str, Any]:
        return {
            "num_bits": self.numbers.bits,
            "type": "float" if self.numbers.is_float else "int",
            "symmetric": symmetric,
            "strategy": strategy,
            "group_size": group,
            "dynamic": False,
        }


FORMATS = {
    one.name: one
    for one in (
        Format(
            "int4", "4-bit weights, a scale and a zero for 32 columns", "pack-quantized", Numbers(4, False, False), 32
        ),
        Format(
            "int8", "8-bit weights and inputs, a scale for each row", "int-quantized", Numbers(8), quantizes_inputs=True
        ),
        Format("fp8", "the same in 8-bit floats (E4M3)", "float-quantized", Numbers(8, True), quantizes_inputs=True),
        Format("w8a16", "8-bit weights alone", "pack-quantized", Numbers(8)),
    )
}


def encode(values: Floats, dtype: str) -> NDArray[Any]:
    """float32 values as the numbers of a `dtype` of safetensors; BF16 as integers of their bits."""
    if dtype != "BF16":
        return values.astype({"F32": "<f4", "F16": "<f2"}[dtype])
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def rounded(values: Floats, dtype: str) -> Floats:
    """The float32 values that those of `dtype` have which are nearest to `values`."""
    stored = encode(np.ascontiguousarray(values), dtype)
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored.astype(np.float32)


def pack(codes: Floats, bits: int) -> NDArray[np.int32]:
    """Signed codes [rows, n] of 4 or 8 bits as words [rows, ⌈n * bits / 32⌉]."""
    unsigned = (codes + (1 << (bits - 1))).astype(np.uint8)
    each = 8 // bits
    padded = np.pad(unsigned, ((0, 0), (0, -unsigned.shape[1] % (4 * each))))
    bytes_ = padded if each == 1 else padded[:, 0::2] | padded[:, 1::2] << 4
    return np.ascontiguousarray(bytes_).view("<i4")


def e4m3_codes(values: Floats) -> NDArray[np.uint8]:
    """The bytes of values that E4M3 has: a bit of sign, 4 of exponent with a bias of 7, 3 of fraction."""
    bits = values.view(np.uint32)
    exponent = (bits >> 23 & 255).astype(np.int32) - 120
    normal = exponent << 3 | (bits >> 20 & 7).astype(np.int32)
    size = np.where(exponent > 0, normal, (np.abs(values) * 512).astype(np.int32))
    return np.asarray(size | (bits >> 31).astype(np.int32) << 7, np.uint8)


def _words(count: int, bits: int) -> int:
    return -(-count * bits // 32)
