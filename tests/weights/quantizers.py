"""Writers of quantized matrices, each from its format's equations, or by its quantizer's own functions.

A writer takes a matrix [outputs, inputs] and gives its tensors, by suffix, and the matrix that they stand for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor

Parts = dict[str, Tensor]
Writer = Callable[[Tensor], tuple[Parts, Tensor]]

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
NF4 = torch.tensor([
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
])  # fmt: skip
FP4 = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3]) / 12


def quantize(path: Path, config: dict[str, Any], writer: Writer) -> Parts:
    """Quantizes the linears of a checkpoint, and gives what their weights stand for then."""
    tensors, values = load_file(path / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        parts, values[name] = writer(tensors.pop(name))
        tensors |= {module + suffix: part.contiguous() for suffix, part in parts.items()}
        tensors[f"{module}.input_scale"] = torch.ones(1)
    tensors["model.layers.0.self_attn.k_scale"] = torch.ones(1)
    save_file(tensors, path / "model.safetensors")
    file = path / "config.json"
    entries = json.loads(file.read_text()) | {"quantization_config": {**config, "ignore": ["lm_head", "re:.*norm"]}}
    file.write_text(json.dumps(entries))
    return values


def words(rows: Any, bits: int) -> Tensor:
    """Each row of integers as one long number, the first integer lowest, cut into words: int32 [rows, words]."""
    packed = []
    for row in np.asarray(rows).tolist():
        number = sum(int(value) << bits * i for i, value in enumerate(row))
        packed.append(np.frombuffer(number.to_bytes(-(-len(row) * bits // 32) * 4, "little"), "<i4").copy())
    return torch.from_numpy(np.stack(packed))


def rounded(weight: Tensor, group_of: Tensor, bits: int, symmetric: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [N, K], and for each group scales in float16 and zero points, both [N, G]."""
    top, groups = 2**bits - 1, int(group_of.max()) + 1
    low = torch.stack([weight[:, group_of == g].amin(1) for g in range(groups)], 1).clamp(max=0)
    high = torch.stack([weight[:, group_of == g].amax(1) for g in range(groups)], 1).clamp(min=0)
    scales = ((high - low) / top).half().float()
    zeros = (-low / scales).round().clamp(1, top)  # version 1 of GPTQ has no zero
    if symmetric:
        zeros = torch.full_like(zeros, 2 ** (bits - 1))
    codes = (weight / scales[:, group_of] + zeros[:, group_of]).round().clamp(0, top)
    return codes.long(), scales, zeros


def groups_of(columns: int, size: int) -> Tensor:
    return torch.arange(columns) // size


def gptq(
    bits: int = 4, size: int = 32, version: int = 1, order: str | None = "even", symmetric: bool = False
) -> Writer:
    """`order`: of groups, "even", "mixed" as act-order makes them, "apart" likewise, but in each matrix another one,
    "runs" of a group each; None: without g_idx."""

    def write(weight: Tensor) -> tuple[Parts, Tensor]:
        columns = weight.shape[1]
        group_of = groups_of(columns, size)
        generator = torch.Generator().manual_seed(int(weight.abs().sum()) if order == "apart" else 1)
        if order in ("mixed", "apart"):
            group_of = group_of[torch.randperm(columns, generator=generator)]
        if order == "runs":
            group_of = torch.randperm(int(group_of.max()) + 1, generator=generator)[group_of]
        codes, scales, zeros = rounded(weight, group_of, bits, symmetric)
        parts = {
            ".qweight": words(codes, bits).T.contiguous(),
            ".qzeros": words(zeros.T - int(version == 1), bits),
            ".scales": scales.T.half().contiguous(),
        }
        if order is not None:
            parts[".g_idx"] = group_of.int()
        return parts, scales[:, group_of] * (codes - zeros[:, group_of])

    return write


def packed_with_groups(weight: Tensor) -> tuple[Parts, Tensor]:
    """compressed-tensors' integers of 4 bits, with the group of each column, of 32 each, as act-order makes them."""
    rows, columns = weight.shape
    group_of = groups_of(columns, 32)[torch.randperm(columns, generator=torch.Generator().manual_seed(1))]
    codes, scales, zeros = rounded(weight, group_of, 4)
    parts = {
        ".weight_packed": words(codes, 4),
        ".weight_scale": scales,
        ".weight_shape": torch.tensor([rows, columns]),
        ".weight_zero_point": words(zeros.T, 4).T,
        ".weight_g_idx": group_of.int(),
    }
    return parts, scales[:, group_of] * (codes - zeros[:, group_of])


def awq(size: int = 32) -> Writer:
    def pack(codes: Tensor) -> Tensor:
        """[rows, columns], of which eight neighbours go to a word in AWQ's order."""
        order = [0, 2, 4, 6, 1, 3, 5, 7]  # the column that each nibble has
        return words(codes.reshape(-1, 8)[:, order], 4).reshape(len(codes), -1)

    def write(weight: Tensor) -> tuple[Parts, Tensor]:
        group_of = groups_of(weight.shape[1], size)
        codes, scales, zeros = rounded(weight, group_of, 4)
        parts = {".qweight": pack(codes.T), ".qzeros": pack(zeros.T.long()), ".scales": scales.T.half().contiguous()}
        return parts, scales[:, group_of] * (codes - zeros[:, group_of])

    return write


def compressed(format: str, dtype: torch.dtype = torch.float32, **weights: Any) -> Writer:
    """By compressed-tensors' own compressors, both ways."""
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(format)

    def write(weight: Tensor) -> tuple[Parts, Tensor]:
        state = {"weight": weight.clone(), **compressed_scales(weight, args, dtype)}
        tensors = compressor.compress(state, scheme)
        named = {f".{name}": tensor for name, tensor in tensors.items()}
        if "weight_global_scale" not in tensors:
            return named, compressor.decompress(tensors, scheme)["weight"].float()
        codes = unpack_fp4_from_uint8(tensors["weight_packed"], *weight.shape).float()  # the rest is in bfloat16 there
        scales = {"scale": tensors["weight_scale"].float(), "global_scale": tensors["weight_global_scale"]}
        return named, dequantize(codes, args=args, **scales)

    return write


def compressed_scales(weight: Tensor, args: QuantizationArgs, dtype: torch.dtype) -> Parts:
    rows, columns = weight.shape
    strategy = args.strategy
    if strategy == "block":
        height, width = args.block_structure
        grid = [[part.abs().max() for part in row.split(width, 1)] for row in weight.split(height)]
        return {"weight_scale": (torch.tensor(grid) / 448).to(dtype)}
    count = {"tensor": 1, "channel": 1}.get(strategy) or columns // args.group_size
    groups = weight.reshape(1 if strategy == "tensor" else rows, count, -1)
    top = groups.abs().amax(2)
    if args.type == "float":
        largest = 6 if args.num_bits == 4 else 448
        if strategy == "tensor_group":
            of_tensor = 448 * 6 / weight.abs().max()
            scales = (top / largest * of_tensor).to(torch.float8_e4m3fn).float()
            return {"weight_scale": scales, "weight_global_scale": of_tensor.reshape(1)}
        if args.group_size == 32:
            return {"weight_scale": 2 ** (top / largest).log2().ceil()}
        return {"weight_scale": (top / largest).to(dtype).reshape(1 if strategy == "tensor" else (rows, 1))}
    if args.symmetric:
        return {"weight_scale": (top / (2 ** (args.num_bits - 1) - 0.5)).to(dtype)}
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    scales = ((high - low) / (2**args.num_bits - 1)).to(dtype)
    zeros = (-low / scales.float()).round() - 2 ** (args.num_bits - 1)
    return {"weight_scale": scales, "weight_zero_point": zeros.clamp(-128, 127).to(torch.int8)}


def e4m3(weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, and what they stand for with scales that can be broadcast to the matrix."""
    codes = (weight / scales).to(torch.float8_e4m3fn)
    return codes, codes.float() * scales


def fp8(kind: str, suffix: str = ".weight_scale", dtype: torch.dtype = torch.float32) -> Writer:
    """`kind`: tensor, scalar, channel, vector (channels in one dimension), block (of 128 x 128)."""

    def write(weight: Tensor) -> tuple[Parts, Tensor]:
        rows, columns = weight.shape
        if kind == "block":
            grid = [[part.abs().max() for part in row.split(128, 1)] for row in weight.split(128)]
            stored = torch.tensor(grid) / 448
            if dtype == torch.float8_e8m0fnu:
                stored = 2 ** stored.log2().ceil()
            scales = stored.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        else:
            scales = weight.abs().amax(1, keepdim=True) / 448
            if kind in ("tensor", "scalar"):
                scales = scales.max()
            stored = scales.reshape({"tensor": (1,), "scalar": (), "channel": (rows, 1), "vector": (rows,)}[kind])
        codes, values = e4m3(weight, scales)
        return {".weight": codes, suffix: stored.to(dtype)}, values

    return write


def nvfp4() -> Writer:
    """As ModelOpt has it: scales are multiplied with that of the tensor."""

    def write(weight: Tensor) -> tuple[Parts, Tensor]:
        rows = len(weight)
        groups = weight.reshape(rows, -1, 16)
        of_tensor = weight.abs().max() / (6 * 448)
        stored = (groups.abs().amax(2) / 6 / of_tensor).to(torch.float8_e4m3fn)
        scales = (stored.float() * of_tensor)[:, :, None]
        codes = nearest(groups / scales, E2M1)
        parts = {".weight": nibbles(codes.reshape(rows, -1)), ".weight_scale": stored, ".weight_scale_2": of_tensor}
        return parts, (E2M1[codes] * scales).reshape(weight.shape)

    return write


def mxfp4_stack(weights: Tensor) -> tuple[Parts, Tensor]:
    """A stack [experts, rows, columns] as gpt-oss has it."""
    groups = weights.reshape(*weights.shape[:2], -1, 32)
    exponents = (groups.abs().amax(3) / 6).log2().ceil()
    scales = 2 ** exponents[..., None]
    codes = nearest(groups / scales, E2M1)
    parts = {"_blocks": nibbles(codes), "_scales": (exponents + 127).to(torch.uint8)}
    return parts, (E2M1[codes] * scales).reshape(weights.shape)


def bitsandbytes(kind: str, block: int = 64, nested: bool = False, table: Tensor | None = None) -> Writer:
    """nf4 or fp4; `nested`: scales are quantized, 256 of them together."""
    table = {"nf4": NF4, "fp4": FP4}[kind] if table is None else table

    def write(weight: Tensor) -> tuple[Parts, Tensor]:
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "float32", "shape": [*weight.shape]}
        groups = weight.reshape(-1, block)
        scales = groups.abs().amax(1)
        parts = {".weight.quant_map": table.clone(), ".weight.absmax": scales}
        if nested:
            offset = scales.mean()
            outer = torch.stack([part.abs().max() for part in (scales - offset).split(256)])
            of_scales = torch.linspace(-1, 1, 256) ** 3
            repeated = outer.repeat_interleave(256)[: len(scales)]
            absmax = nearest((scales - offset) / repeated, of_scales)
            scales = of_scales[absmax] * repeated + offset
            parts |= {
                ".weight.absmax": absmax.to(torch.uint8),
                ".weight.nested_absmax": outer,
                ".weight.nested_quant_map": of_scales,
            }
            state |= {"nested_blocksize": 256, "nested_offset": offset.item(), "nested_dtype": "float32"}
        codes = nearest(groups / scales[:, None], table)
        text = torch.tensor([*json.dumps(state).encode()], dtype=torch.uint8)
        parts |= {
            ".weight": nibbles(codes.reshape(-1, 2).flip(1)),
            f".weight.quant_state.bitsandbytes__{kind}": text,
        }
        return parts, (table[codes] * scales[:, None]).reshape(weight.shape)

    return write


def bitsandbytes_int8(weight: Tensor) -> tuple[Parts, Tensor]:
    top = weight.abs().amax(1)
    codes = (weight / top[:, None] * 127).round().to(torch.int8)
    parts = {".weight": codes, ".SCB": top, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes.float() * top[:, None] / 127


def nearest(values: Tensor, table: Tensor) -> Tensor:
    return (values[..., None] - table).abs().argmin(-1)


def nibbles(codes: Tensor) -> Tensor:
    """The first of two neighbours in the low half of a byte."""
    return (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
