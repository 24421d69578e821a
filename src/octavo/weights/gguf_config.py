"""The config.json that a GGUF file's metadata stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.errors import ModelLoadError
from octavo.weights.gguf_file import single
from octavo.weights.tensor import StoredTensor

_KNOWN_KEYS = {
    "llama." + key
    for key in (
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "attention.sliding_window", "tensor_data_layout",
        "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type",
        "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned",
        "rope.scaling.attn_factor",
        "expert_count", "expert_used_count",
    )
}  # fmt: skip

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


def llama_config(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    rope_factors: list[float] | None,
) -> dict[str, Any]:
    """A Llama config.json from `metadata`. `tensors` have GGUF's names.

    Raises ModelLoadError for what is missing, contradictory, or not supported but of consequence.
    """
    keys = _Keys(path, metadata)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelLoadError(path, "token_embd.weight", "the embedding matrix is missing")
    heads = keys.count("attention.head_count")
    hidden_size = keys.count("embedding_length")
    head_dim = keys.count("attention.key_length", hidden_size // heads)
    vocab_size = keys.count("vocab_size", embedding.shape[0])
    if embedding.shape != (vocab_size, hidden_size):
        raise ModelLoadError(
            path, "token_embd.weight", f"has shape {list(embedding.shape)}, not [{vocab_size}, {hidden_size}]"
        )
    keys.must_equal("attention.value_length", head_dim)
    keys.must_equal("rope.dimension_count", head_dim)
    if head_dim % 2:
        raise ModelLoadError(path, "llama.attention.key_length", f"rope needs an even head size, not {head_dim}")
    if rope_factors is not None and len(rope_factors) != head_dim // 2:
        raise ModelLoadError(path, "rope_freqs.weight", f"has {len(rope_factors)} factors, not {head_dim // 2}")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": keys.count("feed_forward_length"),
        "num_hidden_layers": keys.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.positive("rope.freq_base", 10000.0),
        "max_position_embeddings": keys.count("context_length"),
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "bos_token_id": keys.token("bos", vocab_size),
        "eos_token_id": keys.token("eos", vocab_size),
    }
    if scaling := _rope_scaling(keys, rope_factors):
        config["rope_scaling"] = scaling
    if "llama.attention.sliding_window" in metadata:
        config["sliding_window"] = keys.count("attention.sliding_window")
    return config


def _rope_scaling(keys: _Keys, factors: list[float] | None) -> dict[str, Any] | None:
    """Hugging Face's rope_scaling, or None. "factors" is our own type: a divisor for each frequency."""
    kind = keys.get("rope.scaling.type", "linear" if keys.has("rope.scale_linear") else "none")
    keys.must_equal("rope.scaling.attn_factor", 1.0)
    legacy_factor = keys.positive("rope.scale_linear", 1.0)
    factor = keys.positive("rope.scaling.factor", legacy_factor)
    if factors is not None:
        if kind != "none" and factor != 1.0:
            keys.fail("rope.scaling.type", f"{kind!r:.40} together with rope_freqs.weight is not supported")
        return {"rope_type": "factors", "factors": factors}
    if kind == "none" or factor == 1.0:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = keys.count("rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    keys.fail("rope.scaling.type", f"{kind!r:.40} is not supported, only none, linear and yarn")
    return None


class _Keys:
    """Typed access to the metadata under "llama."."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]):
        self._path, self._metadata = path, metadata
        for key in metadata:
            if key.startswith("llama.") and key not in _KNOWN_KEYS:
                raise ModelLoadError(path, f"{key[:200]!r}", "this key is not known, and could change the result")
        if self.get("expert_count", 0):
            self.fail("expert_count", "mixtures of experts are not supported")

    def fail(self, key: str, reason: str) -> None:
        raise ModelLoadError(self._path, f"llama.{key}", reason)

    def has(self, key: str) -> bool:
        return f"llama.{key}" in self._metadata

    def get(self, key: str, default: Any) -> Any:
        return single(self._path, self._metadata, f"llama.{key}", default)

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if type(value) is not int or not 0 < value < 2**31:
            self.fail(key, "is missing" if value is None else f"{value!r:.40} is not a positive 31-bit integer")
        return int(value)

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if type(value) is not float or not (math.isfinite(value) and value > 0):
            self.fail(key, "is missing" if value is None else f"{value!r:.40} is not a positive number")
        return float(value)

    def must_equal(self, key: str, expected: float) -> None:
        value = self.get(key, expected)
        if isinstance(value, (int, float)) and value == expected:
            return
        self.fail(key, f"{value!r:.40} is not supported, only {expected}")

    def token(self, name: str, vocab_size: int) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        value = single(self._path, self._metadata, key)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < vocab_size:
            raise ModelLoadError(self._path, key, f"{value!r:.40} is not a token of a vocabulary of {vocab_size}")
        return int(value)
