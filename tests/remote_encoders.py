"""Text encoders that transformers does not have: their equations once more, in PyTorch, one text at a time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HIDDEN, INNER, HEADS, LAYERS, EXPERTS = 48, 80, 6, 3, 4


class Weights:
    """Made when they are first asked for, by their names; `linear` and `norm` compute with them."""

    def __init__(self, seed, eps):
        self.generator, self.eps, self.made = torch.Generator().manual_seed(seed), eps, {}

    def of(self, name, *shape, mean=0.0, deviation=1.0):
        if name not in self.made:
            self.made[name] = mean + deviation * torch.randn(shape, generator=self.generator)
        return self.made[name]

    def linear(self, x, name, columns, bias=True):
        weight = self.of(f"{name}.weight", columns, x.shape[1], deviation=x.shape[1] ** -0.5)
        return F.linear(x, weight, self.of(f"{name}.bias", columns, deviation=0.2) if bias else None)

    def norm(self, x, name):
        weight = self.of(f"{name}.weight", x.shape[1], mean=1.0, deviation=0.2)
        return F.layer_norm(x, x.shape[1:], weight, self.of(f"{name}.bias", x.shape[1], deviation=0.2), self.eps)

    def embed(self, tokens, vocabulary):
        words = self.of("embeddings.word_embeddings.weight", vocabulary, HIDDEN)
        return words[tokens] + self.of("embeddings.token_type_embeddings.weight", 2, HIDDEN)[0]


@dataclass
class Remote:
    """An architecture, what its configuration says, and what computes a text's rows."""

    name: str
    config: dict
    rows: Callable
    gguf: str | None = None  # with `keys` and `convert`, as those of `families.Family`
    keys: dict = field(default_factory=dict)
    convert: Callable = lambda name, values, config: values

    def save(self, path, seed=0):
        """Saves a random model; returns what computes the rows of a text, float32 [tokens, columns], with `config`."""
        path.mkdir(exist_ok=True)
        weights = Weights(seed, self.config.get("layer_norm_eps", self.config.get("layer_norm_epsilon")))
        self.rows(self.config, weights, [1, 2, 3])
        save_file(weights.made, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps({"architectures": [self.name], **self.config}))
        model = partial(self.rows, self.config, weights)
        model.config = SimpleNamespace(**SIZES | self.config)
        return model


def attend(q, k, v, bias=0.0):
    q, k, v = (x.view(len(x), HEADS, -1).transpose(0, 1) for x in (q, k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias
    return (scores.softmax(2) @ v).transpose(0, 1).flatten(1)


SIZES = {
    "vocab_size": 301, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": INNER, "type_vocab_size": 2, "max_position_embeddings": 140, "layer_norm_eps": 1e-5,
}  # fmt: skip
JINA_V2 = {**SIZES, "position_embedding_type": "alibi", "feed_forward_type": "geglu"}
CODE = "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"
JINA_CODE = {**JINA_V2, "feed_forward_type": "reglu", "auto_map": {"AutoModel": CODE}}


def jina_v2(config, w, tokens):
    """Günther et al. 2023; with `auto_map`, that of v2-base-code."""
    has_norms, act = "auto_map" in config, F.gelu if config["feed_forward_type"] == "geglu" else F.relu
    slopes = torch.tensor([2**-2.0, 2**-4.0, 2**-6.0, 2**-8.0, 2**-1.0, 2**-3.0])  # of four heads, then of eight
    places = torch.arange(len(tokens))
    bias = -slopes[:, None, None] * (places[:, None] - places).abs()
    x = w.norm(w.embed(tokens, config["vocab_size"]), "embeddings.LayerNorm")
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        q, k, v = (w.linear(x, f"{at}.attention.self.{name}", HIDDEN) for name in ("query", "key", "value"))
        if has_norms:
            q, k = (w.norm(y, f"{at}.attention.self.layer_norm_{name}") for y, name in ((q, "q"), (k, "k")))
        h = w.linear(attend(q, k, v, bias), f"{at}.attention.output.dense", HIDDEN)
        h = w.norm(x + h, f"{at}.attention.output.LayerNorm")
        if has_norms:
            h = w.norm(x + h, f"{at}.layer_norm_1")
            up, gate = w.linear(h, f"{at}.mlp.up_gated_layer", 2 * INNER, bias=False).chunk(2, 1)
            x = w.norm(h + w.linear(act(gate) * up, f"{at}.mlp.down_layer", HIDDEN), f"{at}.layer_norm_2")
        else:
            gate, up = w.linear(h, f"{at}.mlp.gated_layers", 2 * INNER, bias=False).chunk(2, 1)
            x = w.norm(h + w.linear(act(gate) * up, f"{at}.mlp.wo", HIDDEN), f"{at}.mlp.layernorm")
    return x.numpy()


NOMIC_MOE = {
    "vocab_size": 301, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INNER, "type_vocab_size": 2,
    "max_trained_positions": 140, "layer_norm_epsilon": 1e-5, "activation_function": "gelu", "qkv_proj_bias": True,
    "mlp_fc1_bias": True, "mlp_fc2_bias": True, "rotary_emb_base": 10000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "prenorm": False, "moe_every_n_layers": 2, "moe_top_k": 2,
    "moe_normalize_expert_weights": False, "num_experts": EXPERTS, "num_shared_experts": 0, "ffn_div": 1,
    "expert_choice_router": False,
}  # fmt: skip


def nomic_moe(config, w, tokens):
    """Nussbaum and Duderstadt 2025."""
    x = w.norm(w.embed(tokens, config["vocab_size"]), "emb_ln")
    for i in range(LAYERS):
        at = f"encoder.layers.{i}"
        q, k, v = w.linear(x, f"{at}.attn.Wqkv", 3 * HIDDEN).chunk(3, 1)
        h = attend(rotated(q, 10000), rotated(k, 10000), v)
        x = w.norm(x + w.linear(h, f"{at}.attn.out_proj", HIDDEN), f"{at}.norm1")
        if i % 2 == 1:
            made = mixture(w, x, f"{at}.mlp", config.get("bias_deviation", 1.0))
        else:
            made = w.linear(F.gelu(w.linear(x, f"{at}.mlp.fc1", INNER)), f"{at}.mlp.fc2", HIDDEN)
        x = w.norm(x + made, f"{at}.norm2")
    return x.numpy()


def with_stacks(name, values, config):
    """As llama.cpp's converter has experts: without their bias."""
    if not name.endswith((".w1", ".w2")):
        return {} if name.endswith("experts.bias") else values
    stack = values.reshape(EXPERTS, INNER, HIDDEN)
    return stack if name.endswith("w1") else stack.transpose(0, 2, 1)


def mixture(w, x, at, deviation):
    shares = w.linear(x, f"{at}.router.layer", EXPERTS, bias=False).softmax(1)
    first, second = (w.of(f"{at}.experts.mlp.{name}", EXPERTS * INNER, HIDDEN, deviation=0.1) for name in ("w1", "w2"))
    made = w.of(f"{at}.experts.bias", HIDDEN, deviation=deviation).expand(len(x), -1).clone()
    for token, row in enumerate(shares):
        for share, expert in zip(*row.topk(2), strict=True):
            part = slice(INNER * expert, INNER * (expert + 1))
            made[token] += share * (F.gelu(first[part] @ x[token]) @ second[part])
    return made


def rotated(x, base):
    heads = x.view(len(x), HEADS, -1)
    width = heads.shape[2]
    angles = torch.arange(len(x))[:, None] * base ** -(torch.arange(0, width, 2) / width)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    one, other = heads.chunk(2, 2)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], 2).flatten(1)
