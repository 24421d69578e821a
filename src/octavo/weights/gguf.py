"""GGUF files of the "llama" architecture, seen as the Hugging Face checkpoint that they were made from.

GGUF names tensors its own way, keeps the configuration as metadata, and stores the rows of Q and K permuted
for a rope that rotates neighbouring elements. All three are undone here, without touching the data.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.weights.gguf_config import generation_config, llama_config
from octavo.weights.gguf_file import GGUFFile, read_gguf, single
from octavo.weights.tensor import StoredTensor

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


class GGUFCheckpoint:
    """A GGUF file, or all files of a split one; see `tensor.Checkpoint`.

    `metadata` is what the (first) file says, under GGUF's own keys; `generation_config` has its advice on sampling.
    """

    def __init__(self, path: Path):
        """Open and validate. Raises ModelLoadError, UnknownArchitectureError."""
        files = _open_all(path)
        self.path = path
        self.metadata: dict[str, Any] = files[0].metadata
        architecture = single(path, self.metadata, "general.architecture")
        if architecture != "llama":
            raise UnknownArchitectureError(
                path,
                "general.architecture",
                f"{architecture!r} is not supported in GGUF files, only 'llama'",
            )
        stored = {name: tensor for file in files for name, tensor in file.tensors.items()}
        self._files = {_rename(file.path, name): file.path for file in files for name in file.tensors}
        factors = _rope_factors(path, stored.pop(_ROPE_FACTORS, None))
        self.config: dict[str, Any] = llama_config(path, self.metadata, stored, factors)
        self.generation_config = generation_config(path, self.metadata)
        self._tensors = {_rename(path, name): self._adopt(name, tensor) for name, tensor in stored.items()}

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        return self._tensors

    def file_of(self, name: str) -> str:
        return str(self._files.get(name, self.path))

    def _adopt(self, name: str, tensor: StoredTensor) -> StoredTensor:
        """The tensor under its Hugging Face name, with the order of its rows."""
        renamed = _rename(self.path, name)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(renamed.split(".")[-2])
        if heads is None:
            return dataclasses.replace(tensor, name=renamed)
        num_heads, head_dim = self.config[heads], self.config["head_dim"]
        if tensor.shape[0] != num_heads * head_dim:
            raise ModelLoadError(self.path, name, f"has {tensor.shape[0]} rows, not {num_heads} heads of {head_dim}")
        return dataclasses.replace(tensor, name=renamed, row_order=rope_row_order(num_heads, head_dim))


def rope_row_order(num_heads: int, head_dim: int) -> NDArray[np.int32]:
    """Where GGUF stores each row of Q or K, shape [num_heads * head_dim].

    Hugging Face rotates element i of a head with element i + head_dim / 2; GGUF's llama stores the two as
    neighbours. So row i of a head's first half is stored at 2 i, and row i of its second half at 2 i + 1.
    """
    rows = np.arange(num_heads * head_dim, dtype=np.int32)
    return rows.reshape(num_heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _open_all(path: Path) -> list[GGUFFile]:
    """The file, and the others if it is the first of a split GGUF."""
    first = read_gguf(path)
    count = single(path, first.metadata, "split.count", 1)
    if count == 1:
        return [first]
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or type(count) is not int or int(match[3]) != count or not 1 < count <= 1000:
        raise ModelLoadError(path, "split.count", f"{count!r:.40} parts, but the name is not NAME-00001-of-0000N.gguf")
    if match[2] != "00001":
        raise ModelLoadError(path, "split.no", f"open the first part: {match[1]}-00001-of-{match[3]}.gguf")
    files = [first]
    seen = set(first.tensors)
    for part in range(2, count + 1):
        file = read_gguf(path.with_name(f"{match[1]}-{part:05d}-of-{match[3]}.gguf"))
        place, parts = (single(file.path, file.metadata, f"split.{key}") for key in ("no", "count"))
        if (place, parts) != (part - 1, count):
            raise ModelLoadError(file.path, "split.no", f"is not part {part} of {count}")
        if twice := seen & set(file.tensors):
            raise ModelLoadError(file.path, min(twice)[:200], "the tensor is in another part too")
        seen |= set(file.tensors)
        files.append(file)
    total = single(path, first.metadata, "split.tensors.count", len(seen))
    if total != len(seen):
        raise ModelLoadError(path, "split.tensors.count", f"says {total!r:.40} tensors, the parts have {len(seen)}")
    return files


def _rename(path: Path, name: str) -> str:
    """The Hugging Face name of a GGUF tensor. Raises ModelLoadError if llama has none of that name."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match = _LAYER_TENSOR.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        if name == _ROPE_FACTORS:
            return name
        raise ModelLoadError(path, f"{name[:200]!r}", "the llama architecture has no such tensor")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def _rope_factors(path: Path, tensor: StoredTensor | None) -> list[float] | None:
    """The divisors of rope's frequencies that Llama 3.1 and its like store, one per pair of a head."""
    if tensor is None:
        return None
    if tensor.format != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > 4096:
        raise ModelLoadError(path, _ROPE_FACTORS, f"{tensor.format} of shape {list(tensor.shape)}, not a short F32 row")
    factors: list[float] = np.frombuffer(tensor.data.tobytes(), "<f4").tolist()
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise ModelLoadError(path, _ROPE_FACTORS, "has factors that are not finite and positive")
    return factors
