"""How quantized matrices lie on a device: which form each stored format has, and the way there, in numpy.

Nothing is rounded, and codes of 4 bits are mostly copied as they are. Formats without a form are unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ConfigError
from octavo.graph.builder import Graph
from octavo.graph.node import Weight
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear, Logits
from octavo.graph.ops.table import Embed, PositionEmbed, SegmentEmbed
from octavo.weights.blocks import Bytes
from octavo.weights.layout import FP4, NF4, PLAIN
from octavo.weights.tensor import Rearranged, StoredTensor

STEP_COLUMNS = 256  # that have a float each, where scales and minima are integers
Arrays = dict[str, NDArray[Any]]
TABLES = {"nf4": NF4, "fp4": FP4}


@dataclass(frozen=True, slots=True)
class Form:
    """A weight is scale * (value of its code - offset) + minimum; a scale and a minimum are those of `group` columns.

    `codes` says what the value of a code is: that of an "unsigned" or "signed" integer, of "e4m3" or "e2m1", or what
    the table of that name in TABLES has. Of 4 bits a byte has two: `half` bytes have the codes of as many columns in
    their low halves, and those of the next as many in their high ones.
    """

    codes: str
    bits: int
    group: int  # 0: a whole row
    half: int = 0  # a divisor of the group
    offset: int = 0
    has_minima: bool = False
    numbers: str = "float32"  # the type of scales and minima
    has_steps: bool = False  # scales and minima are integers, and multiples of a float16 of STEP_COLUMNS columns

    @property
    def block(self) -> int:
        """Rows have a multiple of so many columns; others are padded."""
        return max(STEP_COLUMNS if self.has_steps else 1, self.group, 2 * self.half)

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, int], str]]:
        """The arrays of a matrix, each with its shape and type."""
        columns += -columns % self.block
        numbers = (rows, columns // self.group if self.group else 1), self.numbers
        steps = (rows, columns // STEP_COLUMNS), "float16"
        found = {"codes": ((rows, columns * self.bits // 8), "int8" if self.codes == "signed" else "uint8")}
        found["scales"] = numbers
        if self.has_minima:
            found["minima"] = numbers
        if self.has_steps:
            found["scale_steps"] = steps
        if self.has_steps and self.has_minima:
            found["minimum_steps"] = steps
        return found

    def nbytes(self, rows: int, columns: int) -> int:
        return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.shapes(rows, columns).values())


def _integers_of_32(bits: int, offset: int = 0, minima: bool = False) -> Form:
    """GGUF's first formats: float16 numbers for 32 columns."""
    return Form("unsigned" if minima or bits == 4 else "signed", bits, 32, bits == 4 and 16, offset, minima, "float16")


# What weights are quantized to while they are loaded.
QUANTIZED = {
    "int8": Form("signed", 8, 0),
    "int4": _integers_of_32(4, minima=True),
    "fp8": Form("e4m3", 8, 0),
}

FORMS = {
    "Q4_0": _integers_of_32(4, offset=8),
    "Q4_1": _integers_of_32(4, minima=True),
    "Q5_0": _integers_of_32(8),
    "Q5_1": _integers_of_32(8, minima=True),
    "Q8_0": _integers_of_32(8),
    "Q2_K": Form("unsigned", 4, 16, 8, has_minima=True, numbers="uint8", has_steps=True),
    "Q3_K": Form("unsigned", 4, 16, 8, offset=4, numbers="int8", has_steps=True),
    "Q4_K": Form("unsigned", 4, 32, 32, has_minima=True, numbers="uint8", has_steps=True),
    "Q5_K": Form("unsigned", 8, 32, has_minima=True, numbers="uint8", has_steps=True),
    "Q6_K": Form("signed", 8, 16, numbers="int8", has_steps=True),
    "I8": QUANTIZED["int8"],
    "NF4_G64": Form("nf4", 4, 64, 32),
    "FP4_G64": Form("fp4", 4, 64, 32),
    "MXFP4": Form("e2m1", 4, 32, 16),
    **{f"U4_G{group}": Form("unsigned", 4, group, group // 2, has_minima=True) for group in (32, 64, 128)},
    **{f"U8_G{group}": Form("unsigned", 8, group, has_minima=True) for group in (32, 64, 128)},
    **{f"E4M3_G{group}": Form("e4m3", 8, group) for group in (32, 64, 128)},
    **{f"E2M1_G{group}": Form("e2m1", 4, group, group // 2) for group in (16, 32)},
}


def choose_forms(graph: Graph, tensors: Mapping[str, StoredTensor], quantization: str | None = None) -> dict[str, Form]:
    """The forms of matrices that stay quantized, or become it, by the names of their weights.

    Raises ConfigError where `quantization` asks for another format than the checkpoint has.
    """
    found: dict[str, Form] = {}
    plain = {layout.name for layout in PLAIN.values()}
    wanted = QUANTIZED.get(quantization or "")
    for matrices in _matrices(graph):
        stored = {weight.name: tensors[weight.name] for weight in matrices}
        forms = {name: wanted if tensor.format in plain else _form_of(tensor) for name, tensor in stored.items()}
        for name, form in forms.items() if wanted is not None else ():
            if form != wanted:
                reason = f"{name} is quantized already, in {stored[name].format}"
                raise ConfigError("quantization", quantization, reason)
        if len(matrices) > 1 and not _are_alike(stored.values(), forms.values()):
            continue
        found |= {name: form for name, form in forms.items() if form is not None}
    return found


def _matrices(graph: Graph) -> Iterator[tuple[Weight, ...]]:
    """The matrices that may be quantized, those of experts together: not those of routes, which take few bytes."""
    routed = {node.logits for node in graph.nodes if isinstance(node, Route)}
    for node in graph.nodes:
        if isinstance(node, Experts):
            yield from (stack for stack in (node.gate, node.up, node.down) if stack)
        elif isinstance(node, PositionEmbed | SegmentEmbed) or node in routed:
            continue
        elif isinstance(node, Linear | Logits | Embed):
            yield (node.weight,)


def _are_alike(tensors: Iterable[StoredTensor], forms: Iterable[Form | None]) -> bool:
    """Whether they can be one matrix."""
    return len(set(forms)) == 1 and all(tensor.column_order is None for tensor in tensors)


def _form_of(tensor: StoredTensor) -> Form | None:
    form, source = FORMS.get(tensor.format), tensor.source
    if form is not None and form.codes == "e4m3" and isinstance(source, Rearranged) and source.one_group:
        return QUANTIZED["fp8"]  # which chips multiply in 8 bits
    return form


def pieces(stored: StoredTensor, values: int) -> Iterator[tuple[slice, StoredTensor]]:
    """A matrix in pieces of whole rows, in their own order, of about so many values each, and which rows they are."""
    of_rows = stored.data.reshape(-1, stored.layout.nbytes((stored.shape[1],)))
    step = max(1, values // stored.shape[1])
    for first in range(0, stored.shape[0], step):
        rows = slice(first, min(first + step, stored.shape[0]))
        order = rows if stored.row_order is None else stored.row_order[rows]
        data = np.array(of_rows[order])  # a copy, as files can only be read
        scales = None if stored.scales is None else np.array(stored.scales[order])
        shape = (len(data), stored.shape[1])
        yield rows, StoredTensor(stored.name, stored.format, shape, data.reshape(-1), scales=scales, file=stored.file)


def rearrange(stored: StoredTensor, form: Form) -> Arrays:
    """The arrays of `Form.shapes` of a matrix whose format has that form."""
    if stored.scales is not None:
        return {"codes": stored.data.view(np.int8).reshape(stored.shape), "scales": stored.scales[:, None]}
    blocks = stored.data.reshape(-1, stored.layout.block_bytes)
    parts = _TAKEN_APART.get(stored.format, _grouped)(blocks, FORMS[stored.format])
    arrays = {name: part.reshape(stored.shape[0], -1) for name, part in parts.items()}
    if not form.group:
        arrays["scales"] = arrays["scales"][:, :1]
    return arrays


def _grouped(blocks: Bytes, form: Form) -> Arrays:
    """Blocks of a scale, of a minimum where there is one, and of the codes as they are."""
    size = np.dtype(form.numbers).itemsize
    parts = {"scales": _floats(blocks, 0, size)}
    if form.has_minima:
        parts["minima"] = _floats(blocks, size, size)
    codes = blocks[:, size * len(parts) :]
    return {**parts, "codes": codes.view(np.int8) if form.codes == "signed" else codes}


def _floats(blocks: Bytes, at: int, size: int = 2) -> NDArray[Any]:
    return np.ascontiguousarray(blocks[:, at : at + size]).view(f"<f{size}")


def _five_bits(high: Bytes, packed: Bytes) -> Bytes:
    low = np.concatenate([packed & 0xF, packed >> 4], axis=1)
    fifth: Bytes = np.unpackbits(high, axis=1, bitorder="little") << np.uint8(4)
    return low | fifth


def _q5_0(blocks: Bytes, form: Form) -> Arrays:
    codes = _five_bits(blocks[:, 2:6], blocks[:, 6:]).view(np.int8) - np.int8(16)
    return {"codes": codes, "scales": _floats(blocks, 0)}


def _q5_1(blocks: Bytes, form: Form) -> Arrays:
    codes = _five_bits(blocks[:, 4:8], blocks[:, 8:])
    return {"codes": codes, "scales": _floats(blocks, 0), "minima": _floats(blocks, 2)}


def _fields(packed: Bytes, width: int, bits: int) -> Bytes:
    """Numbers of 1, 2 or 4 bits of K-quants, in order: in each `width` bytes, first the lowest of every byte."""
    groups = packed.reshape(len(packed), -1, 1, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    return ((groups >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _in_halves(codes: Bytes, half: int) -> Bytes:
    """Codes of 4 bits, two in a byte, as `Form.half` says."""
    pairs = codes.reshape(len(codes), -1, 2, half)
    return pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)


def _q2_k(blocks: Bytes, form: Form) -> Arrays:
    return {
        "codes": _in_halves(_fields(blocks[:, 16:80], 32, 2), form.half),
        "scales": blocks[:, :16] & 0xF,
        "minima": blocks[:, :16] >> 4,
        "scale_steps": _floats(blocks, 80),
        "minimum_steps": -_floats(blocks, 82),
    }


def _q3_k(blocks: Bytes, form: Form) -> Arrays:
    scales = _fields(blocks[:, 96:104], 8, 4) | _fields(blocks[:, 104:108], 4, 2) << np.uint8(4)
    codes = _fields(blocks[:, 32:96], 32, 2) | _fields(blocks[:, :32], 32, 1) << np.uint8(2)
    return {
        "codes": _in_halves(codes, form.half),
        "scales": scales.view(np.int8) - np.int8(32),
        "scale_steps": _floats(blocks, 108),
    }


def _with_scales_of_6_bits(blocks: Bytes, codes: Bytes) -> Arrays:
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    return {
        "codes": codes,
        "scales": np.concatenate([first & 63, rest & 0xF | first >> 6 << 4], axis=1),
        "minima": np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1),
        "scale_steps": _floats(blocks, 0),
        "minimum_steps": -_floats(blocks, 2),
    }


def _q4_k(blocks: Bytes, form: Form) -> Arrays:
    return _with_scales_of_6_bits(blocks, blocks[:, 16:])


def _q5_k(blocks: Bytes, form: Form) -> Arrays:
    codes = _fields(blocks[:, 48:], 32, 4) | _fields(blocks[:, 16:48], 32, 1) << np.uint8(4)
    return _with_scales_of_6_bits(blocks, codes)


def _q6_k(blocks: Bytes, form: Form) -> Arrays:
    codes = _fields(blocks[:, :128], 64, 4) | _fields(blocks[:, 128:192], 32, 2) << np.uint8(4)
    return {
        "codes": codes.view(np.int8) - np.int8(32),
        "scales": blocks[:, 192:208].view(np.int8),
        "scale_steps": _floats(blocks, 208),
    }


def _mxfp4(blocks: Bytes, form: Form) -> Arrays:
    """A block begins with the exponent of its scale."""
    return {"codes": blocks[:, 1:], "scales": np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 127)}


_TAKEN_APART: dict[str, Callable[[Bytes, Form], Arrays]] = {
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "MXFP4": _mxfp4,
}
