"""GGUF: it reads like the Hugging Face checkpoint it was made from; what lies is refused by name."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from writers import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    U64,
    array,
    bounded_memory,
    gguf,
    key_value,
    tensor_info,
    text,
)  # fmt: skip

from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.models import open_model
from octavo.weights.gguf_config import generation_config
from octavo.weights.gguf_file import read_gguf
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import Checkpoint

KEYS = [
    key_value("a", U32, 1),
    key_value("b", STRING, "two"),
    key_value("c", ARRAY, array(STRING, ["x", "yz"])),
]
DATA = bytes(range(64)) * 2
INFOS = [tensor_info("t", [4, 2], offset=0), tensor_info("u", [8], offset=32)]
MANY = 450_000


def one_key(kind: int, value: bytes) -> bytes:
    return gguf([key_value("k", kind, value)])


def one_tensor(info: bytes, data: bytes = DATA) -> bytes:
    return gguf([], [info], data)


def test_every_type_of_value_is_read(tmp_path: Path) -> None:
    codes = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
    keys = [key_value(f"scalar.{kind}", kind, struct.pack("<" + code, 7)) for kind, code in codes.items()]
    keys += [
        key_value(f"array.{kind}", ARRAY, struct.pack(f"<IQ3{code}", kind, 3, 1, 2, 3)) for kind, code in codes.items()
    ]
    keys += [key_value("bool", BOOL, 1), key_value("bools", ARRAY, array(BOOL, [1, 0])), *KEYS]
    (tmp_path / "m.gguf").write_bytes(gguf(keys, version=2))
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    for kind in codes:
        assert metadata[f"scalar.{kind}"] == 7
        assert metadata[f"array.{kind}"].tolist() == [1, 2, 3]
    assert metadata["bool"] is True
    assert metadata["bools"].tolist() == [True, False]
    assert (metadata["a"], metadata["b"], metadata["c"]) == (1, "two", ["x", "yz"])


def test_tensors_are_read_only_views_of_the_file_outermost_dimension_first(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(KEYS, INFOS, DATA))
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    assert tensors["t"].shape == (2, 4)
    assert tensors["u"].data.tobytes() == DATA[32:64]
    assert not tensors["t"].data.flags.writeable
    assert not tensors["t"].data.flags.owndata


def test_the_data_begins_at_the_alignment_that_the_file_declares(tmp_path: Path) -> None:
    keys = [key_value("general.alignment", U32, 64)]
    infos = [tensor_info("t", [4], offset=0), tensor_info("u", [4], offset=64)]
    (tmp_path / "m.gguf").write_bytes(gguf(keys, infos, DATA, alignment=64))
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    assert tensors["t"].data.tobytes() == DATA[:16]
    assert tensors["u"].data.tobytes() == DATA[64:80]


def test_an_array_of_strings_longer_than_a_chunk_keeps_its_order(tmp_path: Path) -> None:
    words = [f"word {i} Ġé" for i in range(5000)]
    (tmp_path / "m.gguf").write_bytes(gguf([key_value("k", ARRAY, array(STRING, words)), *KEYS[:1]]))
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    assert metadata["k"] == words
    assert metadata["a"] == 1


FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "file"),
    "three bytes": (b"GGU", "magic"),
    "another magic": (b"GGML" + gguf(KEYS)[4:], "magic"),
    "magic and nothing else": (b"GGUF", "version"),
    "version 0": (gguf(KEYS, version=0), "version"),
    "version 1": (gguf(KEYS, version=1), "version"),
    "version 4": (gguf(KEYS, version=4), "version"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version"),
    "no counts": (gguf(KEYS)[:12], "tensor count"),
    "half of the counts": (gguf(KEYS)[:20], "key-value count"),
    "2^64 - 1 tensors": (gguf(KEYS, num_tensors=2**64 - 1), "tensor count"),
    "2^64 - 1 keys": (gguf(KEYS, num_keys=2**64 - 1), "key-value count"),
    "more tensors than the bytes allow": (gguf(KEYS, num_tensors=10), "tensor count"),
    "more keys than the bytes allow": (gguf(KEYS, num_keys=10), "key-value count"),
    "more keys than anybody needs": (
        gguf([key_value(f"{i}", U8, 1) for i in range(5000)]), "key-value count"),
    "a key of 2^63 bytes": (gguf([text("", 2**63) + bytes(50)]), "key"),
    "a key of 2 KB": (gguf([key_value("k" * 2048, U8, 1)]), "key"),
    "a key that is not UTF-8": (gguf([key_value(b"\xff", U8, 1)]), "key"),
    "a duplicate key": (gguf([KEYS[0], KEYS[0]]), "a"),
    "an unknown value type": (one_key(13, bytes(8)), "k"),
    "a boolean of 2": (one_key(BOOL, b"\2"), "k"),
    "a string longer than the file": (one_key(STRING, text("abc", 4)), "k"),
    "a string of 2^64 - 1 bytes": (one_key(STRING, text("abc", 2**64 - 1)), "k"),
    "a string above the limit": (one_key(STRING, text("x" * (5 << 20))), "k"),
    "a string that is not UTF-8": (one_key(STRING, text(b"\xc3(")), "k"),
    "a number cut short": (one_key(U64, bytes(7)), "k"),
    "an array of arrays": (one_key(ARRAY, struct.pack("<IQ", ARRAY, 1) + array(U8, [1])), "k"),
    "an array of an unknown type": (one_key(ARRAY, struct.pack("<IQ", 99, 1) + bytes(8)), "k"),
    "an array of 2^62 numbers": (one_key(ARRAY, array(U64, [1], count=2**62)), "k"),
    "an array one number short": (one_key(ARRAY, array(I32, [1, 2], count=3)), "k"),
    "an array of booleans of 3": (one_key(ARRAY, array(BOOL, [1, 3])), "k"),
    "an array of 2^61 strings": (one_key(ARRAY, array(STRING, ["a"], count=2**61)), "k"),
    "an array one string short": (one_key(ARRAY, array(STRING, ["a", "b" * 40], count=3)), "k"),
    "a string of an array past the end": (
        one_key(ARRAY, struct.pack("<IQ", STRING, 1) + text("a", 99)), "k"),
    "a string of an array of 2^64 - 1 bytes": (
        one_key(ARRAY, struct.pack("<IQ", STRING, 1) + text("a", 2**64 - 1)), "k"),
    "a string of an array that is not UTF-8": (
        one_key(ARRAY, struct.pack("<IQ", STRING, 1) + text(b"\xff")), "k"),
    "more strings than memory allows": (
        one_key(ARRAY, struct.pack("<IQ", STRING, MANY) + text("x" * 16 + "😀") * MANY), "k"),
    "strings wider than memory allows": (
        one_key(ARRAY, struct.pack("<IQ", STRING, 8) + text("x" * ((4 << 20) - 4) + "😀") * 8), "k"),
    "alignment 0": (gguf([key_value("general.alignment", U32, 0)]), "general.alignment"),
    "alignment 24": (gguf([key_value("general.alignment", U32, 24)]), "general.alignment"),
    "alignment as text": (gguf([key_value("general.alignment", STRING, "32")]), "general.alignment"),
    "a negative alignment": (gguf([key_value("general.alignment", I32, -32)]), "general.alignment"),
    "an alignment past the file": (gguf([key_value("general.alignment", U64, 2**63)], INFOS, DATA), "t"),
    "a tensor of rank 0": (one_tensor(tensor_info("t", [])), "t"),
    "a tensor of rank 5": (one_tensor(tensor_info("t", [1] * 5)), "t"),
    "a tensor of rank 2^32 - 1": (one_tensor(tensor_info("t", [4], rank=2**32 - 1)), "t"),
    "a shape of 2^64 elements": (one_tensor(tensor_info("t", [2**32, 2**32])), "t"),
    "a shape that overflows 64 bits to 8": (one_tensor(tensor_info("t", [2**62 + 1, 8])), "t"),
    "a dimension of 2^64 - 1": (one_tensor(tensor_info("t", [2**64 - 1])), "t"),
    "an unknown ggml type": (one_tensor(tensor_info("t", [256], kind=42)), "t"),
    "a removed ggml type": (one_tensor(tensor_info("t", [32], kind=4)), "t"),
    "a row that splits a block": (one_tensor(tensor_info("t", [16, 2], kind=2)), "t"),
    "an offset off the alignment": (one_tensor(tensor_info("t", [4], offset=16)), "t"),
    "an offset past the file": (one_tensor(tensor_info("t", [4], offset=2**40)), "t"),
    "an offset that wraps around": (one_tensor(tensor_info("t", [8], offset=2**64 - 32)), "t"),
    "a tensor larger than the file": (one_tensor(tensor_info("t", [4096])), "t"),
    "two tensors on the same bytes": (gguf([], [tensor_info("t", [8]), tensor_info("u", [8])], DATA), "u"),
    "an overlap": (gguf([], [tensor_info("t", [16]), tensor_info("u", [8], offset=32)], DATA), "u"),
    "a duplicate tensor": (
        gguf([], [tensor_info("t", [8]), tensor_info("t", [8], offset=32)], DATA), "t"),
    "a tensor name that is not UTF-8": (one_tensor(tensor_info(b"\xff", [4])), "tensor name"),
    "a tensor name of 2 KB": (one_tensor(tensor_info("t" * 2048, [4])), "tensor name"),
    "no data": (gguf(KEYS, INFOS), "t"),
    "truncated by one byte": (gguf(KEYS, INFOS, DATA[:63]), "u"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "file"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_lying_file_is_refused_by_field_within_bounded_memory(case: str, tmp_path: Path) -> None:
    content, field = FILES[case]
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with bounded_memory(file), pytest.raises(ModelLoadError) as raised:
        read_gguf(file)
    assert raised.value.field == field
    assert raised.value.file == str(file)
    assert "\n" not in str(raised.value)
    assert len(raised.value.reason) < 500


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = gguf(KEYS, INFOS, DATA[:64])
    file = tmp_path / "m.gguf"
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ModelLoadError):
            read_gguf(file)


def test_mutated_bytes_give_an_error_or_a_valid_file(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = tiny_llama()
    file = tmp_path / "m.gguf"
    header = good.index(b"output_norm.weight") + 200
    refused = 0
    for _ in range(1500):
        content = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 4))):
            content[rng.randrange(header)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        file.write_bytes(content)
        try:
            for tensor in open_model(file).tensors.values():
                assert tensor.data.size <= len(content)
        except ModelLoadError:
            refused += 1
    assert 200 < refused < 1500


# A llama of one layer: 4 heads and 2 KV heads of 4 elements, hidden size 16, 32 tokens.

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, VOCAB = 4, 2, 4, 16, 32, 32
SHAPES = {
    "model.embed_tokens.weight": ("token_embd.weight", (VOCAB, HIDDEN)),
    "model.layers.0.input_layernorm.weight": ("blk.0.attn_norm.weight", (HIDDEN,)),
    "model.layers.0.self_attn.q_proj.weight": ("blk.0.attn_q.weight", (HEADS * HEAD_DIM, HIDDEN)),
    "model.layers.0.self_attn.k_proj.weight": ("blk.0.attn_k.weight", (KV_HEADS * HEAD_DIM, HIDDEN)),
    "model.layers.0.self_attn.v_proj.weight": ("blk.0.attn_v.weight", (KV_HEADS * HEAD_DIM, HIDDEN)),
    "model.layers.0.self_attn.o_proj.weight": ("blk.0.attn_output.weight", (HIDDEN, HIDDEN)),
    "model.layers.0.post_attention_layernorm.weight": ("blk.0.ffn_norm.weight", (HIDDEN,)),
    "model.layers.0.mlp.gate_proj.weight": ("blk.0.ffn_gate.weight", (INNER, HIDDEN)),
    "model.layers.0.mlp.up_proj.weight": ("blk.0.ffn_up.weight", (INNER, HIDDEN)),
    "model.layers.0.mlp.down_proj.weight": ("blk.0.ffn_down.weight", (HIDDEN, INNER)),
    "model.norm.weight": ("output_norm.weight", (HIDDEN,)),
}
LLAMA: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "llama.block_count": (U32, 1),
    "llama.context_length": (U32, 128),
    "llama.embedding_length": (U32, HIDDEN),
    "llama.feed_forward_length": (U32, INNER),
    "llama.attention.head_count": (U32, HEADS),
    "llama.attention.head_count_kv": (U32, KV_HEADS),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "llama.rope.freq_base": (F32, 10000.0),
    "tokenizer.ggml.bos_token_id": (U32, 1),
    "tokenizer.ggml.eos_token_id": (U32, 2),
}


def weights() -> dict[str, NDArray[np.float32]]:
    """Random weights under their Hugging Face names."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, (_, shape) in SHAPES.items()}


def interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The order that GGUF has: within a head, element i and its partner i + head_dim / 2 side by side."""
    half = HEAD_DIM // 2
    order = [h * HEAD_DIM + i + s * half for h in range(heads) for i in range(half) for s in (0, 1)]
    return rows[order]


def tiny_llama(
    metadata: dict[str, tuple[int, Any] | None] | None = None,
    extra: dict[str, NDArray[np.float32]] | None = None,
    without: str = "",
) -> bytes:
    """The model as GGUF. `metadata` replaces keys, or removes those that are None; `extra` adds tensors."""
    keys = [key_value(key, *value) for key, value in {**LLAMA, **(metadata or {})}.items() if value is not None]
    stored = {}
    for name, values in weights().items():
        heads = HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else 0
        stored[SHAPES[name][0]] = interleave(values, heads) if heads else values
    stored.update(extra or {})
    stored.pop(without, None)
    infos, data = [], b""
    for name, values in stored.items():
        infos.append(tensor_info(name, list(values.shape[::-1]), offset=len(data)))
        data += values.astype("<f4").tobytes()
        data += bytes(-len(data) % 32)
    return gguf(keys, infos, data)


def opened(tmp_path: Path, *args: Any, **kwargs: Any) -> Checkpoint:
    (tmp_path / "m.gguf").write_bytes(tiny_llama(*args, **kwargs))
    return open_model(tmp_path / "m.gguf")


def test_tensors_are_those_of_the_hugging_face_checkpoint(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    expected = weights()
    assert set(checkpoint.tensors) == set(expected)
    for name, values in expected.items():
        assert checkpoint.tensors[name].name == name
        np.testing.assert_array_equal(checkpoint.tensors[name].values(), values, err_msg=name)
        assert checkpoint.tensors[name].file == tmp_path / "m.gguf"


def test_the_config_is_that_of_the_hugging_face_checkpoint(tmp_path: Path) -> None:
    assert opened(tmp_path).config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": pytest.approx(1e-5),
        "rope_theta": 10000.0,
        "max_position_embeddings": 128,
        "vocab_size": VOCAB,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "use_qk_norm": False,
        "attention_k_eq_v": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("general.architecture", STRING, "llama"),
        ("split.count", U32, 1),
        ("llama.rope.scaling.type", STRING, "none"),
        ("llama.expert_count", U32, 0),
        ("llama.block_count", U32, 1),
        ("tokenizer.ggml.eos_token_id", U32, 2),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_array_where_a_value_belongs_is_refused(tmp_path: Path, key: str, kind: int, value: Any, count: int) -> None:
    with pytest.raises(ModelLoadError, match=f"is an array of {count} elements, not a single value") as raised:
        opened(tmp_path, {key: (ARRAY, array(kind, [value] * count))})
    assert raised.value.field == key


def test_a_tensor_without_elements_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(one_tensor(tensor_info("t", [0, 2**40])))
    with pytest.raises(ModelLoadError, match="has no element"):
        open_model(tmp_path / "m.gguf")


def test_an_output_matrix_unties_the_embeddings(tmp_path: Path) -> None:
    head = np.ones((VOCAB, HIDDEN), np.float32)
    checkpoint = opened(tmp_path, extra={"output.weight": head})
    assert checkpoint.config["tie_word_embeddings"] is False
    np.testing.assert_array_equal(checkpoint.tensors["lm_head.weight"].values(), head)


def test_biases_are_renamed_and_those_of_q_put_in_order(tmp_path: Path) -> None:
    bias = np.arange(HEADS * HEAD_DIM, dtype=np.float32)
    checkpoint = opened(tmp_path, extra={"blk.0.attn_q.bias": interleave(bias, HEADS)})
    assert checkpoint.config["attention_bias"] is True
    np.testing.assert_array_equal(checkpoint.tensors["model.layers.0.self_attn.q_proj.bias"].values(), bias)


def test_rope_factors_become_a_scaling_and_no_tensor(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, extra={"rope_freqs.weight": np.array([1, 8], np.float32)})
    assert checkpoint.config["rope_scaling"] == {"rope_type": "factors", "factors": [1.0, 8.0]}
    assert "rope_freqs.weight" not in checkpoint.tensors


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"llama.rope.scaling.type": (STRING, "none")}, None),
        ({"llama.rope.scale_linear": (F32, 1.0)}, None),
        ({"llama.rope.scale_linear": (F32, 4.0)}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"llama.rope.scaling.type": (STRING, "linear"), "llama.rope.scaling.factor": (F32, 2.0)},
            {"rope_type": "linear", "factor": 2.0},
        ),
        (
            {
                "llama.rope.scaling.type": (STRING, "yarn"),
                "llama.rope.scaling.factor": (F32, 4.0),
                "llama.rope.scaling.original_context_length": (U32, 64),
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
    ],
)
def test_rope_scaling_is_translated(metadata: dict[str, Any], expected: dict[str, Any] | None, tmp_path: Path) -> None:
    assert opened(tmp_path, metadata).config.get("rope_scaling") == expected


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"llama.block_count": None}, "llama.block_count"),
        ({"llama.block_count": (STRING, "1")}, "llama.block_count"),
        ({"llama.attention.head_count": (U32, 0)}, "llama.attention.head_count"),
        ({"llama.attention.head_count": (ARRAY, array(U32, [4, 4]))}, "llama.attention.head_count"),
        ({"llama.attention.head_count": (U32, 8)}, "blk.0.attn_k.weight"),
        ({"llama.attention.head_count_kv": (U32, 4)}, "blk.0.attn_k.weight"),
        ({"llama.attention.key_length": (U32, 3)}, "llama.attention.key_length"),
        ({"llama.attention.value_length": (U32, 8)}, "llama.attention.value_length"),
        ({"llama.rope.dimension_count": (U32, 2)}, "llama.rope.dimension_count"),
        ({"llama.rope.freq_base": (F32, float("nan"))}, "llama.rope.freq_base"),
        ({"llama.rope.scaling.type": (STRING, "longrope"), "llama.rope.scaling.factor": (F32, 2.0)},
         "llama.rope.scaling.type"),
        ({"llama.attention.layer_norm_rms_epsilon": (F32, 0.0)}, "llama.attention.layer_norm_rms_epsilon"),
        ({"llama.expert_count": (U32, 8)}, "llama.expert_used_count"),
        ({"llama.expert_count": (U32, 8), "llama.expert_used_count": (U32, 2), "llama.expert_gating_func": (U32, 4)},
         "llama.expert_gating_func"),
        ({"llama.logit_scale": (F32, 8.0)}, "'llama.logit_scale'"),
        ({"llama.": (U32, 1)}, "'llama.'"),
        ({"llama.vocab_size": (U32, 33)}, "token_embd.weight"),
        ({"llama.embedding_length": (U32, 2**31)}, "llama.embedding_length"),
        ({"tokenizer.ggml.eos_token_id": (U32, VOCAB)}, "tokenizer.ggml.eos_token_id"),
        ({"general.architecture": None}, "general.architecture"),
    ],
)  # fmt: skip
def test_metadata_that_is_wrong_or_unsupported_is_refused_by_key(
    metadata: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError) as raised:
        opened(tmp_path, metadata)
    assert raised.value.field == field
    assert "\n" not in str(raised.value)


APERTUS = {key: None for key in LLAMA if key.startswith("llama.")}
APERTUS |= {key.replace("llama.", "apertus."): value for key, value in LLAMA.items() if key.startswith("llama.")}
APERTUS |= {"general.architecture": (STRING, "apertus"), "apertus.attention.key_length": (U32, HEAD_DIM)}
XIELU = {f"xielu.{part}": (ARRAY, array(F32, [0.5])) for part in ("alpha_p", "alpha_n", "beta", "eps")}


def test_numbers_of_layers_are_tensors(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {**APERTUS, **XIELU, "xielu.beta": (F32, 0.25)}, without="blk.0.ffn_gate.weight")
    found = {name: checkpoint.tensors[f"model.layers.0.mlp.act_fn.{name}"] for name in ("alpha_p", "beta")}
    assert {name: (tensor.shape, tensor.values().tolist()) for name, tensor in found.items()} == {
        "alpha_p": ((1,), [0.5]),
        "beta": ((), 0.25),
    }


@pytest.mark.parametrize("value", [None, (STRING, "a half"), (ARRAY, array(F32, [0.5, 0.5]))])
def test_numbers_of_layers_that_are_not_one_for_each_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as raised:
        opened(tmp_path, {**APERTUS, **XIELU, "xielu.alpha_n": value}, without="blk.0.ffn_gate.weight")
    assert raised.value.field == "xielu.alpha_n"


@pytest.mark.parametrize(
    ("extra", "without", "field"),
    [
        ({}, "token_embd.weight", "token_embd.weight"),
        ({"token_embd.weight": np.ones((VOCAB, 8))}, "", "token_embd.weight"),
        ({"blk.0.attn_q.weight": np.ones((12, HIDDEN))}, "", "blk.0.attn_q.weight"),
        ({"blk.0.ssm_a.weight": np.ones(4)}, "", "'blk.0.ssm_a.weight'"),
        ({"blk.01.attn_q.weight": np.ones(4)}, "", "'blk.01.attn_q.weight'"),
        ({"rope_freqs.weight": np.ones(3)}, "", "rope_freqs.weight"),
        ({"rope_freqs.weight": np.array([1, np.nan])}, "", "rope_freqs.weight"),
        ({"rope_freqs.weight": np.array([1, 0])}, "", "rope_freqs.weight"),
    ],
)
def test_tensors_that_do_not_belong_to_a_llama_are_refused_by_name(
    extra: dict[str, Any], without: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError) as raised:
        opened(tmp_path, extra=extra, without=without)
    assert raised.value.field == field


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitectureError, match="'mamba'"):
        opened(tmp_path, {"general.architecture": (STRING, "mamba")})


def split(tmp_path: Path, count: int = 2, second: int = 1, twice: bool = False) -> Path:
    """The tiny llama, its last norm in a second file. Returns the path of the first."""
    keys = {"split.count": (U32, count), "split.tensors.count": (U32, len(SHAPES))}
    first = tiny_llama({**keys, "split.no": (U32, 0)}, without="" if twice else "output_norm.weight")
    norm = weights()["model.norm.weight"].tobytes()
    rest = [key_value(key, *value) for key, value in {**keys, "split.no": (U32, second)}.items()]
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(first)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(gguf(rest, [tensor_info("output_norm.weight", [HIDDEN])], norm))
    return tmp_path / "m-00001-of-00002.gguf"


def test_a_split_model_is_one_checkpoint(tmp_path: Path) -> None:
    path = split(tmp_path)
    for checkpoint in (open_model(path), open_model(tmp_path)):
        assert set(checkpoint.tensors) == set(SHAPES)
        assert checkpoint.tensors["model.norm.weight"].file.name.endswith("-00002-of-00002.gguf")
        np.testing.assert_array_equal(checkpoint.tensors["model.norm.weight"].values(), weights()["model.norm.weight"])


def test_a_split_model_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = split(tmp_path)
    with pytest.raises(ModelLoadError, match="open the first part"):
        open_model(tmp_path / "m-00002-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(
        ModelLoadError, match=r"m-00001-of-00002.gguf: m-00002-of-00002.gguf: this part of 2 is missing$"
    ):
        open_model(path)
    split(tmp_path)
    path.unlink()
    with pytest.raises(ModelLoadError, match=r"m-00001-of-00002.gguf: this part of 2 is missing$"):
        open_model(tmp_path)
    for arguments in ({"count": 3}, {"second": 0}, {"twice": True}):
        with pytest.raises(ModelLoadError):
            open_model(split(tmp_path, **arguments))


def test_a_folder_with_several_models_asks_which(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(tiny_llama())
    with pytest.raises(ModelLoadError, match=r"a\.gguf, b\.gguf"):
        open_model(tmp_path)
    (tmp_path / "b.gguf").unlink()
    (tmp_path / "config.json").write_text("{}")  # a GGUF repository's, which says less than the file's metadata
    assert open_model(tmp_path).config["model_type"] == "llama"


@pytest.mark.parametrize("format", [name for name, layout in LAYOUTS.items() if layout.ggml_type is not None])
def test_every_format_is_known_under_its_ggml_type(format: str, tmp_path: Path) -> None:
    import gguf as reference

    block, size = LAYOUTS[format].block, LAYOUTS[format].block_bytes
    kind = int(reference.GGMLQuantizationType[format])
    (tmp_path / "m.gguf").write_bytes(one_tensor(tensor_info("t", [block, 3], kind=kind), bytes(3 * size)))
    tensor = read_gguf(tmp_path / "m.gguf").tensors["t"]
    assert (tensor.format, tensor.shape, tensor.data.size) == (format, (3, block), 3 * size)
    assert reference.GGML_QUANT_SIZES[reference.GGMLQuantizationType[format]] == (block, size)


def test_sampling_that_the_authors_advise_has_the_names_of_a_generation_config() -> None:
    advice = {"temp": float(np.float32(0.7)), "top_k": 20, "top_p": float(np.float32(0.95)), "min_p": 0.0}
    metadata = {f"general.sampling.{key}": value for key, value in {**advice, "penalty_repeat": 1.05}.items()}
    assert generation_config(Path("m.gguf"), metadata | {"general.sampling.mirostat": 1}) == {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
    }
    assert generation_config(Path("m.gguf"), {}) == {}


@pytest.mark.parametrize("value", ["warm", [0.5], True, float("nan"), float("inf")])
def test_advice_on_sampling_that_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"m.gguf: general.sampling.temp: must be a finite number"):
        generation_config(Path("m.gguf"), {"general.sampling.temp": value})
