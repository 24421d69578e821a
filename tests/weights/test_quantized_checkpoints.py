"""Quantized checkpoints: what is read of each format is what its equations, or its quantizer, make of its tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantizers as q
import torch
from safetensors.torch import save_file

from checkpoints import save_checkpoint, transformers_logits
from harness import error, logits_of, make_native, make_torch, random_tokens
from octavo.executor.native.layouts import choose_layouts
from octavo.executor.torch.forms import choose_forms
from octavo.graph.builder import Graph
from octavo.graph.node import Weight
from octavo.models import load_declaration
from octavo.weights import open_checkpoint
from octavo.weights.bind import bind, forget_pages
from octavo.weights.tensor import StoredTensor

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}


def of_compressed(format: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, "format": format}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}}


def compressed_case(format: str, expected: str, **weights: Any) -> tuple[dict[str, Any], q.Writer, str]:
    return of_compressed(format, **weights), q.compressed(format, **weights), expected


GPTQ, GPTQ2 = {"quant_method": "gptq"}, {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}
FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
BNB = {"quant_method": "bitsandbytes"}

# What config.json says, who writes a matrix, and the format that one of 192 columns has here.
CASES: dict[str, tuple[dict[str, Any], q.Writer, str]] = {
    **{f"gptq {bits} bits": (GPTQ, q.gptq(bits), "U4_G32" if bits <= 4 else "U8_G32") for bits in range(2, 9)},
    "gptq symmetric": (GPTQ, q.gptq(symmetric=True), "U4_G32"),
    "gptq version 2": (GPTQ2, q.gptq(version=2), "U4_G32"),
    "gptq 3 bits version 2": (GPTQ2, q.gptq(3, version=2), "U4_G32"),
    "gptq groups of 64": (GPTQ, q.gptq(size=64), "U4_G64"),
    "gptq groups of 96": (GPTQ, q.gptq(size=96), "U4_G32"),
    "gptq groups of 24": (GPTQ, q.gptq(size=24), "F32"),
    "gptq one group": (GPTQ, q.gptq(size=192), "U4_G64"),
    "gptq without g_idx": (GPTQ, q.gptq(order=None), "U4_G32"),
    "gptq act-order": (GPTQ, q.gptq(order="mixed"), "U4_G32"),
    "gptq act-order of 8 bits": (GPTQ, q.gptq(8, order="mixed"), "U8_G32"),
    "gptq act-order by groups of 64": (GPTQ2, q.gptq(3, 64, 2, order="mixed"), "U4_G64"),
    "gptq act-order by groups of 24": (GPTQ, q.gptq(size=24, order="mixed"), "F32"),
    "gptq groups in another order": (GPTQ, q.gptq(order="runs"), "U4_G32"),
    "auto-round": ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, q.gptq(), "U4_G32"),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm", "group_size": 32}, q.awq(), "U4_G32"),
    "awq by its older names": ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, q.awq(64), "U4_G64"),
    "int4 groups": compressed_case("pack-quantized", "U4_G32", **INT4),
    "int4 groups, asymmetric": compressed_case("pack-quantized", "U4_G32", **INT4, symmetric=False),
    "int4 groups, act-order": (
        of_compressed("pack-quantized", **INT4, symmetric=False), q.packed_with_groups, "U4_G32"),
    "int3 groups": compressed_case("pack-quantized", "U4_G32", **INT4 | {"num_bits": 3}),
    "int5 channels, asymmetric": compressed_case(
        "pack-quantized", "U8_G64", num_bits=5, type="int", strategy="channel", symmetric=False
    ),
    "int8 packed channels": compressed_case("pack-quantized", "U8_G64", num_bits=8, type="int", strategy="channel"),
    "int8 channels": compressed_case("int-quantized", "I8", num_bits=8, type="int", strategy="channel"),
    "int8 tensor": compressed_case("int-quantized", "I8", num_bits=8, type="int", strategy="tensor"),
    "int8 groups": compressed_case("int-quantized", "U8_G64", **INT4 | {"num_bits": 8, "group_size": 64}),
    "int8 channels, asymmetric": compressed_case(
        "int-quantized", "U8_G64", num_bits=8, type="int", strategy="channel", symmetric=False
    ),
    "float8 tensor": compressed_case("float-quantized", "E4M3_G64", **FLOAT8, strategy="tensor"),
    "float8 channels": compressed_case("float-quantized", "E4M3_G64", **FLOAT8, strategy="channel"),
    "float8 blocks": compressed_case(
        "float-quantized", "E4M3_G64", **FLOAT8, strategy="block", block_structure=[128, 128]
    ),
    "compressed nvfp4": compressed_case(
        "nvfp4-pack-quantized", "E2M1_G16", num_bits=4, type="float", strategy="tensor_group", group_size=16
    ),
    "compressed mxfp4": compressed_case(
        "mxfp4-pack-quantized", "E2M1_G32", num_bits=4, type="float", strategy="group", group_size=32
    ),
    "mxfp8": compressed_case("mxfp8-quantized", "E4M3_G32", **FLOAT8, strategy="group", group_size=32),
    "fp8 tensor": ({"quant_method": "fp8"}, q.fp8("tensor"), "E4M3_G64"),
    "fp8 scalar": ({"quant_method": "fp8"}, q.fp8("scalar"), "E4M3_G64"),
    "fp8 channels": ({"quant_method": "fbgemm_fp8"}, q.fp8("channel"), "E4M3_G64"),
    "fp8 blocks": (FP8_BLOCKS, q.fp8("block", ".weight_scale_inv"), "E4M3_G64"),
    "fp8 blocks with powers of two": (
        FP8_BLOCKS, q.fp8("block", ".weight_scale_inv", torch.float8_e8m0fnu), "E4M3_G64"),
    "modelopt fp8": (MODELOPT, q.fp8("scalar"), "E4M3_G64"),
    "modelopt fp8 of channels": (MODELOPT, q.fp8("vector"), "E4M3_G64"),
    "modelopt nvfp4": (MODELOPT, q.nvfp4(), "E2M1_G16"),
    "nf4": (BNB, q.bitsandbytes("nf4"), "NF4_G64"),
    "nf4 nested": (BNB, q.bitsandbytes("nf4", nested=True), "NF4_G64"),
    "nf4 blocks of 32": (BNB, q.bitsandbytes("nf4", block=32), "F32"),
    "nf4 blocks across rows": (BNB, q.bitsandbytes("nf4", block=128, nested=True), "F32"),
    "fp4": (BNB, q.bitsandbytes("fp4"), "FP4_G64"),
    "a table of 4 bits": (BNB, q.bitsandbytes("nf4", table=torch.linspace(-1, 1, 16)), "F32"),
    "bitsandbytes int8": (BNB, q.bitsandbytes_int8, "I8"),
}  # fmt: skip


def write(path: Path, config: dict[str, Any], parts: q.Parts, module: str = "x") -> Path:
    """A checkpoint of one module."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    tensors = {module + suffix: tensor.contiguous() for suffix, tensor in parts.items()}
    save_file(tensors, path / "model.safetensors")
    return path


def matrix(rows: int = 160, columns: int = 192) -> torch.Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    return weight * torch.linspace(0.5, 3, columns) + 0.1


def assert_equal(stored: StoredTensor, values: torch.Tensor) -> None:
    expected = values.numpy()
    assert stored.shape == expected.shape
    np.testing.assert_allclose(stored.values(), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_a_matrix_is_what_its_tensors_stand_for(case: str, tmp_path: Path) -> None:
    config, writer, format = CASES[case]
    parts, values = writer(matrix())
    checkpoint = open_checkpoint(write(tmp_path, config, parts))
    assert list(checkpoint.tensors) == ["x.weight"]
    stored = checkpoint.tensors["x.weight"]
    assert stored.format == format
    assert_equal(stored, values)
    assert error(stored.values(), matrix().numpy()) < 0.4, "the writer has lost the weights"


@pytest.mark.parametrize("case", ["gptq 4 bits", "int8 channels", "nf4 nested", "modelopt nvfp4", "fp8 blocks"])
def test_numbers_may_begin_at_any_byte_of_a_file(case: str, tmp_path: Path) -> None:
    config, writer, _ = CASES[case]
    parts, values = writer(matrix())
    file = write(tmp_path, config, parts) / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    file.write_bytes((size + 1).to_bytes(8, "little") + data[8 : 8 + size] + b" " + data[8 + size :])
    stored = open_checkpoint(tmp_path).tensors["x.weight"]
    assert stored.scales is None or stored.scales.flags.aligned
    assert_equal(stored, values)


def test_a_stack_of_experts_is_read_one_by_one(tmp_path: Path) -> None:
    parts, values = q.mxfp4_stack(torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0)))
    name = "mlp.experts.gate_up_proj"
    path = write(tmp_path, {"quant_method": "mxfp4"}, parts | {"_bias": torch.zeros(3, 40)}, name)
    checkpoint = open_checkpoint(path)
    assert sorted(checkpoint.tensors) == [name, f"{name}_bias"]
    stack = checkpoint.tensors[name]
    assert stack.format == "E2M1_G32"
    assert_equal(stack, values)
    for expert in range(3):
        part = stack.part(Weight(name, (40, 64), expert=expert))
        assert sum(array.nbytes for array in part.arrays) == 40 * 64 // 2 + 40 * 2
        assert_equal(part, values[expert])


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_itself_makes_the_same_of_its_tensors(kind: str, nested: bool, tmp_path: Path) -> None:
    """Its CPU functions are wrong for blocks across rows (0.50), so there are none here."""
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(matrix(), blocksize=64, compress_statistics=nested, quant_type=kind)
    parts = {".weight": packed} | {f".weight.{name}": part for name, part in state.as_dict(packed=True).items()}
    checkpoint = open_checkpoint(write(tmp_path, BNB, parts))
    assert_equal(checkpoint.tensors["x.weight"], functional.dequantize_4bit(packed, state))


def quantized_llama(path: Path, config: dict[str, Any], writer: q.Writer) -> torch.nn.Module:
    """Saves a small random Llama whose linears are quantized; returns transformers' with what those stand for."""
    model = save_checkpoint(path, hidden_size=128, intermediate_size=192, num_attention_heads=4)
    weights = dict(model.named_parameters())
    for name, values in q.quantize(path, config, writer).items():
        weights[name].data = values
    return model


# The layouts that the matrices of a model with rows of 128 and of 192 columns run in; of F32 there are none.
LAYOUTS_OF_RUNS = {
    "gptq 4 bits": {"affine4_g32"},
    "gptq 3 bits version 2": {"affine4_g32"},
    "gptq 8 bits": {"affine8_g32"},
    "gptq act-order": {"affine4_g32"},
    "gptq act-order of 8 bits": {"affine8_g32"},
    "auto-round": {"affine4_g32"},
    "awq": {"affine4_g32"},
    "int4 groups, asymmetric": {"affine4_g32"},
    "int4 groups, act-order": {"affine4_g32"},
    "int8 channels": {"int8"},
    "float8 channels": {"e4m3_g64", "e4m3_g128"},
    "float8 blocks": {"e4m3_g64", "e4m3_g128"},
    "mxfp8": {"e4m3_g32"},
    "compressed nvfp4": {"table4_g16"},
    "compressed mxfp4": {"table4_g32"},
    "fp8 scalar": {"e4m3_g64", "e4m3_g128"},
    "fp8 blocks": {"e4m3_g64", "e4m3_g128"},
    "modelopt nvfp4": {"table4_g16"},
    "nf4 nested": {"nf4_g64"},
    "fp4": {"fp4_g64"},
    "bitsandbytes int8": {"int8"},
}
TOKENS = random_tokens(60, vocab=301)


def opened(path: Path) -> tuple[Graph, Mapping[str, StoredTensor]]:
    checkpoint = open_checkpoint(path)
    model = load_declaration(checkpoint.config, path / "config.json")
    graph = model.build()
    return graph, bind(graph.weights, checkpoint, model.ignored)


@pytest.mark.parametrize("case", LAYOUTS_OF_RUNS)
def test_a_model_runs_as_one_of_dequantized_weights_does(case: str, tmp_path: Path) -> None:
    config, writer, _ = CASES[case]
    expected = transformers_logits(quantized_llama(tmp_path, config, writer), TOKENS)
    graph, tensors = opened(tmp_path)
    assert set(choose_layouts(graph, tensors, "bfloat16").values()) == LAYOUTS_OF_RUNS[case]
    for make in (make_native, make_torch):
        assert error(logits_of(make(graph, tensors), TOKENS), expected) < 1e-3
    assert error(logits_of(make_native(graph, tensors, "bfloat16"), TOKENS), expected) < 5e-2


@pytest.mark.parametrize(("case", "is_by_row"), [("float8 channels", True), ("fp8 scalar", True), ("mxfp8", False)])
def test_floats_of_8_bits_with_one_scale_for_a_row_have_the_form_that_chips_multiply(
    case: str, is_by_row: bool, tmp_path: Path
) -> None:
    quantized_llama(tmp_path, *CASES[case][:2])
    forms = choose_forms(*opened(tmp_path)).values()
    assert {form.codes for form in forms} == {"e4m3"}
    assert {form.group == 0 for form in forms} == {is_by_row}


def test_columns_in_the_order_of_their_groups_are_multiplied_the_same_in_every_batch(tmp_path: Path) -> None:
    quantized_llama(tmp_path, *CASES["gptq act-order"][:2])
    graph, tensors = opened(tmp_path)
    executor = make_native(graph, tensors, "bfloat16")
    expected = logits_of(executor, TOKENS)
    for sizes in ([1], [2], [3, 20, 1], [50, 2]):
        np.testing.assert_array_equal(logits_of(executor, TOKENS, sizes), expected)


def test_matrices_of_one_input_may_have_their_columns_in_different_orders(tmp_path: Path) -> None:
    """The torch executor puts the input in each order; the native one has one order for what it packs together."""
    expected = transformers_logits(quantized_llama(tmp_path, GPTQ, q.gptq(order="apart")), TOKENS)
    graph, tensors = opened(tmp_path)
    quantized = {name for name, tensor in tensors.items() if tensor.column_order is not None}
    assert len(quantized) == len([name for name in tensors if name.endswith("_proj.weight")])
    assert choose_forms(graph, tensors).keys() == quantized
    alone = {name for name in quantized if name.endswith(("o_proj.weight", "down_proj.weight"))}
    assert choose_layouts(graph, tensors, "bfloat16").keys() == alone
    assert error(logits_of(make_torch(graph, tensors), TOKENS), expected) < 1e-3
    assert error(logits_of(make_native(graph, tensors, "bfloat16"), TOKENS), expected) < 5e-2


@pytest.mark.parametrize("make", [make_native, make_torch])
def test_a_table_may_have_its_columns_in_the_order_of_their_groups(make: Callable[..., Any], tmp_path: Path) -> None:
    parts, values = CASES["gptq act-order"][1](matrix())
    table = open_checkpoint(write(tmp_path, GPTQ, parts)).tensors["x.weight"]
    graph = Graph()
    graph.logits(graph.embed("embed", *table.shape), "head", table.shape[0])
    executor = make(graph, {"embed.weight": table, "head.weight": table}, dtype="bfloat16")
    products = (values[:9].bfloat16().float() @ values.T).numpy()
    assert error(logits_of(executor, [*range(9)]), products) < 1e-2


def test_matrices_of_one_model_may_be_of_several_kinds(tmp_path: Path) -> None:
    """ "mixed-precision": which kind a matrix is, its tensors say, whatever the targets are."""
    mixed = ["int4 groups", "int8 channels", "float8 channels", "compressed nvfp4", "mxfp8"]
    config = {"quant_method": "compressed-tensors", "format": "mixed-precision", "ignore": ["plain"]}
    groups, parts, expected = {}, {}, {"plain": matrix()}
    for i, case in enumerate(mixed):
        groups[f"group_{i}"] = CASES[case][0]["config_groups"]["group_0"] | {"targets": [f"re:.*{i}$"]}
        tensors, expected[str(i)] = CASES[case][1](matrix())
        parts |= {f"{i}{suffix}": tensor for suffix, tensor in tensors.items()}
    write(tmp_path, config | {"config_groups": groups}, parts | {"plain.weight": matrix()}, module="")
    tensors = open_checkpoint(tmp_path).tensors
    assert tensors.keys() == {f"{name}.weight" for name in expected}
    for name, values in expected.items():
        assert_equal(tensors[f"{name}.weight"], values)


@pytest.mark.parametrize(
    ("file", "says", "case", "method"),
    [
        (
            "hf_quant_config.json",
            {"quantization": {"quant_algo": "NVFP4"}},
            "modelopt nvfp4",
            "modelopt",
        ),
        ("quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False}, "gptq 4 bits", "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM"}, "awq", "awq"),
    ],
)
def test_a_file_of_the_quantizer_says_what_config_json_does_not(
    file: str, says: dict[str, Any], case: str, method: str, tmp_path: Path
) -> None:
    parts, values = CASES[case][1](matrix())
    write(tmp_path, {}, parts)
    (tmp_path / file).write_text(json.dumps(says))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.quantization == method
    assert_equal(checkpoint.tensors["x.weight"], values)


def test_nothing_is_made_before_it_is_asked_for_and_the_file_s_pages_are_known(tmp_path: Path) -> None:
    parts, _ = CASES["gptq 4 bits"][1](matrix())
    stored = open_checkpoint(write(tmp_path, GPTQ, parts)).tensors["x.weight"]
    sizes = [array.nbytes for array in stored.arrays]
    assert sizes == [parts[name].nbytes for name in (".qweight", ".qzeros", ".scales")]
    assert not any(array.flags.owndata for array in stored.arrays)
    assert stored.data is not stored.data
    forget_pages(stored)
    assert np.isfinite(stored.values()).all()
