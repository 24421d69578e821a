"""CTranslate2's Whisper: what is valid opens as a Hugging Face checkpoint, whatever lies is refused by name."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctranslate2_writer import (
    ALIASES,
    EMBEDDINGS,
    FRAMES,
    HEADS,
    INNER,
    MELS,
    POSITIONS,
    PROJECTION,
    SETTINGS,
    TOKENS,
    WIDTH,
    Tensors,
    converted,
    model_bin,
    stored_as,
    string,
    variable,
    whisper,
)
from writers import bounded_memory, entry, safetensors

from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.weights import open_checkpoint

FORMATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LINEAR = "decoder/layer_1/attention/linear_1/"
FLOAT16 = stored_as("float16", converted(whisper())) | SETTINGS
INT8 = stored_as("int8", converted(whisper())) | SETTINGS


def written(variables: Tensors = FLOAT16, aliases: dict[str, str] = ALIASES, **changes: Any) -> bytes:
    """A model.bin of `variables`, some of them changed (`__` is a slash); None takes one away."""
    variables = variables | {name.replace("__", "/"): value for name, value in changes.items()}
    return model_bin([variable(name, value) for name, value in variables.items() if value is not None], aliases)


def model(folder: Path, content: bytes, config: Any = None, vocabulary: Any = TOKENS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content)
    (folder / "config.json").write_text(json.dumps({} if config is None else config))
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    return folder


@pytest.mark.parametrize("dtype", FORMATS)
def test_tensors_are_views_of_the_file_under_their_hugging_face_names(dtype: str, tmp_path: Path) -> None:
    expected = whisper()
    checkpoint = open_checkpoint(model(tmp_path, written(stored_as(dtype, converted(expected)) | SETTINGS)))
    assert checkpoint.path == tmp_path
    assert checkpoint.tensors["model.encoder.conv1.bias"].file == tmp_path / "model.bin"
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.name == name
        assert tensor.format == FORMATS[dtype]
        assert tensor.shape == expected[name].shape
        assert tensor.data.size == tensor.layout.nbytes(tensor.shape)
        assert not tensor.data.flags.writeable
        assert not tensor.data.flags.owndata
        np.testing.assert_array_equal(tensor.values(), decoded(stored_as(dtype, {"": expected[name]})[""]))


def decoded(values: Any) -> Any:
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def test_int8_is_divided_by_the_scale_of_its_row(tmp_path: Path) -> None:
    expected = whisper()
    checkpoint = open_checkpoint(model(tmp_path, written(INT8)))
    assert set(checkpoint.tensors) == set(expected)
    weight = checkpoint.tensors["model.decoder.layers.1.encoder_attn.v_proj.weight"]
    assert (weight.format, weight.shape) == ("I8", (WIDTH, WIDTH))
    assert not weight.data.flags.writeable
    rows = slice(WIDTH, 2 * WIDTH)
    values = INT8[LINEAR + "weight"][rows].astype(np.float32) / INT8[LINEAR + "weight_scale"][rows, None]
    np.testing.assert_allclose(weight.values(), values, rtol=2e-7)
    assert checkpoint.tensors["model.encoder.layer_norm.bias"].format == "F16"
    for name, tensor in checkpoint.tensors.items():
        step = np.abs(expected[name]).reshape(len(expected[name]), -1).max() / 127
        np.testing.assert_allclose(tensor.values(), expected[name], atol=0.51 * step, rtol=1e-3)


def test_the_configuration_follows_from_tensors_settings_and_the_other_files(tmp_path: Path) -> None:
    given = {
        "suppress_ids": [0, 1], "suppress_ids_begin": None, "alignment_heads": [[1, 0], [0, 1]], "lang_ids": [9],
    }  # fmt: skip
    assert open_checkpoint(model(tmp_path, written(), given)).config == {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "d_model": WIDTH,
        "vocab_size": len(TOKENS),
        "num_mel_bins": MELS,
        "max_source_positions": FRAMES,
        "max_target_positions": POSITIONS,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": INNER,
        "decoder_ffn_dim": INNER,
        "eos_token_id": 1,
        "decoder_start_token_id": 2,
        "no_timestamps_token_id": 4,
        "is_multilingual": False,
        "suppress_tokens": [0, 1],
        "alignment_heads": [[1, 0], [0, 1]],
    }
    scaled = open_checkpoint(model(tmp_path, written(decoder__scale_embeddings=None)))
    assert scaled.config["scale_embedding"]


def test_a_large_vocabulary_is_that_of_several_languages(tmp_path: Path) -> None:
    tokens = [*TOKENS, "<|haw|>", "<|0.02|>", *(f"t{i}" for i in range(51865 - len(TOKENS) - 2))]
    embeddings = np.zeros((51865, WIDTH), np.float16)
    content = written(FLOAT16 | {EMBEDDINGS: embeddings})
    model(tmp_path, content, vocabulary=tokens)
    (tmp_path / "vocabulary.json").rename(tmp_path / "moved")
    (tmp_path / "vocabulary.txt").write_text("\n".join(tokens) + "\n")
    config = open_checkpoint(tmp_path).config
    assert config["is_multilingual"]
    assert config["lang_to_id"] == {"<|en|>": 3, "<|haw|>": 6}


def test_an_alias_is_the_same_tensor_under_another_name(tmp_path: Path) -> None:
    one, other = "decoder/layer_0/ffn/linear_0/weight", "decoder/layer_1/ffn/linear_0/weight"
    variables = {name: value for name, value in INT8.items() if not name.startswith(other)}
    tensors = open_checkpoint(model(tmp_path, written(variables, ALIASES | {other: one}))).tensors
    first, second = (tensors[f"model.decoder.layers.{i}.fc1.weight"] for i in (0, 1))
    assert (first.name, second.name) == tuple(f"model.decoder.layers.{i}.fc1.weight" for i in (0, 1))
    assert np.shares_memory(first.data, second.data)


def test_the_number_of_heads_follows_from_the_width_where_the_file_is_silent(tmp_path: Path) -> None:
    content = written(encoder__num_heads=None)
    with pytest.raises(ModelLoadError, match="0 heads do not divide a width of 4"):
        open_checkpoint(model(tmp_path, content))


def one(name: str | bytes = "encoder/x", **lie: int) -> bytes:
    """A file of one variable that lies."""
    return model_bin([variable(name, np.zeros((2, 2), np.float16), **lie)])


SELF = "decoder/layer_0/self_attention/linear_0/"
K_BIAS = np.concatenate([np.zeros(WIDTH), np.eye(1, WIDTH)[0], np.zeros(WIDTH)]).astype(np.float16)
FILES: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "file"),
    "three bytes": (b"\6\0\0", "binary version"),
    "text": (b"{" * 100, "binary version"),
    "a pickle of the oldest kind": (b"(dp0\nS'a'\np1\nI1\ns.", "binary version"),
    "a zip of pickles": (b"PK\3\4" + bytes(60), "file"),
    "a version of the past": (model_bin([], version=3), "binary version"),
    "a version of the future": (model_bin([], version=7), "binary version"),
    "another model": (model_bin([], name=string("TransformerSpec")), "specification"),
    "a name without its NUL": (model_bin([], name=b"\x0b\0WhisperSpec"), "specification"),
    "a name of no bytes": (model_bin([], name=b"\0\0"), "specification"),
    "a name of a NUL": (model_bin([], name=b"\1\0\0"), "specification"),
    "a name longer than the file": (model_bin([], name=b"\xff\3WhisperSpec\0"), "specification"),
    "an endless name": (model_bin([], name=b"\xff\xffWhisperSpec\0"), "specification"),
    "an earlier revision": (model_bin([], revision=2), "revision"),
    "more variables than bytes": (model_bin([], num_variables=2**32 - 1), "variable count"),
    "more variables than there are": (model_bin([], {"aa": "bb"}, num_variables=1), "variable name"),
    "fewer variables than there are": (written()[:22] + b"\1\0\0\0" + written()[26:], "alias count"),
    "a variable's name that is not ASCII": (one(b"encoder/\xc3\xa9"), "variable name"),
    "a variable's name with a line break": (one("encoder/\nx"), "variable name"),
    "a variable's name with a NUL inside": (one(b"encoder/\0x"), "variable name"),
    "a variable there twice": (model_bin([variable("a", np.zeros(2, np.int8))] * 2), "a"),
    "a setting there twice": (model_bin([variable("a", np.int8(2))] * 2), "a"),
    "rank 4": (one(rank=4), "encoder/x"),
    "rank 255": (one(rank=255), "encoder/x"),
    "a rank that is too small": (one(rank=1), "encoder/x"),
    "a rank that is too large": (one(rank=3), "encoder/x"),
    "an unknown type": (one(kind=6), "encoder/x"),
    "a type of another size": (one(kind=0), "encoder/x"),
    "more bytes than its shape takes": (one(length=10), "encoder/x"),
    "fewer bytes than its shape takes": (one(length=4), "encoder/x"),
    "a dimension of zero": (model_bin([variable("a", np.zeros((0, 4), np.float16))]), "a"),
    "a shape beyond the file": (
        model_bin([string("a") + struct.pack("<B2IBI", 2, 2**16, 2**14, 4, 2**31)]), "a"),
    "a shape that overflows 64 bits": (
        model_bin([string("a") + struct.pack("<B3IBI", 3, 2**31, 2**31, 4, 1, 0)]), "a"),
    "a single bfloat16": (model_bin([variable("a", np.uint16(3))]), "a"),
    "more aliases than bytes": (model_bin([], num_aliases=2**31), "alias count"),
    "more aliases than there are": (model_bin([], {"aa": "bb"}, num_aliases=2), "alias count"),
    "fewer aliases than there are": (written()[:-60] + written()[-60:].replace(b"\1\0\0\0", bytes(4)), "aliases"),
    "bytes at the end": (written() + b"\0", "aliases"),
    "an alias of nothing": (written(aliases=ALIASES | {"a": "b"}), "a"),
    "an alias of a setting": (written(aliases=ALIASES | {"a": "decoder/alibi"}), "a"),
    "an alias of an alias": (written(aliases=ALIASES | {"a": PROJECTION}), "a"),
    "an alias of scales": (written(INT8, ALIASES | {"a": f"{EMBEDDINGS}_scale"}), "a"),
    "an alias with the name of a variable": (written(aliases=ALIASES | {EMBEDDINGS: EMBEDDINGS}), EMBEDDINGS),
    "an alias that Whisper has not": (written(aliases=ALIASES | {"encoder/x": EMBEDDINGS}), "encoder/x"),
    "an alias of another name of its tensor": (
        written(aliases=ALIASES | {"encoder/layer_norm/weight": "encoder/layer_norm/gamma"}),
        "encoder/layer_norm/weight"),
    "an untied projection": (written(aliases={}), PROJECTION),
    "a projection tied to something else": (
        written(aliases={PROJECTION: "decoder/position_encodings/encodings"}), PROJECTION),
    "a bias of the projection": (
        written(decoder__projection__bias=np.zeros(6, np.float16)), "decoder/projection/bias"),
    "an unknown part": (written(encoder__layer_0__x__weight=np.zeros(2, np.float16)), "encoder/layer_0/x/weight"),
    "an unknown parameter": (written(encoder__conv1__x=np.zeros(2, np.float16)), "encoder/conv1/x"),
    "relative positions": (
        written(encoder__layer_0__self_attention__relative_position_keys=np.zeros((3, 2), np.float16)),
        "encoder/layer_0/self_attention/relative_position_keys"),
    "an unknown setting": (written(decoder__sliding_window=np.int32(8)), "decoder/sliding_window"),
    "ReLU": (written(decoder__activation=np.int8(0)), "decoder/activation"),
    "no activation": (written(decoder__activation=None), "decoder/activation"),
    "norms after each layer": (written(decoder__pre_norm=np.int8(0)), "decoder/pre_norm"),
    "ALiBi": (written(decoder__alibi=np.int8(1)), "decoder/alibi"),
    "a start from zero": (
        written(decoder__start_from_zero_embedding=np.int8(1)), "decoder/start_from_zero_embedding"),
    "a scale of embeddings of its own": (
        written(decoder__scale_embeddings=np.float32(0.5)), "decoder/scale_embeddings"),
    "heads that do not divide the width": (written(decoder__num_heads=np.int16(3)), "decoder/num_heads"),
    "no heads": (written(encoder__num_heads=np.int16(0)), "encoder/num_heads"),
    "half a head": (written(encoder__num_heads=np.float32(0.5)), "encoder/num_heads"),
    "a heads' number of NaN": (written(encoder__num_heads=np.float32("nan")), "encoder/num_heads"),
    "a bias for K": (written(FLOAT16 | {SELF + "bias": K_BIAS}), SELF + "bias"),
    "rows that are not three matrices": (
        written(FLOAT16 | {SELF + "weight": np.zeros((13, WIDTH), np.float16)}), SELF + "weight"),
    "no embeddings": (
        written(FLOAT16 | {EMBEDDINGS: None}, {PROJECTION: "encoder/conv1/weight"}), PROJECTION),
    "a flat convolution": (
        written(encoder__conv1__weight=np.zeros((4, 9), np.float16)), "model.encoder.conv1.weight"),
    "no convolution": (written(encoder__conv1__weight=None), "model.encoder.conv1.weight"),
    "a layer left out": (
        written({name.replace("r/layer_0", "r/layer_7"): value for name, value in FLOAT16.items()}),
        "encoder/layer_0"),
    "no layers": (
        written({name: value for name, value in FLOAT16.items() if "encoder/layer_0" not in name}),
        "encoder/layer_0"),
    "int8 without scales": (written(INT8 | {LINEAR + "weight_scale": None}), LINEAR + "weight"),
    "scales without int8": (
        written(FLOAT16 | {LINEAR + "weight_scale": np.ones(8, np.float32)}), LINEAR + "weight"),
    "scales of nothing": (written(encoder__x_scale=np.ones(8, np.float32)), "encoder/x_scale"),
    "too few scales": (
        written(INT8 | {LINEAR + "weight_scale": np.ones(7, np.float32)}), LINEAR + "weight_scale"),
    "scales in float16": (
        written(INT8 | {LINEAR + "weight_scale": np.ones(8, np.float16)}), LINEAR + "weight_scale"),
    "a scale of zero": (
        written(INT8 | {LINEAR + "weight_scale": np.zeros(8, np.float32)}), LINEAR + "weight_scale"),
    "a scale that makes weights infinite": (
        written(INT8 | {LINEAR + "weight_scale": np.full(8, 1e-38, np.float32)}), LINEAR + "weight_scale"),
    "a scale of NaN": (
        written(INT8 | {LINEAR + "weight_scale": np.full(8, np.nan, np.float32)}), LINEAR + "weight_scale"),
    "int16": (written(FLOAT16 | {LINEAR + "weight": np.zeros((8, 4), np.int16)}), LINEAR + "weight"),
    "zero points": (written(INT8 | {LINEAR + "weight_zero": np.zeros(8, np.float16)}), LINEAR + "weight_zero"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_lying_file_is_refused_by_field_within_bounded_memory(case: str, tmp_path: Path) -> None:
    content, field = FILES[case]
    model(tmp_path, content)
    with bounded_memory(tmp_path / "model.bin"), pytest.raises(ModelLoadError) as raised:
        open_checkpoint(tmp_path)
    assert raised.value.field == field
    assert raised.value.file == str(tmp_path / "model.bin")
    assert "\n" not in str(raised.value)
    assert len(raised.value.reason) < 300


def test_messages_say_what_is_supported(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="CTranslate2, safetensors and GGUF"):
        open_checkpoint(model(tmp_path, b"nonsense"))
    with pytest.raises(ModelLoadError, match="convert to safetensors"):
        open_checkpoint(model(tmp_path, b"\x80\2}q\0." + bytes(60)))
    with pytest.raises(UnknownArchitectureError, match="TransformerSpec is not supported"):
        open_checkpoint(model(tmp_path, model_bin([], name=string("TransformerSpec"))))
    with pytest.raises(ModelLoadError, match="quantization float16 or int8"):
        open_checkpoint(model(tmp_path, FILES["int16"][0]))


FOLDERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a config.json that is a list": ({"config.json": []}, "config.json", "file"),
    "an unknown key": ({"config.json": {"quantization_type": 1}}, "config.json", "quantization_type"),
    "shared keys and values": (
        {"config.json": {"multi_query_attention": True}}, "config.json", "multi_query_attention"),
    "tokens beyond the vocabulary": ({"config.json": {"suppress_ids": [6]}}, "config.json", "suppress_ids"),
    "negative tokens": ({"config.json": {"suppress_ids_begin": [-1]}}, "config.json", "suppress_ids_begin"),
    "tokens that are no numbers": ({"config.json": {"suppress_ids": [True]}}, "config.json", "suppress_ids"),
    "one token instead of a list": ({"config.json": {"suppress_ids": 1}}, "config.json", "suppress_ids"),
    "a layer that is not there": ({"config.json": {"alignment_heads": [[2, 0]]}}, "config.json", "alignment_heads"),
    "a head that is not there": ({"config.json": {"alignment_heads": [[0, 2]]}}, "config.json", "alignment_heads"),
    "a head of three numbers": (
        {"config.json": {"alignment_heads": [[0, 1, 1]]}}, "config.json", "alignment_heads"),
    "heads that are no pairs": ({"config.json": {"alignment_heads": [1, 2]}}, "config.json", "alignment_heads"),
    "a vocabulary that is an object": ({"vocabulary.json": {}}, "vocabulary.json", "file"),
    "a vocabulary of numbers": ({"vocabulary.json": [1] * 6}, "vocabulary.json", "file"),
    "a vocabulary that is too short": ({"vocabulary.json": TOKENS[:-1]}, "vocabulary.json", "tokens"),
    "a vocabulary without an end": ({"vocabulary.json": list("abcdef")}, "vocabulary.json", "<|startoftranscript|>"),
    "a vocabulary that is not UTF-8": (
        {"vocabulary.json": None, "vocabulary.txt": b"\xff\n" * 6}, "vocabulary.txt", "file"),
    "an endless vocabulary": (
        {"vocabulary.json": None, "vocabulary.txt": bytes(17 << 20)}, "vocabulary.txt", "file"),
    "no vocabulary": ({"vocabulary.json": None}, "", "vocabulary"),
    "no config.json": ({"config.json": None}, "config.json", "file"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_other_files_that_are_wrong_are_refused_by_field(case: str, tmp_path: Path) -> None:
    files, file, field = FOLDERS[case]
    model(tmp_path, written())
    for name, content in files.items():
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ModelLoadError) as raised:
        open_checkpoint(tmp_path)
    assert raised.value.file == str(tmp_path / file)
    assert raised.value.field == field


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = written(INT8)
    model(tmp_path, content)
    for length in range(0, len(content), 5):
        (tmp_path / "model.bin").write_bytes(content[:length])
        with pytest.raises(ModelLoadError):
            open_checkpoint(tmp_path)


def test_mutated_bytes_give_an_error_or_a_valid_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = [written(), written(INT8)]
    refused = 0
    model(tmp_path, good[0])
    for _ in range(2000):
        content = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 1, 2, 4))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "model.bin").write_bytes(content)
        try:
            with bounded_memory(tmp_path / "model.bin"):
                for tensor in open_checkpoint(tmp_path).tensors.values():
                    assert tensor.values().shape == tensor.shape
        except ModelLoadError:
            refused += 1
    assert 800 < refused < 2000


def test_safetensors_beside_a_model_bin_are_preferred(tmp_path: Path) -> None:
    model(tmp_path, b"a pickle, perhaps")
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": entry(0, 8)}, bytes(8)))
    assert list(open_checkpoint(tmp_path).tensors) == ["a"]


def test_tiny_en_is_whole(whisper_model: Path) -> None:
    checkpoint = open_checkpoint(whisper_model)
    assert {tensor.file.name for tensor in checkpoint.tensors.values()} == {"model.bin"}
    assert len(checkpoint.tensors) == 167
    assert checkpoint.tensors["model.encoder.conv1.weight"].shape == (384, 80, 3)
    sizes = {"d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "decoder_attention_heads": 6}
    tokens = {"vocab_size": 51864, "no_timestamps_token_id": 50362, "begin_suppress_tokens": [220, 50256]}
    expected = sizes | tokens | {"is_multilingual": False, "max_target_positions": 448}
    assert expected.items() <= checkpoint.config.items()
    assert len(checkpoint.config["suppress_tokens"]) == 90
