"""Experts in quantized checkpoints: a matrix for each, and gpt-oss's stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import quantizers as q
import torch
from safetensors.torch import load_file, save_file
from test_quantized_checkpoints import CASES

from checkpoints import save_checkpoint
from harness import error, logits_of, make_native, make_torch, random_tokens, stored
from octavo.executor.torch.forms import choose_forms
from octavo.models import load_declaration, open_model
from octavo.weights.bind import bind
from reference import reference_logits

TOKENS = random_tokens(50, vocab=301)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 16}


def opened(path: Path) -> tuple[Any, Any]:
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path / "config.json")
    graph = model.build()
    return graph, bind(graph.weights, checkpoint, model.ignored)


def check(graph: Any, tensors: Any, plain_graph: Any, plain: Any) -> None:
    """The model has the logits of the plain one, and its experts stay quantized."""
    expected = reference_logits(plain_graph, plain, TOKENS)
    for make in (make_native, make_torch):
        assert error(logits_of(make(graph, tensors), TOKENS, [40, 1]), expected) < 1e-3
    stay = choose_forms(graph, tensors)
    assert all(name in stay for name in tensors if ".experts." in name and not name.endswith("bias"))
    assert not any("gate.weight" in name or "router" in name for name in stay)


CHOSEN = [
    "gptq 4 bits",
    "awq",
    "int4 groups, asymmetric",
    "fp8 blocks",
    "compressed nvfp4",
    "nf4 nested",
    "int8 channels",
]


@pytest.mark.parametrize("case", CHOSEN)
def test_experts_with_a_matrix_each(tmp_path: Path, case: str) -> None:
    config, writer, _ = CASES[case]
    save_checkpoint(tmp_path, "Qwen3Moe", hidden_size=128, intermediate_size=192, num_attention_heads=4, **EXPERTS)
    values = q.quantize(tmp_path, config, writer)
    graph, tensors = opened(tmp_path)
    plain = {name: stored(name, values[name].numpy()) if name in values else tensors[name] for name in tensors}
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in values
    check(graph, tensors, graph, plain)


def test_experts_whose_columns_are_in_orders_of_their_own(tmp_path: Path) -> None:
    """Each is as its columns are stored; those are unpacked when they are loaded."""
    save_checkpoint(tmp_path, "Qwen3Moe", hidden_size=128, intermediate_size=192, num_attention_heads=4, **EXPERTS)
    values = q.quantize(tmp_path, *CASES["gptq act-order"][:2])
    graph, tensors = opened(tmp_path)
    plain = {name: stored(name, values[name].numpy()) if name in values else tensors[name] for name in tensors}
    expected = reference_logits(graph, plain, TOKENS)
    for make in (make_native, make_torch):
        assert error(logits_of(make(graph, tensors), TOKENS, [40, 1]), expected) < 1e-3


def test_stacks_of_gpt_oss(tmp_path: Path) -> None:
    """In blocks of rows, where plain ones are of columns."""
    folders = [tmp_path / name for name in ("plain", "packed")]
    for path in folders:
        save_checkpoint(path, "GptOss", hidden_size=64, intermediate_size=96, **GPT_OSS)
    tensors = load_file(folders[0] / "model.safetensors")
    packed = {}
    for name, weight in tensors.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed[name] = weight
            continue
        parts, values = q.mxfp4_stack(weight.swapaxes(1, 2).contiguous())
        packed |= {name + suffix: part.contiguous() for suffix, part in parts.items()}
        tensors[name] = values.swapaxes(1, 2).contiguous()
    for path, found in zip(folders, (tensors, packed), strict=True):
        save_file(found, path / "model.safetensors")
    file = folders[1] / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    file.write_text(json.dumps(config))
    assert packed["model.layers.0.mlp.experts.gate_up_proj_blocks"].dtype == torch.uint8
    check(*opened(folders[1]), *opened(folders[0]))
