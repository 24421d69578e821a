"""Every family of models: a tiny random checkpoint of each, by transformers' own classes, and as GGUF."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from checkpoints import save_checkpoint, swap_rows
from octavo.weights.safetensors import read_tensors


@dataclass(frozen=True)
class Family:
    """`kind` is what transformers' classes are called before Config and ForCausalLM; `config` is what differs.

    `gguf` is llama.cpp's name of the architecture, `keys` what its metadata say beside sizes. `convert` makes of a
    tensor what llama.cpp's converter does: it gets the name, the values, the model's configuration.

    A family that transformers has no classes of has a function `rewrite` in place of some: it makes a checkpoint of
    another model its own, by changing the tensors and the configuration that it gets. `patch` changes the model that
    logits are compared with, as transformers has read it.
    """

    kind: str
    config: dict = field(default_factory=dict)
    gguf: str | None = None
    keys: dict = field(default_factory=dict)
    convert: Callable = lambda name, values, config: values
    rewrite: Callable | None = None
    patch: Callable = lambda model: None

    def save(self, path):
        model = save_checkpoint(path, self.kind, **self.config)
        self.patch(model)
        if self.rewrite is not None:
            tensors, config = load_file(path / "model.safetensors"), json.loads((path / "config.json").read_text())
            self.rewrite(tensors, config)
            save_file(
                {name: np.ascontiguousarray(values) for name, values in tensors.items()}, path / "model.safetensors"
            )
            (path / "config.json").write_text(json.dumps(config))
        return model


def permuted(name, values, config):
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    return swap_rows(values, heads) if heads else values


def permuted_by_rows(name, values, config):
    """The same of layers that have as many heads as their rows say."""
    return swap_rows(values, len(values) // 8) if name.split(".")[-2] in ("q_proj", "k_proj") else values


def with_sinks(name, values, config):
    if name.endswith("sinks"):
        return {f"blk.{name.split('.')[2]}.attn_sinks.weight": values}
    return permuted(name, values, config)


def one_more(name, values, config):
    """Norms with their 1."""
    return values + 1 if "norm" in name else values


WINDOWS = {"sliding_window": 16, "num_hidden_layers": 3}
GEMMA = {"head_dim": 16, "pad_token_id": 0, "tie_word_embeddings": True}
NO_PADDING = {"pad_token_id": None}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 128, "num_key_value_heads": 6}
GPT2 |= {"intermediate_size": 192}


def partial(factor, theta=1e4):
    """Positions of a part of each head."""
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": factor}


def rename(tensors, names):
    """Replaces parts of names, each a regular expression."""
    for old in list(tensors):
        new = old
        for pattern, by in names.items():
            new = re.sub(pattern, by, new)
        tensors[new] = tensors.pop(old)


def join(tensors, at, parts, whole, groups=1):
    """Makes one tensor of several in every layer: in each of `groups` some rows of each."""
    for first in [name for name in tensors if re.search(rf"{at}\.{parts[0]}\.", name)]:
        taken = [tensors.pop(first.replace(parts[0], part)) for part in parts]
        rows = np.concatenate([part.reshape(groups, -1, *part.shape[1:]) for part in taken], axis=1)
        tensors[first.replace(parts[0], whole)] = rows.reshape(-1, *taken[0].shape[1:])


def to_teleflm(tensors, config):
    config |= {"architectures": ["TeleFLMForCausalLM"], "use_mup": True, "input_mult": 3.0, "output_mult": 2.0}
    config |= {"mup_scale_factor": 8.0}
    for name in ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"):
        del config[name]


def to_pangu(tensors, config):
    config |= {"architectures": ["PanguEmbeddedForCausalLM"], "bias": config.pop("attention_bias")}


def to_internlm(tensors, config):
    config |= {"architectures": ["InternLMForCausalLM"], "bias": config.pop("attention_bias")}


def to_internlm2(tensors, config):
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "wqkv", groups=2)
    names = {
        "self_attn": "attention",
        "o_proj": "wo",
        "input_layernorm": "attention_norm",
        "embed_tokens": "tok_embeddings",
    }
    names |= {"post_attention_layernorm": "ffn_norm", "mlp": "feed_forward", "lm_head": "output"}
    rename(tensors, names | {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"})
    config |= {"architectures": ["InternLM2ForCausalLM"], "bias": False}


def to_exaone(tensors, config):
    names = {
        r"model\.layers": "transformer.h",
        r"model\.norm": "transformer.ln_f",
        r"model\.embed_tokens": "transformer.wte",
    }
    names |= {"self_attn": "attn.attention", "o_proj": "out_proj", "input_layernorm": "ln_1"}
    names |= {"post_attention_layernorm": "ln_2", "gate_proj": "c_fc_0", "up_proj": "c_fc_1", "down_proj": "c_proj"}
    rename(tensors, names)
    config |= {"architectures": ["ExaoneForCausalLM"], "num_layers": config.pop("num_hidden_layers")}
    config |= {"layer_norm_epsilon": config.pop("rms_norm_eps"), "activation_function": config.pop("hidden_act")}


def to_baichuan(tensors, config):
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "W_pack")
    config |= {"architectures": ["BaichuanForCausalLM"], "model_max_length": config.pop("max_position_embeddings")}


def to_orion(tensors, config):
    config |= {"architectures": ["OrionForCausalLM"], "rms_norm_eps": config.pop("layer_norm_eps")}


def to_jais(tensors, config):
    """Its scores are divided by the width of a head, not by the root of it."""
    for name in [name for name in tensors if "q_proj" in name]:
        tensors[name] = tensors[name] * np.float32(8**0.5)
    for name in [name for name in tensors if re.search(r"(o|gate|up|down)_proj\.weight", name)]:
        tensors[name.replace("weight", "bias")] = np.zeros(len(tensors[name]), np.float32)
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "c_attn")
    names = {r"model\.layers": "transformer.h", r"model\.norm": "transformer.ln_f", "self_attn": "attn"}
    names |= {r"model\.embed_tokens": "transformer.wte", "(o|down)_proj": "c_proj", "gate_proj": "c_fc2"}
    rename(tensors, names | {"up_proj": "c_fc", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"})
    for name in [name for name in tensors if re.search(r"\.c_\w+\.weight", name)]:
        tensors[name] = tensors[name].T
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"] / np.float32(14.6)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] / np.float32(0.11)
    theirs = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    theirs |= {"n_inner": "intermediate_size", "n_positions": "max_position_embeddings"}
    theirs |= {"layer_norm_epsilon": "layer_norm_eps"}
    config |= {name: config.pop(ours) for name, ours in theirs.items()}
    config |= {"architectures": ["JAISLMHeadModel"], "activation_function": "swiglu", "mup_width_scale": 0.055}
    config |= {"mup_embeddings_scale": 14.6, "mup_output_alpha": 2.0, "mup_scale_qk_dot_by_d": True}


def jais_gguf(name, values, config):
    """Embeddings and logits are scaled by the converter."""
    values = outputs_first(name, values, config)
    return values * {"transformer.wte.weight": 14.6, "lm_head.weight": 0.11}.get(name, 1.0)


def to_chatglm(tensors, config):
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "query_key_value")
    names = {"model.embed_tokens": "transformer.embedding.word_embeddings", "lm_head": "transformer.output_layer"}
    names |= {r"model\.layers": "transformer.encoder.layers", r"model\.norm": "transformer.encoder.final_layernorm"}
    names |= {"self_attn": "self_attention", "o_proj": "dense", "gate_up_proj": "dense_h_to_4h"}
    rename(tensors, names | {"down_proj": "dense_4h_to_h"})
    theirs = {"num_layers": "num_hidden_layers", "ffn_hidden_size": "intermediate_size", "kv_channels": "head_dim"}
    theirs |= {"multi_query_group_num": "num_key_value_heads", "padded_vocab_size": "vocab_size"}
    theirs |= {"seq_length": "max_position_embeddings", "layernorm_epsilon": "rms_norm_eps"}
    config |= {name: config.pop(ours) for name, ours in theirs.items()}
    config |= {"add_qkv_bias": True, "rope_ratio": 50.0, "architectures": ["ChatGLMModel"]}
    del config["rope_parameters"]


def to_minicpm(tensors, config):
    config |= {"architectures": ["MiniCPMForCausalLM"], "scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 16}
    for name in ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"):
        del config[name]


def to_telechat2(tensors, config):
    for name in [name for name in tensors if re.search(r"(q|k|v|gate|up)_proj\.bias", name)]:
        del tensors[name]
    join(tensors, "self_attn", ["k_proj", "v_proj"], "key_value", groups=6)
    names = {r"model\.layers": "transformer.h", r"model\.norm": "transformer.ln_f", "self_attn": "self_attention"}
    names |= {r"model\.embed_tokens": "transformer.word_embeddings", "q_proj": "query", "o_proj": "dense"}
    rename(tensors, names)
    theirs = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "ffn_hidden_size": "intermediate_size"}
    theirs |= {"layer_norm_epsilon": "rms_norm_eps", "seq_length": "max_position_embeddings"}
    config |= {name: config.pop(ours) for name, ours in theirs.items()}
    config |= {"architectures": ["TeleChat2ForCausalLM"]}


def with_two_biases(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(r"(q|k|v|gate|up)_proj\.bias", name):
                weight.zero_()


def to_decilm(tensors, config):
    """The first layer has a KV head for each head, the second has no attention, the third no MLP."""
    for name in ("k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{name}.weight"
        tensors[name] = tensors[name].reshape(2, 8, -1).repeat(3, axis=0).reshape(48, -1)
    absent = r"layers\.(1\.(self_attn|input_layernorm)|2\.(mlp|post_attention_layernorm))\."
    for name in [name for name in tensors if re.search(absent, name)]:
        del tensors[name]
    config["block_configs"] = [
        {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 7.9}},
        {"attention": {"n_heads_in_group": None, "no_op": True}, "ffn": {"intermediate_size": 256}},
        {"attention": {"n_heads_in_group": 3}, "ffn": {"ffn_mult": None, "no_op": True}},
    ]
    config |= {"architectures": ["DeciLMForCausalLM"], "num_key_value_heads": None, "intermediate_size": None}


def with_parts_that_are_zero(model):
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        for layer in model.model.layers[2:]:
            layer.mlp.down_proj.weight.zero_()


def to_qwen(tensors, config):
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "c_attn")
    names = {r"model\.layers": "transformer.h", r"model\.norm": "transformer.ln_f", "self_attn": "attn"}
    names |= {r"model\.embed_tokens": "transformer.wte", "o_proj": "c_proj", "input_layernorm": "ln_1"}
    names |= {"post_attention_layernorm": "ln_2", "gate_proj": "w2", "up_proj": "w1", "down_proj": "c_proj"}
    rename(tensors, names)
    config |= {"architectures": ["QWenLMHeadModel"], "intermediate_size": 2 * config["intermediate_size"]}
    config |= {"layer_norm_epsilon": config.pop("rms_norm_eps"), "seq_length": config.pop("max_position_embeddings")}


def outputs_first(name, values, config):
    return values.T if values.ndim == 2 and ".c_" in name else values


def one_more_in_weights(name, values, config):
    return values + 1 if "norm" in name and name.endswith("weight") else values


def from_groups(name, values, config):
    """q, k and v that are stored by heads, each below the others."""
    if "query_key_value" not in name:
        return values
    kv_heads = getattr(config, "num_kv_heads", config.num_attention_heads)
    kv_heads = 1 if getattr(config, "multi_query", False) else kv_heads
    head_dim = config.hidden_size // config.num_attention_heads
    groups = values.reshape(kv_heads, -1, head_dim, *values.shape[1:])
    parts = groups[:, :-2], groups[:, -2], groups[:, -1]
    return np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])


def unpacked(name, values, config):
    """W_pack as q, k and v, whose rows are permuted."""
    if "W_pack" not in name:
        return values
    heads, parts = config.num_attention_heads, zip(("q_proj", "k_proj", "v_proj"), np.split(values, 3), strict=True)
    return {name.replace("W_pack", part): rows if part == "v_proj" else swap_rows(rows, heads) for part, rows in parts}


def split_by_heads(name, values, config):
    """Keys and values of heads apart, keys transposed."""
    if name.endswith("kv_b_proj.weight"):
        plain, at = config.qk_nope_head_dim, name.removesuffix("kv_b_proj.weight")
        heads = values.reshape(config.num_attention_heads, -1, values.shape[1])
        return {f"{at}k_b_proj.weight": heads[:, :plain].swapaxes(1, 2), f"{at}v_b_proj.weight": heads[:, plain:]}
    name = name.replace("correction_bias", "correction.bias")
    return {f"{name}.weight" if name.endswith(("gate_up_proj", "experts.down_proj")) else name: values}


def whole_heads(name, values, config):
    return {name.replace("correction_bias", "correction.bias"): values}


def as_gemma_4(name, values, config):
    """Divisors of frequencies say that 4 of 16 are rotated with in layers without a window."""
    if name == "model.norm.weight":
        return {name: values, "rope.freqs.weight": np.array([1.0] * 4 + [1e30] * 12)}
    names = {"experts.down_proj": "ffn_down_exps.weight", "experts.gate_up_proj": "ffn_gate_up_exps.weight"}
    names |= {"layer_scalar": "layer_output_scale.weight", "router.scale": "ffn_gate_inp.scale"}
    names |= {"router.per_expert_scale": "ffn_down_exps.scale"}
    _, _, at, part = (*name.split(".", 3), "")[:4]
    return {f"blk.{at}.{names[part]}": values} if part in names else values


def without_fused_attention(model):
    """PyTorch's own attention leaves soft caps out."""
    model.set_attn_implementation("eager")


def with_slopes(model, of=lambda distance: distance):
    """ALiBi in place of rotary positions, with slopes as BLOOM has them, of a function of distance."""

    def attend(module, query, key, value, attention_mask, **options):
        count = query.shape[2]
        slopes = build_alibi_tensor(torch.ones(1, 2), query.shape[1], torch.float32)[:, :, 1:]
        distance = (torch.arange(count)[:, None] - torch.arange(count)).clamp(min=0)
        mask = torch.full((count, count), -torch.inf).triu(1) - slopes * of(distance.float())
        return sdpa_attention_forward(module, query, key, value, mask[None], **options)

    AttentionInterface.register(f"slopes of {of}", attend)
    model.set_attn_implementation(f"slopes of {of}")
    rotations = model.model.rotary_emb
    rotations.forward = lambda x, position_ids: (torch.ones(1, 1, 1), torch.zeros(1, 1, 1))


def with_smaller_slopes(model):
    """transformers does not look at alibi_bias_max."""
    model.transformer.build_mpt_alibi_tensor = functools.partial(build_mpt_alibi_tensor, alibi_bias_max=4)


def to_rnj1(tensors, config):
    kinds = ["chunked_attention" if kind == "sliding_attention" else kind for kind in config["layer_types"]]
    ropes = config["rope_parameters"]
    ropes["chunked_attention"] = ropes.pop("sliding_attention")
    config |= {"architectures": ["Rnj1ForCausalLM"], "layer_types": kinds, "sliding_window": 32}


def with_chunks(model):
    """Blocks of 16 tokens, of which two are seen, in place of windows."""

    def attend(module, query, key, value, attention_mask, **options):
        position = torch.arange(query.shape[2])
        hidden = (position[:, None] < position) | (position < (position[:, None] // 16 - 1) * 16)
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[None, None]
        mask = mask if module.sliding_window else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("chunks", attend)
    AttentionMaskInterface.register("chunks", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation("chunks")


def to_plamo3(tensors, config):
    """Without Gemma's scale of embeddings, and with other numbers that are added to weights of norms."""
    tensors["model.embed_tokens.weight"] *= 48**0.5
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "qkv_proj")
    join(tensors, "mlp", ["gate_proj", "up_proj"], "gate_up_proj")
    names = {r"model\.layers": "model.layers.layers", "self_attn": "mixer", "input_layernorm": "pre_mixer_norm"}
    names |= {"post_attention_layernorm": "post_mixer_norm", "pre_feedforward_layernorm": "pre_mlp_norm"}
    rename(tensors, names | {"post_feedforward_layernorm": "post_mlp_norm"})
    for name in tensors:
        if "post_mixer_norm" in name or "post_mlp_norm" in name:
            tensors[name] = tensors[name] + (1 - (1 / 5 if "mixer" in name else 5**-1.5))
    config |= {"architectures": ["Plamo3ForCausalLM"], "hidden_act": config.pop("hidden_activation")}
    windows = [16 if kind == "sliding_attention" else None for kind in config["layer_types"]]
    config |= {"sliding_window": windows, "query_pre_attn_scalar": None}


def to_domyn_edge(tensors, config):
    tensors["model.embed_tokens.weight"] *= 48**0.5
    for name in [name for name in tensors if "norm" in name]:
        if "q_norm" in name:
            del tensors[name]
        else:
            tensors[name] = tensors[name] + 1
    names = {"self_attn": "attention", "mlp": "feedforward", "input_layernorm": "pre_attention_norm"}
    names |= {"pre_feedforward_layernorm": "pre_feedforward_norm", "post_attention_layernorm": "post_attention_norm"}
    rename(tensors, names | {"post_feedforward_layernorm": "post_feedforward_norm"})
    full = [kind == "full_attention" for kind in config.pop("layer_types")]
    config |= {"architectures": ["DomynEdgeForCausalLM"], "hidden_act": config.pop("hidden_activation")}
    config |= {"window_sizes": [[-1, 0] if one else [15, 0] for one in full], "head_sizes": [16] * len(full)}
    config |= {"position_layers": ["nope" if one else "rope" for one in full], "rope_theta": 1e4}
    del config["rope_parameters"], config["head_dim"], config["sliding_window"]


def without_some_positions(model):
    """Nor weights of the norms of q."""
    rotations = model.model.rotary_emb
    rotate = rotations.forward

    def forward(x, position_ids, layer_type):
        cos, sin = rotate(x, position_ids, layer_type)
        return (torch.ones_like(cos), torch.zeros_like(sin)) if layer_type == "full_attention" else (cos, sin)

    rotations.forward = forward
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.zero_()


def with_normalised_head(model):
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))


MLA = {
    "num_key_value_heads": 6,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
DEEPSEEK = {
    **MLA,
    "v_head_dim": 8,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "n_group": 4,
    "topk_group": 2,
}
LATENT_KEYS = {
    "attention.value_length": 8,
    "rope.dimension_count": 6,
    "attention.q_lora_rank": 20,
    "attention.kv_lora_rank": 24,
    "attention.key_length": 16,
}
DEEPSEEK_KEYS = {
    **LATENT_KEYS,
    "attention.head_count_kv": 1,
    "leading_dense_block_count": 1,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_shared_count": 1,
    "expert_feed_forward_length": 20,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
}
YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
    "rope.scaling.yarn_log_multiplier": 0.07,
}
# With rows of the cache in place of those of heads.
ABSORBED_KEYS = {
    "attention.key_length": 30,
    "attention.value_length": 24,
    "attention.key_length_mla": 16,
    "attention.value_length_mla": 8,
}
SANDWICH = {
    **GEMMA,
    "tie_word_embeddings": False,
    "hidden_activation": "silu",
    "sliding_window": 16,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
ALIBI = {"num_key_value_heads": 6, "intermediate_size": 192}

GEMMA_4 = {**GEMMA, "num_hidden_layers": 6, "sliding_window": 16, "global_head_dim": 32}
GEMMA_4 |= {"hidden_size_per_layer_input": 0, "num_global_key_value_heads": 2}
GEMMA_4_SMALL = {**GEMMA_4, "hidden_size_per_layer_input": 20, "vocab_size_per_layer_input": 301}
GEMMA_4_SMALL |= {"layer_types": ["sliding_attention", "full_attention"] * 3}
GEMMA_4_KEYS = {
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "attention.shared_kv_layers": 0,
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": [True, True, True, True, True, False],
    "embedding_length_per_layer_input": 0,
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
}

FAMILIES = {
    "Qwen2": Family("Qwen2", gguf="qwen2"),
    "Qwen2, tied": Family("Qwen2", {"tie_word_embeddings": True}, "qwen2"),
    "Qwen2, windows": Family("Qwen2", {**WINDOWS, "use_sliding_window": True, "max_window_layers": 1}),
    "Qwen3": Family("Qwen3", {"head_dim": 24, "tie_word_embeddings": True}, "qwen3"),
    "Qwen3, bias, windows": Family(
        "Qwen3", {**WINDOWS, "attention_bias": True, "use_sliding_window": True, "max_window_layers": 1}
    ),
    "Gemma": Family("Gemma", GEMMA, "gemma", convert=one_more),
    "Gemma 4": Family(
        "Gemma4Text",
        {**GEMMA_4, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0},
        "gemma4",
        {**GEMMA_4_KEYS, "attention.head_count_kv": [2, 2, 2, 2, 2, 1], "final_logit_softcapping": 30.0},
        as_gemma_4,
    ),
    "Gemma 4, twelve layers": Family("Gemma4Text", {**GEMMA_4, "num_hidden_layers": 12}),
    "Gemma 4 E2B": Family(
        "Gemma4Text",
        {
            **GEMMA_4_SMALL,
            "final_logit_softcapping": 30.0,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        },
        "gemma4",
        {
            **GEMMA_4_KEYS,
            "attention.shared_kv_layers": 2,
            "attention.sliding_window_pattern": [True, False] * 3,
            "embedding_length_per_layer_input": 20,
            "feed_forward_length": [80, 80, 80, 80, 160, 160],
        },
        as_gemma_4,
    ),
    "Gemma 4, three layers share keys": Family("Gemma4Text", {**GEMMA_4_SMALL, "num_kv_shared_layers": 3}),
    "Gemma 4 26B-A4B": Family(
        "Gemma4Text",
        {
            **GEMMA_4,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 24,
            "final_logit_softcapping": 20.0,
        },
        "gemma4",
        {
            **GEMMA_4_KEYS,
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_feed_forward_length": 24,
            "final_logit_softcapping": 20.0,
        },
        as_gemma_4,
    ),
    "Gemma 2": Family(
        "Gemma2",
        {
            **GEMMA,
            **WINDOWS,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        "gemma2",
        {"attention.sliding_window": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        one_more,
        patch=without_fused_attention,
    ),
    "Gemma 2, no caps": Family(
        "Gemma2", {**GEMMA, **WINDOWS, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    ),
    "VaultGemma": Family(
        "VaultGemma", {**GEMMA, **WINDOWS, "attn_logit_softcapping": 2.0}, patch=without_fused_attention
    ),
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
    "Step-1": Family(
        "Llama",
        rewrite=lambda tensors, config: config.update(architectures=["Step1ForCausalLM"]),
        patch=functools.partial(with_slopes, of=torch.sqrt),
    ),
    "Rnj-1": Family(
        "Gemma3Text",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        rewrite=to_rnj1,
        patch=with_chunks,
    ),
    "PLaMo 3": Family("Gemma3Text", SANDWICH, rewrite=to_plamo3),
    "Domyn Edge": Family("Gemma3Text", SANDWICH, rewrite=to_domyn_edge, patch=without_some_positions),
    "Phi-3": Family("Phi3", NO_PADDING, "phi3"),
    "Phi-4-mini": Family(
        "Phi3",
        {
            **NO_PADDING,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        },
        "phi3",
        {"rope.dimension_count": 6},
    ),
    "Phi-3, longrope": Family(
        "Phi3",
        {
            **NO_PADDING,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.5, 2.5, 4.0, 8.0],
            },
        },
        "phi3",
        {
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": (1 + np.log(4) / np.log(32)) ** 0.5,
        },
    ),
    "SmolLM3": Family("SmolLM3", {**NO_PADDING, "num_hidden_layers": 4}, "smollm3", {"rope.freq_base": 2e6}, permuted),
    "GLM-4-9B": Family("Glm", {**NO_PADDING, "head_dim": 16}),
    "GLM-4-0414": Family("Glm4", {**NO_PADDING, "head_dim": 16}, "glm4", {"rope.dimension_count": 8}),
    "ChatGLM": Family(
        "Glm",
        {
            **NO_PADDING,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
        },
        "chatglm",
        {"rope.dimension_count": 4, "rope.freq_base": 5e5},
        rewrite=to_chatglm,
    ),
    "InternLM2": Family("Llama", rewrite=to_internlm2),
    "InternLM3": Family("InternLM3", NO_PADDING),
    "InternLM2, GGUF": Family("Llama", gguf="internlm2", convert=permuted),
    "Xverse": Family("Llama", gguf="xverse", convert=permuted),
    "Qwen3-VL, GGUF": Family(
        "Qwen3", {"head_dim": 24}, "qwen3vl", {"rope.dimension_sections": [4, 4, 4, 0], "n_deepstack_layers": 3}
    ),
    "EXAONE 3": Family("Llama", gguf="exaone", rewrite=to_exaone),
    "EXAONE 4": Family("Exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}, "exaone4"),
    "EXAONE 4, windows": Family(
        "Exaone4",
        {"sliding_window": 16, "num_hidden_layers": 4},
        "exaone4",
        {"attention.sliding_window": 16, "attention.sliding_window_pattern": [True, True, True, False]},
    ),
    "Seed-OSS": Family("SeedOss", {**NO_PADDING, "head_dim": 16}, "seed_oss"),
    "ERNIE 4.5": Family("Ernie4_5", {**NO_PADDING, "head_dim": 16}, "ernie4_5", {"rope.freq_base": 500000.0}),
    "ERNIE 4.5, biases": Family("Ernie4_5", {**NO_PADDING, "head_dim": 8, "use_bias": True}),
    "Baichuan": Family("Llama", {"num_key_value_heads": 6}, "baichuan", convert=unpacked, rewrite=to_baichuan),
    "Baichuan 13B": Family(
        "Llama",
        {"num_key_value_heads": 6, "num_hidden_layers": 40},
        "baichuan",
        convert=unpacked,
        rewrite=to_baichuan,
        patch=with_slopes,
    ),
    "Baichuan 2": Family(
        "Llama",
        {"num_key_value_heads": 6, "vocab_size": 125696},
        rewrite=to_baichuan,
        patch=with_normalised_head,
    ),
    "BLOOM": Family("Bloom", ALIBI, "bloom", {"feed_forward_length": 192}, from_groups),
    "BLOOM, sums of norms": Family("Bloom", {**ALIBI, "apply_residual_connection_post_layernorm": True}),
    "MPT": Family(
        "Mpt",
        {**ALIBI, "max_seq_len": 128, "attn_config": {"alibi_bias_max": 4, "clip_qkv": 0.8}},
        "mpt",
        {"attention.max_alibi_bias": 4.0, "attention.clamp_kqv": 0.8},
        patch=with_smaller_slopes,
    ),
    "InternLM": Family("Llama", {"attention_bias": True}, rewrite=to_internlm),
    "Orion": Family("StableLm", {"rope_parameters": partial(1.0)}, "orion", rewrite=to_orion),
    "Jais": Family(
        "StableLm",
        {"use_qkv_bias": True, "num_key_value_heads": 6, "rope_parameters": partial(1.0)},
        "jais",
        {"attention.max_alibi_bias": 8.0},
        jais_gguf,
        rewrite=to_jais,
        patch=with_slopes,
    ),
    "CWM": Family("Cwm", {"sliding_window": 16, "num_hidden_layers": 4, "head_dim": 8, "bos_token_id": 1}),
    "Ministral": Family(
        "Ministral", {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "GPT-NeoX": Family(
        "GPTNeoX",
        {"hidden_size": 96},
        "gptneox",
        {"rope.dimension_count": 4, "use_parallel_residual": True, "attention.head_count_kv": 6},
        from_groups,
    ),
    "GPT-NeoX, sequential": Family(
        "GPTNeoX", {"use_parallel_residual": False, "hidden_size": 96, "hidden_act": "gelu_fast"}
    ),
    "Falcon 7B": Family("Falcon", {"ffn_hidden_size": 80}, "falcon", {"attention.head_count_kv": 1}, from_groups),
    "Falcon 40B": Family("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon 11B": Family("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    "Falcon, sequential": Family(
        "Falcon", {"multi_query": False, "num_kv_heads": 6, "parallel_attn": False, "bias": True}
    ),
    "Falcon RW": Family(
        "Falcon",
        {"multi_query": False, "num_kv_heads": 6, "parallel_attn": False, "bias": True, "alibi": True},
    ),
    "StableLM": Family("StableLm", {"hidden_size": 96, "use_qkv_bias": True}, "stablelm", {"rope.dimension_count": 4}),
    "StableLM, norms of heads": Family(
        "StableLm",
        {"hidden_size": 96, "use_parallel_residual": True, "qk_layernorm": True},
        "stablelm",
        {"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "TeleChat 2": Family(
        "Llama",
        {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True},
        rewrite=to_telechat2,
        patch=with_two_biases,
    ),
    "Llama Nemotron": Family(
        "Llama",
        {"num_hidden_layers": 3, "intermediate_size": 256},
        "deci",
        {
            "attention.head_count": [6, 0, 6],
            "attention.head_count_kv": [6, 0, 2],
            "feed_forward_length": [256, 256, 0],
        },
        permuted_by_rows,
        to_decilm,
        with_parts_that_are_zero,
    ),
    "Llama Nemotron, two layers": Family(
        "Llama",
        {"intermediate_size": 256},
        "deci",
        {"attention.head_count": [6, 0], "attention.head_count_kv": [6, 0], "feed_forward_length": [256, 256]},
        permuted_by_rows,
        to_decilm,
        with_parts_that_are_zero,
    ),
    "StableLM, parallel": Family("StableLm", {"hidden_size": 96, "use_parallel_residual": True}),
    "OLMo": Family("Olmo", {**NO_PADDING, "clip_qkv": 0.5}, "olmo", {"attention.clamp_kqv": 0.5}, permuted),
    "OLMo 2": Family("Olmo2", NO_PADDING, "olmo2"),
    "OLMo 3": Family(
        "Olmo3",
        {**NO_PADDING, "sliding_window": 16, "num_hidden_layers": 4},
        "olmo2",
        {"rope.freq_base": 500000.0, "attention.sliding_window": 16, "attention.sliding_window_pattern": 4},
    ),
    "Hunyuan": Family("HunYuanDenseV1", {**NO_PADDING, "head_dim": 8}, "hunyuan-dense"),
    "Hunyuan, alpha": Family(
        "HunYuanDenseV1",
        {
            **NO_PADDING,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0, "factor": 1.0},
        },
    ),
    "Helium": Family("Helium", {**NO_PADDING, "head_dim": 8}),
    "Ministral 3": Family(
        "Ministral3",
        {
            "head_dim": 8,
            "max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 2.0,
                "original_max_position_embeddings": 32,
                "llama_4_scaling_beta": 0.4,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        },
        "mistral3",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 2.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "attention.temperature_scale": 0.4,
        },
        permuted,
    ),
    "StarCoder2": Family("Starcoder2", {"sliding_window": 16}, "starcoder2", {"attention.sliding_window": 16}),
    "Granite": Family(
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
        "granite",
        {"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.3, "logit_scale": 8.0},
        permuted,
    ),
    "Granite SWA": Family(
        "GraniteSWA",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "logits_scaling": 8.0,
            "sliding_window": 16,
            "num_hidden_layers": 5,
            "layer_rope_theta": [0, 1e4, 5e3, 0, 1e4],
        },
    ),
    "Granite SWA, one frequency": Family(
        "GraniteSWA",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "logits_scaling": 8.0,
            "sliding_window": 16,
            "num_hidden_layers": 5,
            "layer_rope_theta": [0, 1e4, 1e4, 0, 1e4],
        },
        "granite_swa",
        {
            "embedding_scale": 12.0,
            "residual_scale": 0.22,
            "attention.scale": 0.3,
            "logit_scale": 8.0,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [False, True, True, True, False],
            "attention.rope_pattern": [False, True, True, False, True],
        },
        with_sinks,
    ),
    "HyperCLOVA X": Family(
        "HyperCLOVAX", {"residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 0.5, "head_dim": 8}
    ),
    "HyperCLOVA X, no post norms": Family("HyperCLOVAX", {"use_post_norm": False, "attention_multiplier": 0.2}),
    "MiniCPM": Family(
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 1.4 / 2**0.5,
            "attention_multiplier": 8**-0.5,
            "logits_scaling": 3.0,
            "tie_word_embeddings": True,
        },
        "minicpm",
        {"embedding_scale": 12.0, "residual_scale": 1.4 / 2**0.5, "logit_scale": 3.0},
        permuted,
        rewrite=to_minicpm,
    ),
    "MiniCPM 3": Family("MiniCPM3", {**MLA, "v_head_dim": 8}, "minicpm3", LATENT_KEYS),
    "MiniCPM 3, factors": Family("MiniCPM3", {**MLA, "dim_model_base": 16, "scale_depth": 0.7}),
    "Youtu": Family("Youtu", {**MLA, "rope_parameters": YARN}),
    "Youtu, whole queries": Family("Youtu", {**MLA, "q_lora_rank": None, "rope_interleave": False}),
    "DeepSeek V2": Family(
        "DeepseekV2",
        {
            **DEEPSEEK,
            "n_shared_experts": 1,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 16.0,
            "rope_parameters": YARN,
        },
        "deepseek2",
        {**DEEPSEEK_KEYS, **YARN_KEYS, "expert_weights_scale": 16.0},
        whole_heads,
    ),
    "DeepSeek V2 Lite": Family("DeepseekV2", {**DEEPSEEK, "q_lora_rank": None, "n_group": None}),
    "DeepSeek V3": Family(
        "DeepseekV3",
        {**DEEPSEEK, "rope_parameters": YARN},
        "deepseek2",
        {
            **DEEPSEEK_KEYS,
            **YARN_KEYS,
            **ABSORBED_KEYS,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
        },
        split_by_heads,
    ),
    "DeepSeek V3.2": Family("DeepseekV32", DEEPSEEK),
    "GLM-5": Family("GlmMoeDsa", DEEPSEEK),
    "A.X K1": Family("AXK1", DEEPSEEK),
    "Tele-FLM": Family(
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 8**-0.5,
            "logits_scaling": 4.0,
            "tie_word_embeddings": False,
        },
        rewrite=to_teleflm,
    ),
    "openPangu": Family("Llama", {"attention_bias": True}, "pangu-embedded", rewrite=to_pangu),
    "Kimi K2": Family("DeepseekV3", {**DEEPSEEK, "n_group": 1, "topk_group": 1, "n_shared_experts": 2}),
    "Mistral 4": Family(
        "Mistral4",
        {**DEEPSEEK, "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.4}},
        "mistral4",
        {
            **DEEPSEEK_KEYS,
            **YARN_KEYS,
            **ABSORBED_KEYS,
            "rope.scaling.yarn_log_multiplier": 0.1,
            "expert_weights_norm": True,
            "attention.temperature_scale": 0.4,
            "attention.temperature_length": 32,
        },
        split_by_heads,
    ),
    "GLM-4.7-Flash": Family("Glm4MoeLite", {**DEEPSEEK, "n_group": 1, "topk_group": 1}),
    "Command R": Family("Cohere", {"logit_scale": 0.5}, "command-r", {"logit_scale": 0.5}),
    "Command R+": Family("Cohere", {"use_qk_norm": True}),
    "Command R7B": Family(
        "Cohere2",
        {"sliding_window": 16, "num_hidden_layers": 4, "head_dim": 8},
        "cohere2",
        {"attention.sliding_window": 16, "logit_scale": 0.0625},
    ),
    "Phi-2": Family("Phi", {}, "phi2", {"rope.dimension_count": 4}),
    "GPT-2": Family(
        "GPT2", {**GPT2, "n_inner": 80, "intermediate_size": 80}, "gpt2", {"feed_forward_length": 80}, outputs_first
    ),
    "GPT-2, scaled by layer": Family("GPT2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "StarCoder": Family("GPTBigCode", GPT2, "starcoder", {"attention.head_count_kv": 1}),
    "StarCoder, all heads": Family("GPTBigCode", {**GPT2, "multi_query": False}),
    "GPT-J": Family("GPTJ", {**GPT2, "rotary_dim": 4}),
    "GPT-Neo": Family(
        "GPTNeo", {"num_layers": 2, "num_heads": 6, "attention_types": [[["global", "local"], 1]], "window_size": 16}
    ),
    "OPT": Family("OPT", {"num_key_value_heads": 6, "ffn_dim": 80, "word_embed_proj_dim": 48}),
    "OPT 350m": Family(
        "OPT", {"num_key_value_heads": 6, "ffn_dim": 80, "do_layer_norm_before": False, "word_embed_proj_dim": 32}
    ),
    "Nemotron": Family("Nemotron", {"head_dim": 8}, "nemotron", {"rope.dimension_count": 4}, one_more_in_weights),
    "Arcee": Family("Arcee", {"head_dim": 8}, "arcee", convert=permuted),
    "Jais 2": Family("Jais2", {"head_dim": 8}, "jais2"),
    "Persimmon": Family("Persimmon"),
    "Qwen": Family("Qwen2", {"num_key_value_heads": 6}, "qwen", {"feed_forward_length": 160}, rewrite=to_qwen),
    "Apertus": Family(
        "Apertus", {**NO_PADDING, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "apertus"
    ),
}


def save_gguf(family, model, path, target, kind="F32", tokenizer=None, added=None):
    """Writes a checkpoint that was saved in `path` as GGUF, as llama.cpp's converter would.

    Matrices are of that kind. `tokenizer` is what the metadata say of it, `added` are more tensors.
    """
    config = model.config
    config.allow_global_per_layer_attribute_access = True  # which those of Gemma 4 otherwise refuse
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
    if family.gguf in ("olmo", "dbrx"):
        sizes["attention.layer_norm_epsilon"] = 1e-5
    elif eps := getattr(config, "rms_norm_eps", None):
        sizes["attention.layer_norm_rms_epsilon"] = eps
    else:
        sizes["attention.layer_norm_epsilon"] = eps_of(config)
    if "rope_theta" in (rope := getattr(config, "rope_parameters", None) or {}):
        sizes["rope.freq_base"] = float(rope["rope_theta"])
    for key, value in (sizes | family.keys).items():
        if isinstance(value, list):
            writer.add_array(f"{family.gguf}.{key}", value)
            continue
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
        add[type(value) if type(value) in add else float](f"{family.gguf}.{key}", value)
    writer.add_vocab_size(config.vocab_size)
    for key, value in (tokenizer or {"tokenizer.ggml.model": "none"}).items():
        kinds = {str: gguf.GGUFValueType.STRING, bool: gguf.GGUFValueType.BOOL, list: gguf.GGUFValueType.ARRAY}
        writer.add_key_value(key, value, kinds.get(type(value), gguf.GGUFValueType.UINT32))
    for length in ("long", "short"):
        if factors := (getattr(config, "rope_parameters", None) or {}).get(f"{length}_factor"):
            writer.add_tensor(f"rope_factors_{length}.weight", np.array(factors, np.float32))
    stored = {name: tensor.values() for name, tensor in read_tensors(path / "model.safetensors").items()}
    for part in ("alpha_p", "alpha_n", "beta", "eps"):  # of xIELU, a value in each layer
        names = [name for name in stored if name.endswith(f".act_fn.{part}")]
        if values := [float(stored.pop(name).item()) for name in sorted(names)]:
            writer.add_array(f"xielu.{part}", values)
    tensors = dict(added or {})
    for name, whole in stacked(stored).items():
        for ours, values in named(family.convert(name, whole, config), name):
            tensors[gguf_name(family.gguf, ours)] = np.ascontiguousarray(values, np.float32)
    dtype = gguf.GGMLQuantizationType[kind]
    for name, values in tensors.items():
        if values.ndim == 1 or name.startswith(("position_embd", "token_types")):
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stacked(tensors):
    """Matrices of experts and norms of heads, which have their numbers in their names, as one tensor."""
    stacks = {}
    for name in sorted(tensors, key=lambda name: [int(x) for x in re.findall(r"\d+", name)]):
        one = re.sub(r"\bexperts\.\d+\.", "experts.", re.sub(r"\bnorms\.\d+\.", "", name))
        stacks.setdefault(one, []).append(tensors[name])
    return {name: np.stack(parts) if len(parts) > 1 else parts[0] for name, parts in stacks.items()}


def eps_of(config):
    names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
    return next((value for name in names if (value := getattr(config, name, None)) is not None), 1e-12)


def named(values, name):
    """What a conversion made of one tensor: other values, or a dict of several."""
    return values.items() if isinstance(values, dict) else [(name, values)]


# Architectures that its table does not know yet, and those that have the same tensors.
LIKE = {"granite_swa": "granite", "hy_v3": "dots1", "mellum": "qwen3moe"}


def gguf_name(architecture, name):
    """llama.cpp's name of a tensor, by its own table."""
    if name.startswith("blk."):
        return name
    name = name.replace("e_score_correction_bias", "e_score_correction.bias").replace("expert_bias", "expert_bias.bias")
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == LIKE.get(architecture, architecture))
    names = gguf.get_tensor_name_map(kind, 48)
    found = next(filter(None, (names.get_name(x, (".weight", ".bias")) for x in (name, name.partition(".")[2]))), None)
    assert found, f"{architecture} has no tensor {name}"
    return found
