"""The config.json that a GGUF file's metadata stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily
from octavo.weights.gguf_file import single
from octavo.weights.tensor import StoredTensor

_PATTERN = "attention.sliding_window_pattern"
# The width of heads in layers with windows, where families name it, and what must be the same.
_HEAD_OF_WINDOWS = "attention.key_length_swa"
_OF_WINDOWS = ("attention.value_length_swa", "rope.dimension_count_swa")
_LABELS = "classifier.output_labels"
_KNOWN_KEYS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.sliding_window", "attention.causal",
    "tensor_data_layout",
    "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    _PATTERN, "attention.key_length_mla", "attention.value_length_mla",
    "attention.q_lora_rank", "attention.kv_lora_rank", "nextn_predict_layers", "pooling_type", _LABELS,
)  # fmt: skip
# What only files with experts have, by their fields of config.json.
_EXPERT_KEYS = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "norm_topk_prob": "expert_weights_norm",
    "routed_scaling_factor": "expert_weights_scale",
    "first_k_dense_replace": "leading_dense_block_count",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "scoring_func": "expert_gating_func",
}
_SCORES = {1: "softmax", 2: "sigmoid"}
_MAX_COUNT = 2**31 - 1

# Fields of rope_scaling, by the keys that say them.
_YARN_KEYS = {"rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow"}
_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"

# Tensors that divide rope's frequencies: always, in long contexts, and in short ones.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

# generation_config.json's names, and the keys after "general.sampling.".
_SAMPLING_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def generation_config(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling that a file's authors advise. Raises ModelLoadError for what is no number."""
    found: dict[str, Any] = {}
    for name, short in _SAMPLING_KEYS.items():
        key = f"general.sampling.{short}"
        value = metadata.get(key)
        if value is None:
            continue
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ModelLoadError(path, key, f"must be a finite number, not {value!r:.40}")
        found[name] = float(f"{value:.7g}") if isinstance(value, float) else value  # 0.95, not its nearest float32
    return found


def config_of(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    family: GGUFFamily,
    factors: Mapping[str, list[float]],
) -> dict[str, Any]:
    """A config.json with Llama's fields, and those of the `family`, from `metadata`. `tensors` have GGUF's names.

    Raises ModelLoadError for what is missing, contradictory, or not supported but of consequence.
    """
    keys = _keys(path, metadata, family)
    count = partial(keys.integer, high=_MAX_COUNT)
    heads = _largest(keys, "attention.head_count")
    hidden_size = count("embedding_length")
    head_dim = count("attention.key_length", hidden_size // heads)
    if family.latent:  # then that is the cache's of whoever keeps latent rows
        head_dim = count("attention.key_length_mla", head_dim)
    vocab_size = _vocab_size(path, keys, tensors, hidden_size)
    rotated = _check_dimensions(keys, family, head_dim)
    for name, found in factors.items():
        if len(found) != rotated // 2:
            raise ModelLoadError(path, name, f"has {len(found)} factors, not {rotated // 2}")
    eps = "attention.layer_norm_rms_epsilon"
    config: dict[str, Any] = {
        "architectures": [family.name],
        **_experts(keys, family),
        "model_type": family.architecture,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": _largest(keys, "feed_forward_length", keys.values.get("expert_feed_forward_length")),
        "num_hidden_layers": count("block_count") - keys.integer("nextn_predict_layers", 0, low=0),
        "num_attention_heads": heads,
        "num_key_value_heads": _largest(keys, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": keys.number(eps if eps in keys.values else "attention.layer_norm_epsilon"),
        "rope_theta": keys.number("rope.freq_base", 10000.0),
        "max_position_embeddings": count("context_length"),
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
        "attention_k_eq_v": any(_values_of(name) not in tensors for name in tensors if name.endswith(".attn_k.weight")),
        "bos_token_id": _token(path, metadata, "tokenizer.ggml.bos_token_id", vocab_size),
        "eos_token_id": _token(path, metadata, "tokenizer.ggml.eos_token_id", vocab_size),
    }
    if family.latent:
        config |= _latent(keys, tensors, hidden_size // heads, head_dim - rotated, rotated)
    elif rotated != head_dim:
        config["partial_rotary_factor"] = rotated / head_dim
    if not family.causal:
        config |= {"layer_norm_eps": config["rms_norm_eps"], **_of_encoders(keys, tensors)}
    if scaling := _rope_scaling(keys, factors, unit=0.1 if family.latent else 1.0):
        config["rope_scaling"] = scaling
    if "blk.0.attn_q_norm.weight" in tensors:
        config["qk_layernorm"] = True
    said = {field: keys.values[key] for key, field in family.keys.items() if key in keys.values}
    lists = {field: keys.values[key] for key, field in family.lists.items() if isinstance(keys.values.get(key), list)}
    return {**config, **_windows(keys), **family.values, **said, **lists}


def _vocab_size(path: Path, keys: ConfigReader, tensors: Mapping[str, StoredTensor], hidden_size: int) -> int:
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelLoadError(path, "token_embd.weight", "the embedding matrix is missing")
    found = keys.integer("vocab_size", embedding.shape[0], high=_MAX_COUNT)
    if embedding.shape != (found, hidden_size):
        reason = f"has shape {list(embedding.shape)}, not [{found}, {hidden_size}]"
        raise ModelLoadError(path, "token_embd.weight", reason)
    return found


def _of_encoders(keys: ConfigReader, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    table, labels = tensors.get("token_types.weight"), keys.values.get(_LABELS)
    named = {"id2label": {str(i): label for i, label in enumerate(labels)}} if isinstance(labels, list) else {}
    has_gates = "blk.0.ffn_gate.weight" in tensors
    return {"type_vocab_size": 0 if table is None else table.shape[0], "gate_is_apart": has_gates, **named}


def _windows(keys: ConfigReader) -> dict[str, Any]:
    """How long windows are, and which layers have one."""
    found: dict[str, Any] = {}
    if keys.values.get("attention.sliding_window"):
        found["sliding_window"] = keys.integer("attention.sliding_window", high=_MAX_COUNT)
    if isinstance(pattern := keys.values.get(_PATTERN), int):
        found["sliding_window_pattern"] = pattern
    elif pattern is not None:
        found["layer_types"] = ["sliding_attention" if has_window else "full_attention" for has_window in pattern]
    return found


def _latent(
    keys: ConfigReader, tensors: Mapping[str, StoredTensor], width: int, plain: int, rotated: int
) -> dict[str, Any]:
    """The fields of latent attention; `width` is that of values which nothing is said of."""
    value = keys.integer("attention.value_length_mla", keys.integer("attention.value_length", width))
    ranks = {f"{name}_lora_rank": keys.values.get(f"attention.{name}_lora_rank") or None for name in ("q", "kv")}
    return {
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": plain,
        "v_head_dim": value,
        "kv_b_apart": "blk.0.attn_k_b.weight" in tensors,
        **ranks,
    }


def _largest(keys: ConfigReader, key: str, default: int | None = None) -> int:
    """A size of all layers, or the largest of a list that has one for each, and 0 for layers without."""
    if not isinstance(keys.values.get(key), list):
        return keys.integer(key, default, high=_MAX_COUNT)
    largest = max(keys.integers(key, high=_MAX_COUNT, count=keys.integer("block_count", high=4096)), default=0)
    if not largest:
        raise keys.fail(key, "is 0 in all layers")
    return largest


def _values_of(name: str) -> str:
    return name.replace(".attn_k.", ".attn_v.")


def _experts(keys: ConfigReader, family: GGUFFamily) -> dict[str, Any]:
    """What a mixture of experts has, but for what the family names itself."""
    said = {field: key for field, key in _EXPERT_KEYS.items() if key in keys.values and key not in family.keys}
    found = {field: keys.values[key] for field, key in said.items()}
    if not keys.integer("expert_count", 0, low=0):
        return {}
    if "ffn_gate_inp" not in family.layer:
        raise keys.fail("expert_count", "mixtures of experts are not supported in this architecture")
    keys.integer("expert_used_count")
    score = keys.integer("expert_gating_func", 1, low=0)
    if score not in _SCORES:
        raise keys.fail("expert_gating_func", f"{score} is not supported, only {_SCORES}")
    named = {"architectures": [family.with_experts]} if family.with_experts else {}
    return {**named, **found, **({"scoring_func": _SCORES[score]} if "scoring_func" in found else {})}


def _check_dimensions(keys: ConfigReader, family: GGUFFamily, head_dim: int) -> int:
    """How many columns of a head are rotated."""
    is_part = family.partial_rope or family.latent
    rotated = keys.integer("rope.dimension_count", head_dim, high=head_dim) if is_part else head_dim
    required: dict[str, Any] = {"rope.dimension_count": rotated, "attention.causal": family.causal}
    required |= dict.fromkeys(_OF_WINDOWS, keys.values.get(_HEAD_OF_WINDOWS))
    if not family.latent:
        required["attention.value_length"] = head_dim
    for key, expected in required.items():
        if (value := keys.values.get(key, expected)) != expected:
            raise keys.fail(key, f"{value!r:.40} is not supported, only {expected}")
    if rotated % 2:
        field = "attention.key_length" if rotated == head_dim else "rope.dimension_count"
        raise keys.fail(field, f"rope needs an even number of columns, not {rotated}")
    return rotated


def _keys(path: Path, metadata: Mapping[str, Any], family: GGUFFamily) -> ConfigReader:
    """What the metadata say of the architecture."""
    prefix = f"{family.architecture}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    arrays = (*family.keys, *family.lists, _PATTERN, _LABELS)
    own = {key: _plain(value) if key in arrays else single(path, metadata, prefix + key) for key, value in own.items()}
    known = {*_KNOWN_KEYS, *_EXPERT_KEYS.values(), *_YARN_KEYS, _LOG_MULTIPLIER, *family.keys, *family.lists}
    known |= {*_OF_WINDOWS} if _HEAD_OF_WINDOWS in family.keys else set()
    if unknown := [key for key in own if key not in known]:
        reason = "this key is not known, and could change the result"
        raise ModelLoadError(path, repr(prefix + unknown[0][:200]), reason)
    if missing := [key for key in family.required if key not in own]:
        raise ModelLoadError(path, prefix + missing[0], "is missing: convert the model anew, with a newer converter")
    return ConfigReader.of_file(own, path, prefix)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _token(path: Path, metadata: Mapping[str, Any], key: str, vocab_size: int) -> int | None:
    value = single(path, metadata, key)
    return None if value is None else ConfigReader.of_file({key: value}, path).integer(key, low=0, high=vocab_size - 1)


def _rope_scaling(keys: ConfigReader, factors: Mapping[str, list[float]], unit: float) -> dict[str, Any] | None:
    """Hugging Face's rope_scaling, or None. "factors" is our own type: a divisor for each frequency.

    `unit` is what yarn_log_multiplier counts in.
    """
    kind = keys.text("rope.scaling.type", "linear" if "rope.scale_linear" in keys.values else "none")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    plain, *sets = (factors.get(name) for name in ROPE_FACTORS)
    if None not in sets:
        context = keys.integer("context_length", high=_MAX_COUNT)
        original = keys.integer("rope.scaling.original_context_length", context, high=_MAX_COUNT)
        named = dict(zip(("long_factor", "short_factor"), sets, strict=True))
        temperature = {"attention_factor": keys.number("rope.scaling.attn_factor", 1.0)}
        return {"rope_type": "longrope", "original_max_position_embeddings": original, **named, **temperature}
    if keys.values.get("rope.scaling.attn_factor", 1.0) != 1.0:
        value = keys.values["rope.scaling.attn_factor"]
        raise keys.fail("rope.scaling.attn_factor", f"{value!r:.40} is not supported, only 1.0")
    if plain is not None:
        if kind != "none" and factor != 1.0:
            raise keys.fail("rope.scaling.type", f"{kind!r:.40} together with {ROPE_FACTORS[0]} is not supported")
        return {"rope_type": "factors", "factors": plain}
    if kind == "none" or factor == 1.0:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = keys.integer("rope.scaling.original_context_length", high=_MAX_COUNT)
        said = {field: keys.values[key] for key, field in _YARN_KEYS.items() if key in keys.values}
        if keys.values.get(_LOG_MULTIPLIER):
            said |= dict.fromkeys(("mscale", "mscale_all_dim"), keys.number(_LOG_MULTIPLIER) / unit)
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **said}
    raise keys.fail("rope.scaling.type", f"{kind!r:.40} is not supported, only none, linear and yarn")
