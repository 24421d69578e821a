"""What is said of quantized checkpoints that are damaged, contradict themselves, or are of other formats."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quantizers as q
import torch
from safetensors.torch import save_file
from test_quantized_checkpoints import BNB, CASES, GPTQ, of_compressed, write
from writers import bounded_memory

from cli.conftest import make_tiny_llama
from octavo import LLM
from octavo.errors import ConfigError, ModelLoadError
from octavo.weights import open_checkpoint

Damage = Callable[[q.Parts], Any]
NF4_STATE = ".weight.quant_state.bitsandbytes__nf4"


def without(suffix: str) -> Damage:
    return lambda parts: parts.pop(suffix)


def to(suffix: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return lambda parts: parts.update({suffix: change(parts[suffix]).contiguous()})


def put(suffix: str, value: float) -> Damage:
    """In the middle."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.reshape(-1).clone()
        bits = flat.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else flat
        bits[len(flat) // 2] = value
        return flat.reshape(tensor.shape)

    return to(suffix, change)


def state(**changes: Any) -> Damage:
    def change(text: torch.Tensor) -> torch.Tensor:
        return torch.tensor([*json.dumps(json.loads(bytes(text.tolist())) | changes).encode()], dtype=torch.uint8)

    return to(NF4_STATE, change)


def narrower(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[..., :-1]


def shorter(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:-1]


# A case, what becomes of its tensors, the tensor that is named, and what is said of it.
PACKED, INT8 = "int4 groups, asymmetric", "int8 channels, asymmetric"
DAMAGES: dict[str, tuple[str, Damage, str, str]] = {
    "gptq without scales": ("gptq 4 bits", without(".scales"), ".scales", "is missing, though there is x."),
    "gptq without zero points": ("gptq 4 bits", without(".qzeros"), ".qzeros", "is missing"),
    "gptq without weights": ("gptq 4 bits", without(".qweight"), ".qweight", "is missing"),
    "gptq with NaN": ("gptq 4 bits", put(".scales", math.nan), ".scales", "not finite, or above 1e"),
    "gptq with infinity": ("gptq 4 bits", put(".scales", -math.inf), ".scales", "not finite"),
    "gptq with scales of integers": ("gptq 4 bits", to(".scales", torch.Tensor.int), ".scales", "is I32, not F32 or"),
    "gptq with zero points of another shape": ("gptq 4 bits", to(".qzeros", shorter), ".qzeros",
        r"has shape \[5, 20\], not \[6, any\]"),
    "gptq with zero points of other bits": ("gptq 4 bits", to(".qzeros", narrower), ".qzeros", "no number of 2 to 8"),
    "gptq with fewer outputs": ("gptq 4 bits", to(".qweight", narrower), ".qweight", r"not \[any, 160\]"),
    "gptq with groups that do not divide": ("gptq without g_idx", to(".qweight", shorter), ".scales",
        "has 6 groups, which do not divide the 184 inputs"),
    "gptq with words that are not full": ("gptq 3 bits", to(".qweight", shorter), ".qweight", "no number of 3 bits"),
    "gptq with a group beyond": ("gptq act-order", put(".g_idx", 6), ".g_idx", "groups 0 to 6, but there are 6"),
    "gptq with a group below": ("gptq act-order", put(".g_idx", -1), ".g_idx", "groups -1 to 5, but there are 6"),
    "gptq with too few groups listed": ("gptq act-order", to(".g_idx", shorter), ".g_idx", r"not \[192\]"),
    "gptq with a plain weight too": ("gptq 4 bits", lambda parts: parts.update({".weight": torch.ones(2, 2)}),
        ".weight", "is left over"),
    "gptq of no rows": ("gptq 4 bits", to(".scales", lambda t: t[:0]), ".scales", r"has shape \[0, 160\]"),
    "awq without zero points": ("awq", without(".qzeros"), ".qzeros", "is missing"),
    "awq with other zero points": ("awq", to(".qzeros", shorter), ".qzeros", r"not \[6, 20\]"),
    "awq with scales for no words": ("awq", to(".scales", narrower), ".scales", "words of 8 do not fill"),
    "awq with fewer groups than are said": ("awq",
        lambda parts: parts.update({name: parts[name][::2].contiguous() for name in (".scales", ".qzeros")}),
        ".scales", "has 3 groups for 192 inputs, but group_size is 32"),
    "awq with groups that do not divide": ("awq", to(".qweight", shorter), ".scales", "do not divide the 191 inputs"),
    "packed without scales": (PACKED, without(".weight_scale"), ".weight_scale", "is missing"),
    "packed without a shape": (PACKED, without(".weight_shape"), ".weight_shape", "is missing"),
    "packed of another shape": (PACKED, put(".weight_shape", 200), ".weight_packed",
        r"has 24 words a row for 200 inputs, which is not one of num_bits, \[4\]"),
    "packed of a negative shape": (PACKED, put(".weight_shape", -192), ".weight_packed", "for -192 inputs"),
    "packed of other rows": (PACKED, to(".weight_shape", lambda t: t + 1), ".weight_packed", r"not \[161, any\]"),
    "packed with NaN": (PACKED, put(".weight_scale", math.nan), ".weight_scale", "not finite"),
    "packed with a large scale": (PACKED, put(".weight_scale", 1e31), ".weight_scale", "above 1e"),
    "packed with groups that do not divide": (PACKED, to(".weight_scale", narrower), ".weight_zero_point",
        r"has shape \[20, 6\], not \[20, 5\]"),
    "symmetric with groups that do not divide": ("int4 groups", to(".weight_scale", narrower), ".weight_scale",
        "has 5 groups, which do not divide the 192 inputs"),
    "symmetric with fewer groups than are said": ("int4 groups", to(".weight_scale", lambda t: t[:, ::2]),
        ".weight_scale", "has 3 groups for 192 inputs, but group_size is 32"),
    "packed with a group beyond": ("int4 groups, act-order", put(".weight_g_idx", 6), ".weight_g_idx",
        "groups 0 to 6, but there are 6"),
    "packed with other zero points": (PACKED, to(".weight_zero_point", shorter), ".weight_zero_point",
        r"not \[20, 6\]"),
    "int8 with other zero points": (INT8, to(".weight_zero_point", shorter), ".weight_zero_point", r"not \[160, 1\]"),
    "int8 with other scales": (INT8, to(".weight_scale", shorter), ".weight_scale", r"has shape \[159, 1\], not"),
    "int8 without weights": (INT8, without(".weight"), ".weight", "is missing"),
    "float8 without scales": ("float8 channels", without(".weight_scale"), "quantization_config", "no tensor is named"),
    "float8 of plain weights": ("float8 channels", to(".weight", torch.Tensor.bfloat16), ".weight",
        "is BF16, not F8_E4M3"),
    "float8 with a zero point": ("float8 channels",
        lambda parts: parts.update({".weight_zero_point": torch.zeros(160, 1, dtype=torch.int8)}),
        ".weight_zero_point", "is left over"),
    "blocks with too few scales": ("fp8 blocks", to(".weight_scale_inv", shorter), ".weight_scale_inv",
        r"has shape \[1, 2\], not .* or \[2, 2\]"),
    "blocks with NaN": ("fp8 blocks with powers of two", to(".weight_scale_inv", lambda t: t.float() * math.nan),
        ".weight_scale_inv", "not finite"),
    "nvfp4 with NaN": ("modelopt nvfp4", put(".weight_scale", 127), ".weight_scale", "not finite"),
    "nvfp4 without its second scale": ("modelopt nvfp4", without(".weight_scale_2"), ".weight_scale_2", "is missing"),
    "nvfp4 without its divisor": ("compressed nvfp4", without(".weight_global_scale"), ".weight_global_scale",
        "is missing"),
    "nvfp4 divided by 0": ("compressed nvfp4", put(".weight_global_scale", 0), ".weight_global_scale", "is 0, by"),
    "nvfp4 with fewer columns": ("modelopt nvfp4", to(".weight", narrower), ".weight", "190 inputs, which"),
    "float8 with scales of groups": ("fp8 channels", to(".weight_scale", lambda t: t.expand(160, 2)), ".weight_scale",
        r"has shape \[160, 2\], not .* or \[160, 1\]"),
    "mxfp4 with NaN": ("compressed mxfp4", put(".weight_scale", 255), ".weight_scale", "not finite"),
    "nf4 without its state": ("nf4", without(NF4_STATE), NF4_STATE, "is missing"),
    "nf4 without scales": ("nf4", without(".weight.absmax"), ".weight.absmax", "is missing"),
    "nf4 without a table": ("nf4", without(".weight.quant_map"), ".weight.quant_map", "is missing"),
    "nf4 with NaN": ("nf4", put(".weight.absmax", math.nan), ".weight.absmax", "not finite"),
    "nf4 with too few scales": ("nf4", to(".weight.absmax", shorter), ".weight.absmax", r"not \[480\]"),
    "nf4 with a table beyond 1": ("nf4", put(".weight.quant_map", 2), ".weight.quant_map", "beyond -1 to 1"),
    "nf4 with another shape": ("nf4", state(shape=[160, 190]), ".weight", r"not \[15200, 1\]"),
    "nf4 of no matrix": ("nf4", state(shape=[3, 2, 2]), f"{NF4_STATE}.shape", "that of a matrix"),
    "nf4 with a blocksize of 0": ("nf4", state(blocksize=0), f"{NF4_STATE}.blocksize", "must be an integer in 1"),
    "nf4 with a state that is not JSON": ("nf4", to(NF4_STATE, shorter), NF4_STATE, "invalid JSON"),
    "nested without scales": ("nf4 nested", without(".weight.nested_absmax"), ".weight.nested_absmax", "is missing"),
    "nested with infinity": ("nf4 nested", put(".weight.nested_absmax", math.inf), ".weight.nested_absmax", "finite"),
    "nested without an offset": ("nf4 nested", state(nested_offset=None), f"{NF4_STATE}.nested_offset",
        "must be a finite number"),
    "int8 rows with NaN": ("bitsandbytes int8", put(".SCB", math.nan), ".SCB", "not finite"),
    "int8 rows with too few scales": ("bitsandbytes int8", to(".SCB", shorter), ".SCB", r"not \[160\]"),
    "int8 in another order": ("bitsandbytes int8", to(".weight_format", lambda t: t + 1), ".weight_format", "be 0"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tensors_are_refused_by_name_within_bounded_memory(damage: str, tmp_path: Path) -> None:
    case, change, suffix, says = DAMAGES[damage]
    config, writer, _ = CASES[case]
    matrix = torch.randn(160, 192, generator=torch.Generator().manual_seed(0))
    parts, _ = writer(matrix)
    change(parts)
    file = write(tmp_path, config, parts) / "model.safetensors"
    with bounded_memory(file), pytest.raises(ModelLoadError, match=says) as raised:
        open_checkpoint(tmp_path)
    assert raised.value.field == (f"x{suffix}" if suffix.startswith(".") else suffix)
    assert raised.value.file == str(file if suffix.startswith(".") else tmp_path)
    assert "\n" not in str(raised.value)


CONFIGS: dict[str, tuple[Any, str, str]] = {
    "not an object": ([1], "quantization_config", "must be an object"),
    "an unknown method": ({"quant_method": "hqq"}, "quant_method", "'hqq' is not supported, only .*gptq, .*mxfp4"),
    "no method": ({"bits": 4}, "quant_method", "must be a string, got None: it is missing"),
    "another layout of GPTQ": (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format", "'marlin' is not"),
    "another layout of AWQ": ({"quant_method": "awq", "version": "gemv"}, "version", "'gemv' is not supported"),
    "AWQ of 3 bits": ({"quant_method": "awq", "bits": 3}, "bits", "must be 4, got 3"),
    "AutoRound in AWQ's form": ({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"},
        "packing_format", "only auto_round:auto_gptq"),
    "sparse weights": (of_compressed("pack-quantized") | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        "sparsity_config", "is not supported"),
    "rotated weights": (of_compressed("pack-quantized") | {"transform_config": {"config_groups": {"u": {}}}},
        "transform_config", "is not supported"),
    "an unknown format": (of_compressed("marlin-24"), "format", "'marlin-24' is not supported, only pack-quantized"),
    "an unknown format of a group": (of_compressed("mxfp6-pack-quantized") | {"format": "mixed-precision"},
        "config_groups.group_0.format", "'mxfp6-pack-quantized' is not"),
    "9 bits": (of_compressed("pack-quantized", num_bits=9), "config_groups.group_0.weights.num_bits", "in 1..8, got 9"),
    "groups that are a list": ({"quant_method": "compressed-tensors", "config_groups": []}, "config_groups",
        "must be an object"),
    "blocks of one size": ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size", "two integers"),
    "another 8-bit float": ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt", "'e5m2' is not supported"),
    "an unknown algorithm": ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo", "'W4A8_AWQ' is not"),
    "quantized in name only": (BNB, "", "says bitsandbytes, but no tensor is named as one of that"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_is_not_supported_is_refused_by_field(case: str, tmp_path: Path) -> None:
    config, field, says = CONFIGS[case]
    path = write(tmp_path, config, {".weight": torch.ones(4, 4)})
    with pytest.raises(ModelLoadError, match=says) as raised:
        open_checkpoint(path)
    assert raised.value.field in (field, f"quantization_config.{field}", f"quantization_config{field}")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "float8_e4m3fn", "float8_e8m0fnu"])
def test_other_types_are_refused_where_nothing_is_quantized(dtype: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"x.weight": torch.zeros(4, 4).to(getattr(torch, dtype))}, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"x.weight: dtype '\w+' is not supported, only BF16, F16, F32"):
        open_checkpoint(tmp_path)


def test_a_matrix_that_lacks_its_scales_among_others_is_named(tmp_path: Path) -> None:
    parts, _ = q.fp8("channel")(torch.randn(32, 64))
    path = write(tmp_path, {"quant_method": "fp8"}, parts | {".more.weight": parts[".weight"].clone()})
    with pytest.raises(ModelLoadError, match=r"x.more.weight: dtype 'F8_E4M3' is nothing of fp8 without scales"):
        open_checkpoint(path)


@pytest.fixture(scope="module")
def tiny_awq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer whose linears are AWQ's."""
    path = make_tiny_llama(tmp_path_factory.mktemp("awq") / "model")
    q.quantize(path, {"quant_method": "awq", "bits": 4, "group_size": 32}, q.awq())
    return path


@pytest.mark.parametrize("name", ["awq", "awq_marlin", None])
def test_a_quantization_of_the_checkpoint_may_be_named(tiny_awq: Path, name: str | None) -> None:
    llm = LLM(str(tiny_awq), quantization=name, num_gpu_blocks_override=64)
    (output,) = llm.generate(["a"], use_tqdm=False)
    assert output.outputs[0].token_ids


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gptq", "is quantized with awq; leave it out"),
        ("compressed-tensors", "is quantized with awq"),
        ("gguf", "is quantized with awq"),
        ("int8", "is quantized already, with awq"),
    ],
)
def test_another_quantization_than_the_checkpoint_has_is_refused(
    tiny_awq: Path, name: str, says: str, executor: str
) -> None:
    with pytest.raises(ConfigError, match=f"quantization='{name}': .*{says}"):
        LLM(str(tiny_awq), quantization=name, executor=executor)


@pytest.mark.parametrize("name", ["modelopt", "gptq", "bitsandbytes", "gguf"])
def test_a_quantization_is_refused_where_nothing_is_quantized(tmp_path: Path, name: str) -> None:
    path = make_tiny_llama(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"quantization='{name}': .* is not quantized; int8, int4, fp8"):
        LLM(str(path), quantization=name)
