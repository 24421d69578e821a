"""A writer of CTranslate2's Whisper models: tiny random ones, and files that lie."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

WIDTH, MELS, INNER, FRAMES, POSITIONS, HEADS = 4, 3, 8, 5, 7, 2
LAYERS = {"encoder": 1, "decoder": 2}
TOKENS = ["!", "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|notimestamps|>", "<|0.00|>"]
KINDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "uint16": 5}  # uint16 stands for bfloat16
EMBEDDINGS, PROJECTION = "decoder/embeddings/weight", "decoder/projection/weight"
SETTINGS = {
    "decoder/activation": np.int8(3),
    "decoder/alibi": np.int8(0),
    "decoder/alignment_heads": np.int16(1),
    "decoder/alignment_layer": np.int16(-1),
    "decoder/num_heads": np.int16(HEADS),
    "decoder/pre_norm": np.int8(1),
    "decoder/scale_embeddings": np.int8(0),
    "decoder/start_from_zero_embedding": np.int8(0),
    "encoder/num_heads": np.int16(HEADS),
}
ALIASES = {PROJECTION: EMBEDDINGS}
Tensors = dict[str, Any]


def whisper(seed: int = 0) -> Tensors:
    """Random float32 tensors of a tiny Whisper, under Hugging Face names."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (WIDTH, MELS, 3), "encoder.conv1.bias": (WIDTH,),
        "encoder.conv2.weight": (WIDTH, WIDTH, 3), "encoder.conv2.bias": (WIDTH,),
        "encoder.embed_positions.weight": (FRAMES, WIDTH),
        "decoder.embed_positions.weight": (POSITIONS, WIDTH),
        "decoder.embed_tokens.weight": (len(TOKENS), WIDTH),
    }  # fmt: skip
    for stack, count in LAYERS.items():
        norms = [f"{stack}.layer_norm"]
        for layer in (f"{stack}.layers.{i}" for i in range(count)):
            attentions = ["self_attn"] if stack == "encoder" else ["self_attn", "encoder_attn"]
            norms += [f"{layer}.{name}_layer_norm" for name in (*attentions, "final")]
            for name in (f"{layer}.{name}.{part}_proj" for name in attentions for part in ("q", "k", "v", "out")):
                shapes |= {f"{name}.weight": (WIDTH, WIDTH)} | ({} if ".k_" in name else {f"{name}.bias": (WIDTH,)})
            shapes |= {f"{layer}.fc1.weight": (INNER, WIDTH), f"{layer}.fc1.bias": (INNER,)}
            shapes |= {f"{layer}.fc2.weight": (WIDTH, INNER), f"{layer}.fc2.bias": (WIDTH,)}
        shapes |= {f"{norm}.{name}": (WIDTH,) for norm in norms for name in ("weight", "bias")}
    rng = np.random.default_rng(seed)
    return {f"model.{name}": rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def converted(tensors: Tensors) -> Tensors:
    """The tensors as CTranslate2's converter names and stacks them."""
    result: Tensors = {}

    def linear(name: str, *parts: str) -> None:
        result[f"{name}/weight"] = np.concatenate([tensors[f"model.{part}.weight"] for part in parts])
        biases = [tensors.get(f"model.{part}.bias", np.zeros(WIDTH, np.float32)) for part in parts]
        result[f"{name}/bias"] = np.concatenate(biases)

    def norm(name: str, source: str) -> None:
        result[f"{name}/gamma"] = tensors[f"model.{source}.weight"]
        result[f"{name}/beta"] = tensors[f"model.{source}.bias"]

    for stack, count in LAYERS.items():
        for i in range(count):
            ours, theirs = f"{stack}/layer_{i}", f"{stack}.layers.{i}"
            q, k, v, out = (f"{theirs}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
            norm(f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
            linear(f"{ours}/self_attention/linear_0", q, k, v)
            linear(f"{ours}/self_attention/linear_1", out)
            if stack == "decoder":
                q, k, v, out = (name.replace("self_attn", "encoder_attn") for name in (q, k, v, out))
                norm(f"{ours}/attention/layer_norm", f"{theirs}.encoder_attn_layer_norm")
                linear(f"{ours}/attention/linear_0", q)
                linear(f"{ours}/attention/linear_1", k, v)
                linear(f"{ours}/attention/linear_2", out)
            norm(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            linear(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
        norm(f"{stack}/layer_norm", f"{stack}.layer_norm")
        result[f"{stack}/position_encodings/encodings"] = tensors[f"model.{stack}.embed_positions.weight"]
    linear("encoder/conv1", "encoder.conv1")
    linear("encoder/conv2", "encoder.conv2")
    result[EMBEDDINGS] = tensors["model.decoder.embed_tokens.weight"]
    return result


def stored_as(dtype: str, variables: Tensors) -> Tensors:
    """The variables in float32, float16, bfloat16, or, the matrices of them, in int8 with a scale for each row."""
    if dtype == "bfloat16":
        return {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in variables.items()}
    if dtype != "int8":
        return {name: value.astype(dtype) for name, value in variables.items()}
    result: Tensors = {}
    for name, value in variables.items():
        if not name.endswith("/weight"):
            result[name] = value.astype(np.float16)
            continue
        rows = value.reshape(len(value), -1)
        scale = 127 / np.abs(rows).max(axis=1)
        result[name] = np.rint(rows * scale[:, None]).astype(np.int8).reshape(value.shape)
        result[f"{name}_scale"] = scale.astype(np.float32)
    return result


def string(text: str | bytes) -> bytes:
    data = (text.encode() if isinstance(text, str) else text) + b"\0"
    return struct.pack("<H", len(data)) + data


def variable(name: str | bytes, value: Any, **lie: int) -> bytes:
    """One variable; `lie` may say another rank, type (kind), or number of bytes (length)."""
    value = np.asarray(value)
    rank, kind = lie.get("rank", value.ndim), lie.get("kind", KINDS[value.dtype.name])
    dims = struct.pack(f"<{value.ndim}I", *value.shape)
    length = lie.get("length", value.nbytes)
    return string(name) + struct.pack("<B", rank) + dims + struct.pack("<BI", kind, length) + value.tobytes()


def model_bin(
    variables: list[bytes],
    aliases: dict[str, str] | None = None,
    *,
    version: int = 6,
    name: bytes = string("WhisperSpec"),
    revision: int = 3,
    num_variables: int | None = None,
    num_aliases: int | None = None,
) -> bytes:
    aliases = aliases or {}
    num_variables = len(variables) if num_variables is None else num_variables
    num_aliases = len(aliases) if num_aliases is None else num_aliases
    head = struct.pack("<I", version) + name + struct.pack("<II", revision, num_variables)
    tail = struct.pack("<I", num_aliases) + b"".join(string(a) + string(b) for a, b in aliases.items())
    return head + b"".join(variables) + tail
