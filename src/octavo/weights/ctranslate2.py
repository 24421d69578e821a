"""Whisper models of CTranslate2, as faster-whisper has them, seen as the Hugging Face checkpoint they were made from.

CTranslate2 names variables its own way, stacks the rows of matrices that have the same input, and adds a bias of zeros
for K. All three are undone here, without touching the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.weights.ctranslate2_config import whisper_config
from octavo.weights.ctranslate2_file import Array, read_ctranslate2
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor

_REVISION = 3  # earlier ones meant another activation by the same number
_SMALLEST_SCALE = 1e-36  # what is divided by a smaller one may be infinite in float32
_PARAMETERS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}
_OUTER_NAMES = {
    "encoder/conv1": "model.encoder.conv1",
    "encoder/conv2": "model.encoder.conv2",
    "encoder/position_encodings": "model.encoder.embed_positions",
    "encoder/layer_norm": "model.encoder.layer_norm",
    "decoder/embeddings": "model.decoder.embed_tokens",
    "decoder/position_encodings": "model.decoder.embed_positions",
    "decoder/layer_norm": "model.decoder.layer_norm",
}
# Of one layer; where there are several names, their rows are stacked in this order.
_LAYER_NAMES = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_LAYER = re.compile(r"(encoder|decoder)/layer_(0|[1-9][0-9]{0,3})/(.+)")
_PROJECTION, _EMBEDDINGS = "decoder/projection/weight", "decoder/embeddings/weight"


class CTranslate2Checkpoint:
    """A directory with model.bin, config.json and a vocabulary; see `tensor.Checkpoint`.

    Tensors are views of the file, except for int8 ones: those are unpacked to float32 in memory, at four bytes for each
    of the file's. The tied projection to logits is not among the tensors.
    """

    def __init__(self, directory: Path):
        """Open and validate. Raises ModelLoadError, UnknownArchitectureError."""
        self.path = directory
        self._file = directory / "model.bin"
        file = read_ctranslate2(self._file)
        if file.specification != "WhisperSpec":
            reason = f"{file.specification} is not supported in CTranslate2 files, only WhisperSpec"
            raise UnknownArchitectureError(self._file, "specification", reason)
        if file.revision != _REVISION:
            raise self._error("revision", f"{file.revision} is not supported, only {_REVISION}; convert it anew")
        arrays = {name: self._decode(name, file.arrays) for name in file.arrays if not name.endswith("_scale")}
        if unused := next((name for name in file.arrays if name.removesuffix("_scale") not in arrays), None):
            raise self._error(unused, "belongs to no weight")
        if file.aliases.get(_PROJECTION) != _EMBEDDINGS:
            raise self._error(_PROJECTION, f"is not an alias of {_EMBEDDINGS}; untied ones are not supported")
        self._tensors: dict[str, StoredTensor] = {}
        for name, array in arrays.items():
            self._adopt(name, array)
        for alias, name in file.aliases.items():
            if name not in arrays:
                raise self._error(alias, f"is an alias of {name}, which is no weight")
            if alias != _PROJECTION:
                self._adopt(alias, arrays[name])
        self.config: dict[str, Any] = whisper_config(directory, file.settings, self._tensors)

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        return self._tensors

    def file_of(self, name: str) -> str:
        return str(self._file)

    def _error(self, field: str, reason: str) -> ModelLoadError:
        return ModelLoadError(self._file, field, reason)

    def _decode(self, name: str, arrays: Mapping[str, Array]) -> Array:
        """The array in a format of `layout.LAYOUTS`; int8 is divided by the scales of its rows."""
        array, scale = arrays[name], arrays.get(name + "_scale")
        if (array.dtype == "I8") != (scale is not None):
            reason = "is int8 without" if scale is None else f"is {array.dtype} with"
            raise self._error(name, f"{reason} an array of scales")
        if scale is None:
            if array.dtype not in LAYOUTS:
                reason = f"{array.dtype} is not supported; convert the model with quantization float16 or int8"
                raise self._error(name, reason)
            return array
        if scale.dtype != "F32" or scale.shape != array.shape[:1]:
            reason = f"is {scale.dtype} of shape {list(scale.shape)}, not F32 with one scale for each row of {name}"
            raise self._error(f"{name}_scale", reason)
        scales = np.frombuffer(scale.data.tobytes(), "<f4")
        if not (np.isfinite(scales).all() and scales.min() > _SMALLEST_SCALE):
            raise self._error(f"{name}_scale", "has scales that are not finite and positive, or too small")
        values = array.data.view(np.int8).reshape(len(scales), -1) / scales[:, None]
        values.flags.writeable = False
        return Array("F32", array.shape, values.reshape(-1).view(np.uint8))

    def _adopt(self, name: str, array: Array) -> None:
        """Take an array as the tensors that are stacked in it, under their Hugging Face names."""
        names = self._rename(name)
        if array.shape[0] % len(names):
            raise self._error(name, f"has {array.shape[0]} rows, not {len(names)} times as many of one matrix")
        shape = (array.shape[0] // len(names), *array.shape[1:])
        for renamed, data in zip(names, np.split(array.data, len(names)), strict=True):
            if renamed in self._tensors:
                raise self._error(name, f"is {renamed}, which is there under another name too")
            if renamed.endswith(".k_proj.bias"):
                if data.any():
                    raise self._error(name, "has a bias for K that is not zero; Whisper has none")
            else:
                self._tensors[renamed] = StoredTensor(renamed, array.dtype, shape, data)

    def _rename(self, name: str) -> list[str]:
        """The Hugging Face names of a variable. Raises ModelLoadError if Whisper has none of that name."""
        part, _, parameter = name.rpartition("/")
        match = _LAYER.fullmatch(part)
        if match is None:
            parts = [_OUTER_NAMES[part]] if part in _OUTER_NAMES else []
        else:
            parts = [f"model.{match[1]}.layers.{match[2]}.{inner}" for inner in _LAYER_NAMES.get(match[3], ())]
        if not parts or parameter not in _PARAMETERS:
            raise self._error(name, "the Whisper architecture has no such variable")
        return [f"{part}.{_PARAMETERS[parameter]}" for part in parts]
