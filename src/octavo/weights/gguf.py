"""GGUF files of the "llama" architecture, seen as the Hugging Face checkpoint that they were made from.

GGUF names tensors its own way, keeps the configuration as metadata, and stores the rows of Q and K permuted
for a rope that rotates neighbouring elements. All three are undone here, without touching the data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.weights.gguf_config import generation_config, llama_config
from octavo.weights.gguf_file import GGUFFile, read_gguf, single
from octavo.weights.tensor import Checkpoint, StoredTensor

_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.(weight|bias)")
_SPLIT_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")
_ROPE_FACTORS = "rope_freqs.weight"


def open_gguf(path: Path) -> Checkpoint:
    """A GGUF file, or all files of a split one. Raises ModelLoadError, UnknownArchitectureError."""
    metadata, stored = _read_all(path)
    architecture = single(path, metadata, "general.architecture")
    if architecture != "llama":
        reason = f"{architecture!r} is not supported in GGUF files, only 'llama'"
        raise UnknownArchitectureError(path, "general.architecture", reason)
    factors = _rope_factors(path, stored.pop(_ROPE_FACTORS, None))
    names = {name: _rename(tensor) for name, tensor in stored.items()}
    config = llama_config(path, metadata, stored, factors)
    tensors = {names[name]: _adopt(tensor, names[name], config) for name, tensor in stored.items()}
    return Checkpoint(path, config, tensors, metadata, generation_config(path, metadata), "gguf")


def _adopt(tensor: StoredTensor, name: str, config: Mapping[str, Any]) -> StoredTensor:
    """The tensor under its Hugging Face name, with the order of its rows."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None:
        return replace(tensor, name=name)
    num_heads, head_dim = config[heads], config["head_dim"]
    if tensor.shape[0] != num_heads * head_dim:
        reason = f"has {tensor.shape[0]} rows, not {num_heads} heads of {head_dim}"
        raise ModelLoadError(tensor.file, tensor.name, reason)
    return replace(tensor, name=name, row_order=rope_row_order(num_heads, head_dim))


def rope_row_order(num_heads: int, head_dim: int) -> NDArray[np.int32]:
    """Where GGUF stores each row of Q or K, shape [num_heads * head_dim].

    Hugging Face rotates element i of a head with element i + head_dim / 2; GGUF's llama stores the two as
    neighbours. So row i of a head's first half is stored at 2 i, and row i of its second half at 2 i + 1.
    """
    rows = np.arange(num_heads * head_dim, dtype=np.int32)
    return rows.reshape(num_heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _read_all(path: Path) -> GGUFFile:
    """The file; if it is the first of a split GGUF, with the tensors of the others."""
    metadata, tensors = read_gguf(path)
    count = single(path, metadata, "split.count", 1)
    if count == 1:
        return GGUFFile(metadata, tensors)
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or type(count) is not int or int(match[3]) != count or not 1 < count <= 1000:
        raise ModelLoadError(path, "split.count", f"{count!r:.40} parts, but the name is not NAME-00001-of-0000N.gguf")
    if match[2] != "00001":
        raise ModelLoadError(path, "split.no", f"open the first part: {match[1]}-00001-of-{match[3]}.gguf")
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


def _rename(tensor: StoredTensor) -> str:
    """The Hugging Face name of a GGUF tensor. Raises ModelLoadError if llama has none of that name."""
    if tensor.name in _OUTER_NAMES:
        return _OUTER_NAMES[tensor.name]
    match = _LAYER_TENSOR.fullmatch(tensor.name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise ModelLoadError(tensor.file, f"{tensor.name[:200]!r}", "the llama architecture has no such tensor")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def _rope_factors(path: Path, tensor: StoredTensor | None) -> list[float] | None:
    """The divisors of rope's frequencies that Llama 3.1 and its like store, one per pair of a head."""
    if tensor is None:
        return None
    if tensor.format != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > 4096:
        raise ModelLoadError(path, _ROPE_FACTORS, f"{tensor.format} of shape {list(tensor.shape)}, not a short F32 row")
    factors: list[float] = tensor.values().tolist()
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise ModelLoadError(path, _ROPE_FACTORS, "has factors that are not finite and positive")
    return factors
