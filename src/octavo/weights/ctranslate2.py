"""Whisper models of CTranslate2, as faster-whisper has them, seen as the Hugging Face checkpoint they were made from.

CTranslate2 names variables its own way, stacks the rows of matrices that have the same input, and adds a bias of zeros
for K. All three are undone here, without touching the data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.weights.ctranslate2_config import whisper_config
from octavo.weights.ctranslate2_file import read_ctranslate2
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import Checkpoint, StoredTensor

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


def open_ctranslate2(directory: Path) -> Checkpoint:
    """A directory with model.bin, config.json and a vocabulary. Raises ModelLoadError, UnknownArchitectureError.

    Tensors are views of the file, except for int8 ones: those are unpacked to float32 in memory, at four bytes for each
    of the file's. The tied projection to logits is not among the tensors.
    """
    path = directory / "model.bin"
    file = read_ctranslate2(path)
    if file.specification != "WhisperSpec":
        reason = f"{file.specification} is not supported in CTranslate2 files, only WhisperSpec"
        raise UnknownArchitectureError(path, "specification", reason)
    if file.revision != _REVISION:
        reason = f"{file.revision} is not supported, only {_REVISION}; convert it anew"
        raise ModelLoadError(path, "revision", reason)
    arrays = {
        name: _decode(array, file.arrays.get(f"{name}_scale"))
        for name, array in file.arrays.items()
        if not name.endswith("_scale")
    }
    if unused := next((name for name in file.arrays if name.removesuffix("_scale") not in arrays), None):
        raise ModelLoadError(path, unused, "belongs to no weight")
    if file.aliases.pop(_PROJECTION, None) != _EMBEDDINGS:
        raise ModelLoadError(path, _PROJECTION, f"is not an alias of {_EMBEDDINGS}; untied ones are not supported")
    for alias, name in file.aliases.items():
        if name not in arrays:
            raise ModelLoadError(path, alias, f"is an alias of {name}, which is no weight")
    tensors: dict[str, StoredTensor] = {}
    for array in (*arrays.values(), *(replace(arrays[name], name=alias) for alias, name in file.aliases.items())):
        for tensor in _unstacked(array):
            if tensor.name in tensors:
                raise ModelLoadError(path, array.name, f"is {tensor.name}, which is there under another name too")
            tensors[tensor.name] = tensor
    return Checkpoint(directory, whisper_config(directory, file.settings, tensors), tensors)


def _decode(array: StoredTensor, scale: StoredTensor | None) -> StoredTensor:
    """The array in a format of `layout.LAYOUTS`. CTranslate2 divides int8 by the scales of its rows."""
    if (array.format == "I8") != (scale is not None):
        reason = "is int8 without" if scale is None else f"is {array.format} with"
        raise ModelLoadError(array.file, array.name, f"{reason} an array of scales")
    if scale is None:
        if array.format not in LAYOUTS:
            reason = f"{array.format} is not supported; convert the model with quantization float16 or int8"
            raise ModelLoadError(array.file, array.name, reason)
        return array
    if scale.format != "F32" or scale.shape != array.shape[:1]:
        found = f"{scale.format} of shape {list(scale.shape)}"
        reason = f"is {found}, not F32 with one scale for each row of {array.name}"
        raise ModelLoadError(array.file, scale.name, reason)
    scales = scale.values()
    if not (np.isfinite(scales).all() and scales.min() > _SMALLEST_SCALE):
        raise ModelLoadError(array.file, scale.name, "has scales that are not finite and positive, or too small")
    return replace(array, scales=np.float32(1) / scales)


def _unstacked(array: StoredTensor) -> Iterator[StoredTensor]:
    """The tensors that are stacked in an array, under their Hugging Face names."""
    names = _rename(array)
    if array.shape[0] % len(names):
        reason = f"has {array.shape[0]} rows, not {len(names)} times as many of one matrix"
        raise ModelLoadError(array.file, array.name, reason)
    shape = (array.shape[0] // len(names), *array.shape[1:])
    scales = [None] * len(names) if array.scales is None else np.split(array.scales, len(names))
    for name, data, of_rows in zip(names, np.split(array.data, len(names)), scales, strict=True):
        if not name.endswith(".k_proj.bias"):
            yield replace(array, name=name, shape=shape, source=data, scales=of_rows)
        elif data.any():
            raise ModelLoadError(array.file, array.name, "has a bias for K that is not zero; Whisper has none")


def _rename(array: StoredTensor) -> list[str]:
    """The Hugging Face names of a variable. Raises ModelLoadError if Whisper has none of that name."""
    part, _, parameter = array.name.rpartition("/")
    if match := _LAYER.fullmatch(part):
        parts = [f"model.{match[1]}.layers.{match[2]}.{inner}" for inner in _LAYER_NAMES.get(match[3], ())]
    else:
        parts = [_OUTER_NAMES[part]] if part in _OUTER_NAMES else []
    if not parts or parameter not in _PARAMETERS:
        raise ModelLoadError(array.file, array.name, "the Whisper architecture has no such variable")
    return [f"{part}.{_PARAMETERS[parameter]}" for part in parts]
