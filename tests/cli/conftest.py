"""A tiny Llama checkpoint with random weights."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def make_tiny_llama(path: Path, *, chat_template: str | None = CHAT_TEMPLATE, **config_overrides) -> Path:
    """A Llama checkpoint of random weights and a tokenizer of bytes; overrides are for config.json."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    named = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    template = {} if chat_template is None else {"chat_template": chat_template}
    (path / "tokenizer_config.json").write_text(json.dumps(named | template))
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    config = CONFIG | ids | {"vocab_size": tokenizer.get_vocab_size()} | config_overrides
    (path / "config.json").write_text(json.dumps(config))
    write_safetensors(path / "model.safetensors", random_weights(config))
    return path


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|begin|>", "<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    return tokenizer


def random_weights(config: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head"] = (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {
        f"{name}.weight": rng.normal(float(len(shape) == 1), 0.05 if len(shape) == 1 else 0.2, shape)
        for name, shape in shapes.items()
    }


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    data = b"".join(tensor.astype("<f4").tobytes() for tensor in tensors.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    return str(make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def tiny_without_template(tmp_path_factory) -> str:
    return str(make_tiny_llama(tmp_path_factory.mktemp("models") / "base", chat_template=None))


@pytest.fixture(scope="session")
def tiny_with_long_context(tmp_path_factory) -> str:
    return str(make_tiny_llama(tmp_path_factory.mktemp("models") / "long", max_position_embeddings=1 << 16))
