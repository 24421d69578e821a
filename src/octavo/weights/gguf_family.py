"""What the GGUF files of one architecture say in place of Hugging Face's names. Each model declares its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int32]

# Of which there are as many as heads: the key, and the field of config.json, that say how many.
HEADS = {
    "attn_q": ("attention.head_count", "num_attention_heads"),
    "attn_k": ("attention.head_count_kv", "num_key_value_heads"),
}
HEAD = {"cls.output": "score"}  # of rerankers, unless the family has another name for it
STACKS = {"attn_k_b": True, "attn_v_b": False}  # of a matrix for each head, transposed or not


@dataclass(frozen=True)
class GGUFFamily:
    """How files whose general.architecture is `architecture` become a checkpoint of what config.json calls `name`.

    `outer` and `layer` are names of tensors, the layers' after `layers`, by GGUF's: without .weight or .bias, but where
    only one of the two names ends so. A file with experts becomes one of `with_experts`, if that is said.
    `keys` are fields of config.json by keys of the metadata that only such files have; `values` are fields that are
    always so. `lists` are fields by keys that may have a list, of a number for each layer; then the field has it.
    `numbers` are tensors of one value in each layer, (name, shape) by the whole keys that have all of these values.
    A model declares what does not follow from its class: see `Decoder.completed`.
    """

    architecture: str
    name: str = ""
    outer: Mapping[str, str] = field(default_factory=dict)
    layer: Mapping[str, str] = field(default_factory=dict)
    layers: str = "model.layers"
    keys: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    with_experts: str | None = None
    required: tuple[str, ...] = ()  # of the keys: without them, a file is older than its own format
    permuted: bool = False  # the rows of q and k are in another order, see `rope_row_order`
    partial_rope: bool = False  # heads may be rotated in part
    causal: bool = True  # or else tokens see each other in both directions
    latent: bool = False  # keys are made of a latent row, see `octavo.models.mla`
    qkv_by_heads: bool = False  # in Hugging Face's checkpoints, see `grouped_row_order`

    def row_order(self, tensor: str, layer: int, config: Mapping[str, Any]) -> Order | None:
        """Where the rows are stored of a layer's tensor, by GGUF's name; None: in order."""
        if self.permuted and tensor in HEADS:
            key, field = HEADS[tensor]
            by_layer = config.get(self.lists.get(key, key), [])
            heads = by_layer[layer] if layer < len(by_layer) else config[field]
            return rope_row_order(heads, config["head_dim"])
        if self.qkv_by_heads and tensor == "attn_qkv":
            groups, size = config["num_key_value_heads"], config["head_dim"]
            return grouped_row_order(groups, (config["num_attention_heads"] // groups * size, size, size))
        return None


def rope_row_order(num_heads: int, head_dim: int) -> Order:
    """Where GGUF stores each row of Q or K, shape [num_heads * head_dim].

    Hugging Face rotates element i of a head with element i + head_dim / 2; some GGUF files store the two as
    neighbours. So row i of a head's first half is stored at 2 i, and row i of its second half at 2 i + 1.
    """
    rows = np.arange(num_heads * head_dim, dtype=np.int32)
    return rows.reshape(num_heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def grouped_row_order(groups: int, sizes: tuple[int, ...]) -> Order:
    """Where GGUF stores the rows of q, k and v that Hugging Face has by groups: first all of q, then of k, then of v.

    Each of the groups has `sizes` rows of them.
    """
    starts = np.cumsum([0, *(groups * size for size in sizes)])
    parts = [(starts[i] + np.arange(groups * size)).reshape(groups, size) for i, size in enumerate(sizes)]
    return np.concatenate(parts, axis=1).reshape(-1).astype(np.int32)
