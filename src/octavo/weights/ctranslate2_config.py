"""The config.json, with the generation_config.json in it, that a CTranslate2 Whisper stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import map_file, parse_json, read_json
from octavo.weights.tensor import StoredTensor

# Settings that must have one value: it, and what CTranslate2 takes where the file is silent.
# Source: TransformerDecoder (src/layers/transformer.cc) and ActivationType (include/ctranslate2/ops/activation.h).
_REQUIRED = {
    "decoder/activation": (3, 0),  # GELU, ReLU
    "decoder/pre_norm": (1, 1),
    "decoder/alibi": (0, 0),
    "decoder/alibi_use_positive_positions": (0, 0),
    "decoder/scale_alibi": (0, 0),
    "decoder/start_from_zero_embedding": (0, 0),
}
_HEADS = ("encoder/num_heads", "decoder/num_heads")
_SCALE_EMBEDDINGS = "decoder/scale_embeddings"
_UNUSED = ("decoder/alignment_layer", "decoder/alignment_heads")  # of translation; Whisper's are in config.json
_HEAD_DIM = 64  # of every Whisper that was published
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
_MAX_VOCABULARY_BYTES = 16 << 20
_NAMED_TOKENS = {
    "decoder_start_token_id": "<|startoftranscript|>",
    "eos_token_id": "<|endoftext|>",
    "no_timestamps_token_id": "<|notimestamps|>",
}
# Models for English only have one token less; those of all languages are there, but were never learned.
_MULTILINGUAL_TOKENS = 51865
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
# lang_ids repeats the vocabulary, and is off by one in models for English only.
_CONFIG_KEYS = {
    "suppress_ids": "suppress_tokens",
    "suppress_ids_begin": "begin_suppress_tokens",
    "alignment_heads": "alignment_heads",
    "lang_ids": None,
    "multi_query_attention": None,
}


def whisper_config(
    directory: Path, settings: Mapping[str, float], tensors: Mapping[str, StoredTensor]
) -> dict[str, Any]:
    """A Whisper config.json from the settings of model.bin, the tensors under Hugging Face names, and the other files.

    Raises ModelLoadError for what is missing, contradictory, or not supported but of consequence.
    """
    file = directory / "model.bin"
    _check_settings(file, settings)
    vocab_size, d_model = _shape(file, tensors, "model.decoder.embed_tokens.weight", 2)
    encoder, decoder = (_num_layers(file, tensors, stack) for stack in ("encoder", "decoder"))
    encoder_heads, decoder_heads = (_num_heads(file, settings, name, d_model) for name in _HEADS)
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "scale_embedding": bool(settings.get(_SCALE_EMBEDDINGS, True)),
        "tie_word_embeddings": True,
        "d_model": d_model,
        "vocab_size": vocab_size,
        "num_mel_bins": _shape(file, tensors, "model.encoder.conv1.weight", 3)[1],
        "max_source_positions": _shape(file, tensors, "model.encoder.embed_positions.weight", 2)[0],
        "max_target_positions": _shape(file, tensors, "model.decoder.embed_positions.weight", 2)[0],
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "encoder_attention_heads": encoder_heads,
        "decoder_attention_heads": decoder_heads,
        "encoder_ffn_dim": _shape(file, tensors, "model.encoder.layers.0.fc1.weight", 2)[0],
        "decoder_ffn_dim": _shape(file, tensors, "model.decoder.layers.0.fc1.weight", 2)[0],
    }
    return config | _vocabulary_config(directory, vocab_size) | _generation_config(directory, config)


def _check_settings(file: Path, settings: Mapping[str, float]) -> None:
    for name in settings:
        if name not in _REQUIRED and name not in (*_HEADS, *_UNUSED, _SCALE_EMBEDDINGS):
            raise ModelLoadError(file, name, "this setting is not known, and could change the result")
    for name, (expected, default) in _REQUIRED.items():
        if (value := settings.get(name, default)) != expected:
            raise ModelLoadError(file, name, f"{value} is not supported, only {expected}")
    if (scale := settings.get(_SCALE_EMBEDDINGS, 1)) not in (0, 1):
        raise ModelLoadError(file, _SCALE_EMBEDDINGS, f"{scale} is neither 0 nor 1")


def _shape(file: Path, tensors: Mapping[str, StoredTensor], name: str, rank: int) -> tuple[int, ...]:
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelLoadError(file, name, "is missing")
    if len(tensor.shape) != rank:
        raise ModelLoadError(file, name, f"has shape {list(tensor.shape)}, not {rank} dimensions")
    return tensor.shape


def _num_layers(file: Path, tensors: Mapping[str, StoredTensor], stack: str) -> int:
    prefix = f"model.{stack}.layers."
    layers = {int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix)}
    if layers != set(range(len(layers))) or not layers:
        missing = next(layer for layer in range(len(layers) + 1) if layer not in layers)
        raise ModelLoadError(file, f"{stack}/layer_{missing}", "is missing")
    return len(layers)


def _num_heads(file: Path, settings: Mapping[str, float], name: str, d_model: int) -> int:
    heads = settings.get(name, d_model // _HEAD_DIM)
    if not isinstance(heads, int) or heads < 1 or d_model % heads:
        raise ModelLoadError(file, name, f"{heads} heads do not divide a width of {d_model}")
    return heads


def _vocabulary_config(directory: Path, vocab_size: int) -> dict[str, Any]:
    """What generation_config.json says of the vocabulary."""
    file = next((directory / name for name in _VOCABULARIES if (directory / name).exists()), None)
    if file is None:
        raise ModelLoadError(directory, "vocabulary", f"there is neither of {' and '.join(_VOCABULARIES)}")
    tokens = _tokens(file)
    if len(tokens) != vocab_size:
        raise ModelLoadError(file, "tokens", f"there are {len(tokens)}, but the model has embeddings of {vocab_size}")
    ids = {token: i for i, token in enumerate(tokens)}
    config: dict[str, Any] = {}
    for key, token in _NAMED_TOKENS.items():
        if token not in ids:
            raise ModelLoadError(file, token, "this token is missing; every Whisper has it")
        config[key] = ids[token]
    config["is_multilingual"] = vocab_size >= _MULTILINGUAL_TOKENS
    if config["is_multilingual"]:
        config["lang_to_id"] = {token: i for token, i in ids.items() if _LANGUAGE.fullmatch(token)}
    return config


def _tokens(file: Path) -> list[str]:
    """The tokens of a vocabulary, in the order of their ids: a JSON array, or one a line."""
    data = map_file(file)
    if len(data) > _MAX_VOCABULARY_BYTES:
        raise ModelLoadError(file, "file", f"{len(data)} bytes; at most {_MAX_VOCABULARY_BYTES} are accepted")
    if file.suffix == ".json":
        tokens = parse_json(data[:], file, "file")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ModelLoadError(file, "file", "expected a JSON array of strings")
        return tokens
    try:
        return data[:].decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ModelLoadError(file, "file", "is not valid UTF-8") from None


def _generation_config(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What CTranslate2's config.json says, under the names of generation_config.json."""
    file = directory / "config.json"
    given = {key: value for key, value in read_json(file).items() if value is not None}
    for key, value in given.items():
        if key not in _CONFIG_KEYS:
            raise ModelLoadError(file, key, "this key is not known, and could change the result")
        if key == "multi_query_attention" and value is not False:
            raise ModelLoadError(file, key, "is not supported")
    for key in ("suppress_ids", "suppress_ids_begin"):
        ConfigReader.of_file(given, file).integers(key, high=config["vocab_size"] - 1)
    heads = given.get("alignment_heads", [])
    shape = (config["decoder_layers"], config["decoder_attention_heads"])
    if not isinstance(heads, list) or not all(_is_place(head, shape) for head in heads):
        reason = f"must be pairs of one of {shape[0]} layers and one of its {shape[1]} heads"
        raise ModelLoadError(file, "alignment_heads", reason)
    return {renamed: given[key] for key, renamed in _CONFIG_KEYS.items() if renamed and key in given}


def _is_place(found: Any, shape: tuple[int, ...]) -> bool:
    """Whether it is a list with an index for each dimension."""
    if not isinstance(found, list) or len(found) != len(shape):
        return False
    return all(type(index) is int and 0 <= index < size for index, size in zip(found, shape, strict=True))
