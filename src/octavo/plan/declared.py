"""A checkpoint without weights: what config.json alone says, with every weight of the shape that the graph gives it."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError
from octavo.graph.node import Node, Weight
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear, Logits
from octavo.models import TEXT_KINDS
from octavo.models.multimodal import text_part
from octavo.weights import Checkpoint, StoredTensor
from octavo.weights.blocks import Bytes
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import read_json
from octavo.weights.layout import LAYOUTS

_PLAIN = {"float32": "F32", "float": "F32", "float16": "F16", "half": "F16", "bfloat16": "BF16"}
_GROUPS = (32, 64, 128)
_KEPT = ("modules_to_not_convert", "llm_int8_skip_modules", "ignore", "ignored_layers", "exclude_modules")


def open_config(file: Path) -> Checkpoint:
    """The model that a config.json describes; its `declared` tensors have shapes and formats, and no bytes.

    They are of the type that the configuration says, or as its quantization_config says. Raises ModelLoadError.
    """
    if file.is_dir():
        file = file / "config.json"
    config = read_json(file)
    said = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    if isinstance(of_text := config.get("text_config"), dict) and "torch_dtype" not in config:
        said = of_text.get("torch_dtype") or of_text.get("dtype") or said
    name = said.removeprefix("torch.") if isinstance(said, str) else said
    if name not in _PLAIN:
        raise ModelLoadError(file, "torch_dtype", f"must be one of {', '.join(_PLAIN)}, got {said!r:.80}")
    method, format, kept = _quantization(config, file)
    checkpoint = text_part(Checkpoint(file.parent, config, {}, quantization=method), TEXT_KINDS)
    if checkpoint.config is not config:  # whether logits have weights of their own was asked of the tensors
        of_text = of_text if isinstance(of_text, dict) else {}
        tied = of_text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
        checkpoint = replace(checkpoint, config={**checkpoint.config, "tie_word_embeddings": tied})
    return replace(checkpoint, declared=partial(_tensors, plain=_PLAIN[name], quantized=format, kept=kept))


def _tensors(
    nodes: Iterable[Node], *, plain: str, quantized: str | None, kept: tuple[str, ...]
) -> Mapping[str, StoredTensor]:
    nodes = list(nodes)
    weights = list(dict.fromkeys(weight for node in nodes for weight in node.weights))
    formats = dict.fromkeys(weights, plain)
    if quantized is not None:
        taken = [weight for weight in _products(nodes) if not any(_names(pattern, weight.name) for pattern in kept)]
        formats |= {weight: _of_columns(quantized, weight.shape[-1]) for weight in taken}
    sizes: Counter[str] = Counter()  # several weights may be parts of one tensor
    for weight, format in formats.items():
        sizes[weight.name] += _size(weight, format)
    return {
        weight.name: StoredTensor(weight.name, format, weight.shape, _without_bytes(sizes[weight.name]))
        for weight, format in formats.items()
    }


def _of_columns(format: str, columns: int) -> str:
    """A format of groups with the largest that divides the columns, and is no larger than that of the format."""
    kind, grouped, size = format.partition("_G")
    sizes = (group for group in reversed(_GROUPS) if int(size) >= group and columns % group == 0) if grouped else ()
    return f"{kind}_G{next(iter(sizes), size)}" if grouped else format


def _size(weight: Weight, format: str) -> int:
    layout, shape = LAYOUTS[format], weight.shape or (1,)
    columns = -(-shape[-1] // layout.block) * layout.block  # what does not fill a block is padded
    return layout.nbytes((*shape[:-1], columns))


def _without_bytes(size: int) -> Bytes:
    """An array of so many bytes, which takes the memory of one."""
    return np.broadcast_to(np.zeros(1, np.uint8), (size,))


def _products(nodes: list[Node]) -> Iterator[Weight]:
    """What methods of quantization take: matrices of layers, but neither tables, nor the head, nor routes' choices."""
    routes = {node.logits for node in nodes if isinstance(node, Route)}
    for node in nodes:
        if isinstance(node, Linear | Experts) and not isinstance(node, Logits) and node not in routes:
            yield from (weight for weight in node.weights if len(weight.shape) == 2)


def _names(pattern: str, name: str) -> bool:
    """Whether the weight is of a module that stays as it is: by a part of its name, or by a regular expression."""
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    return pattern in name or fnmatch.fnmatch(name.rpartition(".")[0], pattern)


def _quantization(config: Mapping[str, Any], file: Path) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The method that the weights are quantized with, the format that they have then, and modules that are left out."""
    said = config.get("quantization_config") or config.get("compression_config")
    if not said:
        return None, None, ()
    if not isinstance(said, dict):
        raise ModelLoadError(file, "quantization_config", f"must be an object, got {said!r:.80}")
    from octavo.weights.quantized.method import Method

    reader = ConfigReader.of_file(said, file, "quantization_config.")
    name = reader.text("quant_method", None)
    method = next((method for method in Method.known if name in method.names), None)
    if method is None:
        known = ", ".join(sorted(name for method in Method.known for name in method.names))
        raise reader.fail("quant_method", f"{name!r} is not supported, only {known}")
    kept = [one for field in _KEPT if isinstance(said.get(field), list) for one in said[field]]
    return method.names[0], _format(method.names[0], said), tuple(one for one in kept if isinstance(one, str))


def _format(method: str, said: Mapping[str, Any]) -> str:
    """The stored format of a method's matrices; what the configuration leaves open is taken as the method's default."""
    weights = said
    for group in (said.get("config_groups") or {}).values() if method == "compressed-tensors" else ():
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            weights = group["weights"]
    bits, kind = weights.get("bits", weights.get("num_bits", 4)), weights.get("type", "int")
    group = weights.get("group_size") or weights.get("q_group_size") or 128
    group = next((size for size in reversed(_GROUPS) if isinstance(group, int) and 0 < size <= group), 128)
    if method == "bitsandbytes":
        return "NF4_G64" if said.get("load_in_4bit") or said.get("_load_in_4bit") else "I8"
    if method == "mxfp4":
        return "MXFP4"
    if method in ("fp8", "modelopt") or (kind == "float" and bits == 8):
        return "E2M1_G16" if "NVFP4" in str(said.get("quant_algo", "")).upper() else "E4M3_G128"
    if bits == 8 and weights.get("strategy") in ("channel", "tensor") and weights.get("symmetric", True):
        return "I8"
    if kind == "float":
        return "E2M1_G16" if group < 32 or "nvfp4" in str(said.get("format")) else "E2M1_G32"
    return f"{'U8' if isinstance(bits, int) and bits > 4 else 'U4'}_G{group}"
