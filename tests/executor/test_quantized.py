"""Matrices that are multiplied in the form in which they are stored, on every instruction set."""

import numpy as np
import pytest
import torch

from harness import decoder, error, logits_of, make_native, random_tensors, random_tokens, stored
from octavo import _native
from octavo.errors import ConfigError
from octavo.executor.native.layouts import choose_layouts
from octavo.executor.native.lowering import lower
from octavo.graph.builder import Graph
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor
from stored_blocks import blocks_near_one

FORMATS = [name for name, layout in LAYOUTS.items() if layout.block > 1 and _native.layout_of_format(name)]
ROWS, COLUMNS = 37, 512


def quantized(name, format, rows, columns=COLUMNS, seed=0):
    """Random blocks of a format, whose scales are near one."""
    blocks = blocks_near_one(format, rows * columns // LAYOUTS[format].block, seed)
    return StoredTensor(name, format, (rows, columns), blocks.reshape(-1))


def linear(weight, quantization=None, dtype="bfloat16"):
    """An executor whose logits are rows of a table times `weight`, and the table."""
    graph = Graph()
    graph.logits(graph.embed("embed", *weight.shape), "head", weight.shape[0])
    table = np.random.default_rng(3).standard_normal(weight.shape).astype(np.float32)
    table[5] = 0
    tensors = {"embed.weight": stored("embed.weight", table, "BF16"), "head.weight": weight}
    if quantization == "int8":  # the table would be quantized, too
        layouts = choose_layouts(graph, tensors, dtype, quantization)
        assert layouts == {"embed.weight": "int8", "head.weight": "int8"}
    executor = make_native(graph, tensors, dtype, quantization=quantization)
    return executor, tensors["embed.weight"].values()


def prepared(x, layout):
    """Rows of activations as they are multiplied with a matrix in a layout: [rows, columns]."""
    bits, columns = _native.activation_bits(layout), x.shape[1]
    if bits == 0:
        return x
    block, levels = {11: (128, 1019), 16: (columns, 127 * 256)}[bits]
    x = np.pad(x, ((0, 0), (0, -columns % block)))
    return rounded(x, block, levels).reshape(x.shape)[:, :columns]


def rounded(x, group, levels):
    """[rows, groups, group] values, of which the largest of a group becomes `levels`."""
    groups = x.reshape(len(x), -1, group)
    top = np.abs(groups).max(-1, keepdims=True).astype(np.float32)
    factor = np.divide(np.float32(levels), top, out=np.zeros_like(top), where=top > 0)
    return np.rint(groups * factor) * (top / np.float32(levels)).astype(np.float64)


@pytest.mark.parametrize("format", FORMATS)
def test_a_product_is_that_of_the_stored_numbers_and_quantized_rows(isa, format):
    weight = quantized("head.weight", format, ROWS)
    executor, table = linear(weight)
    tokens = random_tokens(40, ROWS)
    inputs = prepared(table, _native.layout_of_format(format))
    exact = inputs[tokens] @ weight.values().T.astype(np.float64)
    found = logits_of(executor, tokens)
    assert error(found, exact) < (2e-3 if format[:3] in ("NF4", "FP4") else 1e-5)  # codes that bfloat16 rounds
    assert error(found, table[tokens] @ weight.values().T) < 2e-3


@pytest.mark.parametrize("format", FORMATS)
def test_rows_of_a_table_are_the_stored_numbers(isa, format):
    """A table is kept once, in the layout that is multiplied."""
    graph = Graph()
    graph.logits(graph.embed("embed", ROWS, COLUMNS), "head", ROWS)
    table = quantized("embed.weight", format, ROWS)
    tensors = {
        "embed.weight": table,
        "head.weight": stored("head.weight", np.eye(ROWS, COLUMNS, dtype=np.float32), "BF16"),
    }
    tokens = list(range(ROWS))
    found = logits_of(make_native(graph, tensors, "bfloat16"), tokens)
    assert error(found, table.values()[:, :ROWS]) < 2**-8  # multiplied with one, in bfloat16
    for token in (0, 16, 36):
        executor = make_native(graph, tensors, "bfloat16")
        logits_of(executor, [token])
        np.testing.assert_array_equal(executor.native.read_row(0, 0, COLUMNS), table.values()[token])


def test_int8_is_quantized_by_row_while_loading(isa):
    values = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weight = stored("head.weight", values, "BF16")
    executor, table = linear(weight, "int8")
    tokens = random_tokens(40, ROWS)
    table = rounded(table, COLUMNS, 127).reshape(table.shape).astype(np.float32)  # a table's rows are rounded, too
    inputs = prepared(as_bfloat16(table), "int8")
    exact = inputs[tokens] @ rounded(weight.values(), COLUMNS, 127).reshape(-1, COLUMNS).T
    assert error(logits_of(executor, tokens), exact) < 1e-5


@pytest.mark.parametrize("columns", [40, 64, COLUMNS])
def test_fp8_is_quantized_by_groups_while_loading(isa, columns):
    """Each value becomes the nearest 8-bit float, times the scale that takes the largest of its group to 448."""
    values = np.random.default_rng(1).standard_normal((ROWS, columns)).astype(np.float32)
    values[3] = 0
    values[4, ::2] /= 4096  # without an exponent
    graph = Graph()
    graph.logits(graph.embed("embed", ROWS, columns), "head", ROWS)
    tensors = {name: stored(name, values, "BF16") for name in ("embed.weight", "head.weight")}
    executor = make_native(graph, tensors, "bfloat16", quantization="fp8")
    logits = logits_of(executor, list(range(ROWS)))
    found = np.array([executor.native.read_row(0, i, columns) for i in range(ROWS)])
    group = {40: 32, 64: 64}.get(columns, 128)
    groups = padded(tensors["embed.weight"].values()).reshape(ROWS, -1, group)
    scale = np.abs(groups).max(2, keepdims=True) / np.float32(448)
    scaled = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
    rounded = torch.from_numpy(scaled).to(torch.float8_e4m3fn).to(torch.float32).numpy() * scale
    rounded = rounded.reshape(ROWS, -1)[:, :columns]
    wrong, least = (np.abs(x - tensors["embed.weight"].values()) for x in (found, rounded))
    assert (wrong <= 1.0001 * least + 1e-7).all()
    assert error(logits, as_bfloat16(found) @ found.T.astype(np.float64)) < 1e-5


@pytest.mark.parametrize("columns", [32, 40, COLUMNS])
def test_int4_is_searched_while_loading(isa, columns):
    """Scales and minima of 32 columns: no worse than those of the range of their values, and mostly better."""
    values = np.random.default_rng(1).standard_normal((ROWS, columns)).astype(np.float32)
    values[3] = 0
    values[4] = 0.25
    weight = stored("embed.weight", values, "BF16")
    graph = Graph()
    graph.logits(graph.embed("embed", ROWS, columns), "head", ROWS)
    tensors = {"embed.weight": weight, "head.weight": stored("head.weight", values, "BF16")}
    executor = make_native(graph, tensors, "bfloat16", quantization="int4")
    logits_of(executor, list(range(ROWS)))
    found = np.array([executor.native.read_row(0, i, columns) for i in range(ROWS)])
    wrong, naive = found - weight.values(), by_range(weight.values()) - weight.values()
    assert np.abs(wrong[3:5]).max() <= 2**-12
    assert (wrong**2).sum() < 0.9 * (naive**2).sum()
    exact = prepared(as_bfloat16(padded(found)), "uint4_g32") @ padded(found).T.astype(np.float64)
    assert error(logits_of(executor, list(range(ROWS))), exact) < 1e-5


def padded(values):
    return np.pad(values, ((0, 0), (0, -values.shape[1] % 32)))


def by_range(values):
    """Each group of 32 in 16 steps from its smallest value to its largest, as float16 has them."""
    groups = [values[:, i : i + 32] for i in range(0, values.shape[1], 32)]
    return np.concatenate([_by_range(group) for group in groups], axis=1)


def _by_range(group):
    low, high = group.min(1, keepdims=True), group.max(1, keepdims=True)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float32)
    minimum = low.astype(np.float16).astype(np.float32)
    steps = np.divide(group - minimum, scale, out=np.zeros_like(group), where=scale > 0)
    return np.clip(np.rint(steps), 0, 15) * scale + minimum


def as_bfloat16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16).view(np.float32)


@pytest.mark.parametrize("format", [*FORMATS, "BF16"])
def test_no_bit_depends_on_the_batch_or_the_threads(isa, threads, format):
    rows = 200
    if format == "BF16":
        values = np.random.default_rng(1).standard_normal((rows, COLUMNS)).astype(np.float32)
        executor, _ = linear(stored("head.weight", values, format), "int8")
    else:
        executor, _ = linear(quantized("head.weight", format, rows))
    tokens = random_tokens(150, ROWS)
    threads(1)
    alone = logits_of(executor, tokens, [1] * 20)
    for count in (1, 2, 3):
        threads(count)
        for sizes in ([150], [2, 3, 5, 7, 8, 9, 16, 17, 31, 52], [100, 50]):
            np.testing.assert_array_equal(logits_of(executor, tokens, sizes), alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["Q4_1", "int8", "int4"])
def test_a_row_that_is_not_finite_has_no_finite_product(isa, form, bad):
    """Nor does it become numbers that look right where weights are quantized while loading."""
    graph = Graph()
    graph.logits(graph.embed("embed", ROWS, COLUMNS), "head", ROWS)
    table = np.ones((ROWS, COLUMNS), np.float32)
    table[7, 300] = bad
    head = stored("head.weight", np.ones((ROWS, COLUMNS), np.float32), "BF16")
    if form == "Q4_1":
        head = quantized("head.weight", form, ROWS)
    tensors = {"embed.weight": stored("embed.weight", table, "BF16"), "head.weight": head}
    executor = make_native(graph, tensors, "bfloat16", quantization=None if form == "Q4_1" else form)
    found = logits_of(executor, [7, 8])
    assert not np.isfinite(found[0]).any()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("form", ["Q4_0", "Q4_1", "IQ2_S", "int8", "int4", "fp8"])
def test_rows_of_tiny_numbers_have_tiny_products(isa, form):
    """They are too small for a number of steps that is one divided by them."""
    graph = Graph()
    graph.logits(graph.embed("embed", ROWS, COLUMNS), "head", ROWS)
    table = np.full((ROWS, COLUMNS), 1e-40, np.float32)
    table[:, ::3] = 0
    is_loaded = form in ("int8", "int4", "fp8")
    tensors = {
        "embed.weight": stored("embed.weight", table, "BF16"),
        "head.weight": stored("head.weight", table, "BF16") if is_loaded else quantized("head.weight", form, ROWS),
    }
    executor = make_native(graph, tensors, "bfloat16", quantization=form if is_loaded else None)
    assert np.abs(logits_of(executor, [0, 7])).max() < 1e-30


@pytest.mark.parametrize("layout", ["int4_g32", "int6_k16", "uint4_k32"])
def test_rows_that_a_layout_does_not_hold_are_refused(layout):
    """Nor are rows cut where a group is not full."""
    part = stored("w", np.ones((16, 96), np.float32))
    with pytest.raises(ValueError, match="can't be packed as e4m3_g64"):
        _native.pack([("F32", part.data, 16, 96, None, None)], "stacked", "e4m3_g64", _native.Arena())
    weight = stored("w", np.ones((16, 256), np.float32))
    with pytest.raises(ValueError, match=f"rows in F32 can't be packed as {layout}"):
        _native.pack([("F32", weight.data, 16, 256, None, None)], "stacked", layout, _native.Arena())


@pytest.mark.parametrize("format", ["Q4_0", "Q6_K", "IQ1_M", "MXFP4", "NVFP4"])
@pytest.mark.parametrize("missing", [1, "row"])
def test_truncated_rows_are_refused_before_they_are_packed(format, missing):
    data = quantized("w", format, 16, 256).data
    left = data.size - (data.size // 16 if missing == "row" else missing)
    with pytest.raises(ValueError, match="the number of bytes does not fit the shape"):
        _native.pack(
            [(format, data[:left], 16, 256, None, None)], "stacked", _native.layout_of_format(format), _native.Arena()
        )


def test_a_model_of_mixed_formats_runs_and_takes_the_memory_of_its_numbers(isa):
    """Weights that can't be one matrix are not stacked: v is of another format than q and k."""
    graph = decoder(hidden=256, inner=512, heads=4, kv_heads=4, head_dim=64, vocab=131)
    tensors = random_tensors(graph, "bfloat16")
    formats = {"v.weight": "Q6_K", "q.weight": "Q4_K", "k.weight": "Q4_K", "up.weight": "Q8_0", "gate.weight": "Q4_0"}
    for name, tensor in tensors.items():
        format = next((format for part, format in formats.items() if name.endswith(part)), None)
        if format:
            tensors[name] = scaled(quantized(name, format, *tensor.shape))
    tokens = random_tokens(60)
    packed = make_native(graph, tensors, "bfloat16")
    exact = make_native(graph, tensors, "float32")
    assert error(logits_of(packed, tokens), logits_of(exact, tokens)) < 0.1
    tape = lower(graph, choose_layouts(graph, tensors, "bfloat16"))
    matrices = [matrix for op in tape.ops for matrix in op.matrices.values()]
    assert {matrix.layout for matrix in matrices} == {None, "uint4_k32", "int6_k16", "int8_g32", "int4_g32"}
    assert tape.weight_bytes("bfloat16") < lower(graph).weight_bytes("bfloat16")


def scaled(tensor):
    """The same with values near those that keep activations near one."""
    blocks = tensor.data.reshape(-1, tensor.layout.block_bytes).copy()
    size = float(np.abs(tensor.values()).mean()) * np.sqrt(tensor.shape[1])
    for at in {"Q6_K": [208], "Q4_K": [0, 2]}.get(tensor.format, [0]):
        halves = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32) / size
        blocks[:, at : at + 2] = halves.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return StoredTensor(tensor.name, tensor.format, tensor.shape, blocks.reshape(-1))


@pytest.mark.parametrize("format", FORMATS)
def test_memory_is_about_the_file_s(format):
    layout = _native.layout_of_format(format)
    assert layout is not None
    packed, file = _native.packed_bytes(layout, [64], 4096), LAYOUTS[format].nbytes((64, 4096))
    few_bits = {
        "Q2_K": 2.0, "Q3_K": 1.4, "IQ1_S": 2.9, "IQ1_M": 2.7, "IQ2_XXS": 2.2, "IQ2_XS": 2.1, "IQ2_S": 1.9,
        "IQ3_XXS": 1.5, "IQ3_S": 1.3, "IQ4_NL": 1.2, "IQ4_XS": 1.1, "TQ1_0": 2.7, "TQ2_0": 2.2,
        "MXFP4": 1.2, "NVFP4": 1.4,
    }  # fmt: skip
    assert packed <= few_bits.get(format, 1.03) * file + 64


def test_every_quantized_type_of_gguf_files_runs_from_a_layout():
    assert {name for name in LAYOUTS if LAYOUTS[name].ggml_type is not None} - {*FORMATS} == {"F32", "F16", "BF16"}


def test_float32_sees_the_stored_numbers_as_they_are():
    weight = quantized("head.weight", "Q4_0", ROWS)
    executor, table = linear(weight, dtype="float32")
    tokens = random_tokens(9, ROWS)
    assert error(logits_of(executor, tokens), table[tokens] @ weight.values().T) < 1e-6


def test_weights_that_are_quantized_already_are_not_quantized_again():
    graph = Graph()
    graph.logits(graph.embed("embed", ROWS, COLUMNS), "head", ROWS)
    tensors = {name: quantized(name, "Q4_1", ROWS) for name in ("embed.weight", "head.weight")}
    with pytest.raises(ConfigError, match=r"quantization='int8'.*embed.weight is quantized already, in Q4_1"):
        choose_layouts(graph, tensors, "bfloat16", "int8")
