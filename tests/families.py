"""Every family of models that is declared: a tiny random checkpoint of each, by transformers' own classes, and as GGUF."""

from dataclasses import dataclass, field

import gguf
import numpy as np

from checkpoints import save_checkpoint, swap_rows
from octavo.weights.safetensors import read_tensors


@dataclass(frozen=True)
class Family:
    """`kind` is what transformers' classes are called before Config and ForCausalLM; `config` is what differs.

    `gguf` is llama.cpp's name of the architecture, `keys` what its metadata say beside sizes. `convert` makes of a tensor
    what llama.cpp's converter does: it gets the name, the values, the model's configuration.
    """

    kind: str
    config: dict = field(default_factory=dict)
    gguf: str | None = None
    keys: dict = field(default_factory=dict)
    convert: object = lambda name, values, config: values

    def save(self, path):
        return save_checkpoint(path, self.kind, **self.config)


def permuted(name, values, config):
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    return swap_rows(values, heads) if heads else values


def one_more(name, values, config):
    """Norms with their 1."""
    return values + 1 if "norm" in name else values


WINDOWS = {"sliding_window": 16, "num_hidden_layers": 3}
HALF = ["full_attention", "sliding_attention"]
GEMMA = {"head_dim": 16, "pad_token_id": 0, "tie_word_embeddings": True}

FAMILIES = {
    "Qwen2": Family("Qwen2", gguf="qwen2"),
    "Qwen2, tied": Family("Qwen2", {"tie_word_embeddings": True}, "qwen2"),
    "Qwen2, windows": Family("Qwen2", {**WINDOWS, "use_sliding_window": True, "max_window_layers": 1}),
    "Qwen3": Family("Qwen3", {"head_dim": 24, "tie_word_embeddings": True}, "qwen3"),
    "Qwen3, bias, windows": Family(
        "Qwen3", {**WINDOWS, "attention_bias": True, "use_sliding_window": True, "max_window_layers": 1}
    ),
    "Gemma": Family("Gemma", GEMMA, "gemma", convert=one_more),
    "Gemma 3": Family(
        "Gemma3Text",
        {
            **GEMMA,
            "sliding_window": 16,
            "num_hidden_layers": 6,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "gemma3",
        {
            "attention.sliding_window": 16,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        one_more,
    ),
}


def save_gguf(family, model, path, target):
    """Writes a checkpoint that was saved in `path` as GGUF, as llama.cpp's converter would."""
    config = model.config
    writer = gguf.GGUFWriter(target, family.gguf)
    sizes = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", config.num_attention_heads),
    }
    if head_dim := getattr(config, "head_dim", None):
        sizes |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if eps := getattr(config, "rms_norm_eps", None):
        sizes["attention.layer_norm_rms_epsilon"] = eps
    else:
        sizes["attention.layer_norm_epsilon"] = eps_of(config)
    for key, value in (sizes | family.keys).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
        add[type(value)](f"{family.gguf}.{key}", value)
    for name, tensor in read_tensors(path / "model.safetensors").items():
        for ours, values in named(family.convert(name, tensor.values(), config), name):
            writer.add_tensor(gguf_name(family.gguf, ours), np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def eps_of(config):
    names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
    return next(value for name in names if (value := getattr(config, name, None)) is not None)


def named(values, name):
    """What a conversion made of one tensor: other values, or a dict of several."""
    return values.items() if isinstance(values, dict) else [(name, values)]


def gguf_name(architecture, name):
    """llama.cpp's name of a tensor, by its own table."""
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    found = gguf.get_tensor_name_map(kind, 16).get_name(name, try_suffixes=(".weight", ".bias"))
    assert found, f"{architecture} has no tensor {name}"
    return found
