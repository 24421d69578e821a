"""GGUF files of random weights in the shapes of other models, for `benchmarks/shapes.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("BF16", "Q4_0", "Q4_K_M")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and `more` keys of its metadata, without the architecture before them."""

    architecture: str
    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    is_tied: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, Any]:
        return {
            "context_length": 4096,
            "embedding_length": self.hidden,
            "block_count": self.layers,
            "feed_forward_length": self.inner,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.dimension_count": self.head_dim,
            "rope.freq_base": 1e6,
            **self.more,
        }

    def layer(self, i: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Tensors of a layer with their shapes; those of one dimension are norms, or such."""
        hidden, width, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "attn_norm.weight", (hidden,)
        if self.architecture == "qwen35" and (i + 1) % 4:
            yield from self._recurrent()
        else:
            yield "attn_q.weight", (width * (2 if self.architecture == "qwen35" else 1), hidden)
            yield "attn_k.weight", (kv, hidden)
            yield "attn_v.weight", (kv, hidden)
            yield "attn_output.weight", (hidden, width)
            if self.architecture != "llama":
                is_whole = self.architecture == "olmoe"
                yield "attn_q_norm.weight", (width if is_whole else self.head_dim,)
                yield "attn_k_norm.weight", (kv if is_whole else self.head_dim,)
        if self.architecture in ("gemma3", "qwen35"):
            yield "post_attention_norm.weight", (hidden,)
        if self.architecture != "qwen35":
            yield "ffn_norm.weight", (hidden,)
        if self.architecture == "gemma3":
            yield "post_ffw_norm.weight", (hidden,)
        experts = self.more.get("expert_count")
        name, stack = ("_exps", (experts,)) if experts else ("", ())
        if experts:
            yield "ffn_gate_inp.weight", (1, experts, hidden)
        yield f"ffn_gate{name}.weight", (*stack, self.inner, hidden)
        yield f"ffn_up{name}.weight", (*stack, self.inner, hidden)
        yield f"ffn_down{name}.weight", (*stack, hidden, self.inner)

    def _recurrent(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        heads, groups, size = (self.more[f"ssm.{key}"] for key in ("time_step_rank", "group_count", "state_size"))
        columns = size * (2 * groups + heads)
        yield "attn_qkv.weight", (columns, self.hidden)
        yield "attn_gate.weight", (size * heads, self.hidden)
        yield "ssm_conv1d.weight", (1, columns, self.more["ssm.conv_kernel"])
        yield "ssm_dt.bias", (heads,)
        yield "ssm_a", (heads,)
        yield "ssm_beta.weight", (heads, self.hidden)
        yield "ssm_alpha.weight", (heads, self.hidden)
        yield "ssm_norm.weight", (size,)
        yield "ssm_out.weight", (self.hidden, size * heads)


SHAPES = {
    "qwen2.5-0.5b": Shape("llama", 896, 24, 4864, 14, 2, 64),
    "llama-8b": Shape("llama", 4096, 32, 14336, 32, 8, 128),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 3072, 16, 8, 128, is_tied=True),
    "gemma3-1b": Shape("gemma3", 1152, 26, 6912, 4, 1, 256, True, {"attention.sliding_window": 512}),
    "olmoe-1b-7b": Shape("olmoe", 2048, 16, 1024, 16, 16, 128, more={"expert_count": 64, "expert_used_count": 8}),
    "qwen3.5-0.8b": Shape(
        "qwen35",
        1024,
        24,
        3584,
        8,
        2,
        256,
        is_tied=True,
        more={
            "rope.dimension_count": 64,
            "rope.dimension_sections": [11, 11, 10, 0],
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 2048,
            "ssm.state_size": 128,
            "ssm.time_step_rank": 16,
            "ssm.group_count": 16,
            "full_attention_interval": 4,
        },
    ),
}


def write(path: Path, shape: Shape, format: str) -> None:
    """Matrices are in `format`; Q4_K_M has some in Q6_K, as llama.cpp's has. The tokenizer is the default model's."""
    import gguf

    from octavo.weights import resolve
    from octavo.weights.gguf_file import read_gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, shape.architecture)
    metadata = read_gguf(resolve(None)).metadata
    vocabulary = len(metadata["tokenizer.ggml.tokens"])
    tokenizer = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    prefixed = {f"{shape.architecture}.{key}": value for key, value in shape.keys.items()}
    for key, value in {**tokenizer, **prefixed, f"{shape.architecture}.vocab_size": vocabulary}.items():
        _add(writer, key, value)
    made: dict[tuple[tuple[int, ...], str], np.ndarray] = {}

    def tensor(name: str, size: tuple[int, ...], is_better: bool = False) -> None:
        if len(size) == 1 or size[0] == 1:  # vectors, and matrices that are never quantized
            values = np.ones(size) if len(size) == 1 else np.random.default_rng(1).standard_normal(size[1:]) * 0.1
            writer.add_tensor(name, (-values if name.endswith("ssm_a") else values).astype(np.float32))
            return
        kind = format if format != "Q4_K_M" else "Q4_0" if size[-1] % 256 else "Q6_K" if is_better else "Q4_K"
        if (size, kind) not in made:
            made[size, kind] = random_blocks(size, kind)
        writer.add_tensor(name, made[size, kind], raw_dtype=gguf.GGMLQuantizationType[kind])

    tensor("token_embd.weight", (vocabulary, shape.hidden))
    if not shape.is_tied:
        tensor("output.weight", (vocabulary, shape.hidden), is_better=True)
    tensor("output_norm.weight", (shape.hidden,))
    eighth = shape.layers // 8
    for i in range(shape.layers):
        is_better = i < eighth or i >= 7 * eighth or (i - eighth) % 3 == 2
        for name, size in shape.layer(i):
            tensor(f"blk.{i}.{name}", size, is_better and name.startswith(("attn_v", "ffn_down")))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)


def _add(writer: Any, key: str, value: Any) -> None:
    import gguf

    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif len(value) and isinstance(value[0], str):
        writer.add_array(key, list(value))
    else:
        numbers = np.asarray(value)
        kind = gguf.GGUFValueType.FLOAT32 if numbers.dtype.kind == "f" else gguf.GGUFValueType.INT32
        writer.add_key_value(key, numbers.tolist(), gguf.GGUFValueType.ARRAY, sub_type=kind)


def random_blocks(shape: tuple[int, ...], kind: str) -> np.ndarray:
    """uint8 [..., rows, bytes]: random codes, with scales that give a row of outputs about the size of its inputs."""
    *outer, columns = shape
    random = np.random.default_rng(outer[-1])
    if kind == "BF16":
        bits = (random.standard_normal(shape, np.float32) / columns**0.5).view(np.uint32)
        return (bits >> 16).astype(np.uint16).view(np.uint8)
    elements, block_bytes, at, size = {
        "Q4_0": (32, 18, 0, 4.6),
        "Q4_K": (256, 144, 0, 32 * 4.6),
        "Q6_K": (256, 210, 208, 74 * 18.5),
    }[kind]
    blocks = random.integers(0, 256, (*outer, columns // elements, block_bytes), np.uint8)
    scale = np.float16(1 / (size * columns**0.5))
    blocks[..., at : at + 2] = np.array([scale]).view(np.uint8)
    if kind == "Q4_K":
        blocks[..., 2:4] = np.array([scale * np.float16(7.5)]).view(np.uint8)
    return blocks.reshape(*outer, -1)
