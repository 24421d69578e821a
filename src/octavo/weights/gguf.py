"""GGUF files, seen as the Hugging Face checkpoints that they were made from.

GGUF names tensors its own way, keeps the configuration as metadata, and stores some rows in another order. All three
are undone here, without touching the data, as the `GGUFFamily` of the file's architecture says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError, UnknownArchitectureError, nearest
from octavo.weights.files import MOST_PARTS, check_whole
from octavo.weights.gguf_config import ROPE_FACTORS, config_of, generation_config
from octavo.weights.gguf_family import HEAD, STACKS, GGUFFamily
from octavo.weights.gguf_file import GGUFFile, read_gguf, single
from octavo.weights.tensor import Checkpoint, StoredTensor

_LAYER_TENSOR = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z0-9_.]+?)(\.weight|\.bias)?")
_OF_LAYER = re.compile(r"blk\.([0-9]{1,5})\.")
_SPLIT_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


def open_gguf(path: Path, families: Mapping[str, GGUFFamily]) -> Checkpoint:
    """A GGUF file, or all files of a split one, of one of the `families`, which are by general.architecture.

    Raises ModelLoadError, UnknownArchitectureError.
    """
    metadata, stored = _read_all(path)
    architecture = single(path, metadata, "general.architecture")
    if architecture not in families:
        near = nearest(str(architecture), families)
        reason = f"{architecture!r:.80} is not known in GGUF files; {near}; a plugin could declare it"
        raise UnknownArchitectureError(path, "general.architecture", reason)
    family = families[architecture]
    stored = _without_drafts(stored, metadata, architecture)
    factors = {name: _rope_factors(path, name, stored.pop(name)) for name in ROPE_FACTORS if name in stored}
    names = {name: _rename(tensor, family) for name, tensor in stored.items()}
    config = config_of(path, metadata, stored, family, factors)
    tensors = {names[name]: _adopt(tensor, names[name], family, config) for name, tensor in stored.items()}
    tensors |= {tensor.name: tensor for tensor in _numbers(path, metadata, family)}
    return Checkpoint(path, config, tensors, metadata, generation_config(path, metadata), "gguf")


def _adopt(tensor: StoredTensor, name: str, family: GGUFFamily, config: Mapping[str, Any]) -> StoredTensor:
    """The tensor under its Hugging Face name, with the order of its rows."""
    match = _LAYER_TENSOR.fullmatch(tensor.name)
    if match is not None and match[2] in STACKS:
        try:
            return replace(tensor.of_stack(transposed=STACKS[match[2]]), name=name)
        except ValueError as error:
            raise ModelLoadError(tensor.file, tensor.name, str(error)) from None
    order = None if match is None else family.row_order(match[2], int(match[1]), config)
    if order is not None and tensor.shape[0] != len(order):
        raise ModelLoadError(tensor.file, tensor.name, f"has {tensor.shape[0]} rows, not {len(order)}")
    return replace(tensor, name=name, row_order=order)


def _numbers(path: Path, metadata: Mapping[str, Any], family: GGUFFamily) -> Iterator[StoredTensor]:
    """The tensors of one value in each layer that such files have among the metadata."""
    layers = metadata[f"{family.architecture}.block_count"]
    for field, (name, shape) in family.numbers.items():
        try:
            values = np.broadcast_to(np.asarray(metadata[field], np.float32), (layers,))
        except KeyError:
            raise ModelLoadError(path, field, "is missing") from None
        except (TypeError, ValueError):
            raise ModelLoadError(path, field, f"must be a number, or a list of {layers} of them") from None
        for i, value in enumerate(values):
            yield StoredTensor(f"{family.layers}.{i}.{name}", "F32", shape, value.reshape(1).view(np.uint8), file=path)


def _read_all(path: Path) -> GGUFFile:
    """The file; if it is the first of a split GGUF, with the tensors of the others."""
    metadata, tensors = read_gguf(path)
    count = single(path, metadata, "split.count", 1)
    if count == 1:
        return GGUFFile(metadata, tensors)
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or type(count) is not int or int(match[3]) != count or not 1 < count <= MOST_PARTS:
        raise ModelLoadError(path, "split.count", f"{count!r:.40} parts, but the name is not NAME-00001-of-0000N.gguf")
    if match[2] != "00001":
        raise ModelLoadError(path, "split.no", f"open the first part: {match[1]}-00001-of-{match[3]}.gguf")
    check_whole(path)
    for part in range(2, count + 1):
        file = path.with_name(f"{match[1]}-{part:05d}-of-{match[3]}.gguf")
        about, more = read_gguf(file)
        if [single(file, about, f"split.{key}") for key in ("no", "count")] != [part - 1, count]:
            raise ModelLoadError(file, "split.no", f"is not part {part} of {count}")
        if twice := tensors.keys() & more.keys():
            raise ModelLoadError(file, min(twice), "the tensor is in another part too")
        tensors |= more
    total = single(path, metadata, "split.tensors.count", len(tensors))
    if total != len(tensors):
        raise ModelLoadError(path, "split.tensors.count", f"says {total!r:.40} tensors, the parts have {len(tensors)}")
    return GGUFFile(metadata, tensors)


def _without_drafts(
    stored: Mapping[str, StoredTensor], metadata: Mapping[str, Any], architecture: str
) -> dict[str, StoredTensor]:
    """The tensors, but for those of the last layers that draft tokens, which are counted among the model's."""
    layers, drafts = (metadata.get(f"{architecture}.{key}", 0) for key in ("block_count", "nextn_predict_layers"))
    if type(layers) is not int or type(drafts) is not int or drafts < 1:
        return dict(stored)
    numbers = {name: int(match[1]) for name in stored if (match := _OF_LAYER.match(name))}
    return {name: tensor for name, tensor in stored.items() if numbers.get(name, 0) < layers - drafts}


def _rename(tensor: StoredTensor, family: GGUFFamily) -> str:
    """The Hugging Face name of a GGUF tensor. Raises ModelLoadError if the architecture has none of that name."""
    name, _, kind = tensor.name.rpartition(".")
    outer = {**HEAD, **family.outer}
    if name in outer and kind in ("weight", "bias"):
        return f"{outer[name]}.{kind}"
    match = _LAYER_TENSOR.fullmatch(tensor.name)
    kind = "" if match is None else match[3] or ""
    if match is not None and match[2] + kind in family.layer:  # in full
        return f"{family.layers}.{match[1]}.{family.layer[match[2] + kind]}"
    if match is None or not kind or match[2] not in family.layer:
        reason = f"the {family.architecture} architecture has no such tensor"
        raise ModelLoadError(tensor.file, f"{tensor.name[:200]!r}", reason)
    return f"{family.layers}.{match[1]}.{family.layer[match[2]]}{kind}"


def _rope_factors(path: Path, name: str, tensor: StoredTensor) -> list[float]:
    """Divisors of rope's frequencies, one per pair of a head: Llama 3.1 and its like store some, longrope two sets."""
    if tensor.format != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > 4096:
        raise ModelLoadError(path, name, f"{tensor.format} of shape {list(tensor.shape)}, not a short F32 row")
    factors: list[float] = tensor.values().tolist()
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise ModelLoadError(path, name, "has factors that are not finite and positive")
    return factors
