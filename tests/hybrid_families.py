"""Every hybrid, as `families` has the others."""

import numpy as np

from expert_families import EXPERT_KEYS, EXPERTS
from families import NO_PADDING, Family, one_more

LFM2_EXPERTS = {**EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]}
LFM2_EXPERTS |= {"num_hidden_layers": 3}
DELTA_EXPERTS = {**EXPERTS, "shared_expert_intermediate_size": 40}
DELTA_KEYS = {"ssm.conv_kernel": 4, "ssm.state_size": 12, "ssm.group_count": 2, "ssm.time_step_rank": 4}
DELTA_KEYS |= {"ssm.inner_size": 80, "full_attention_interval": 4, "rope.dimension_count": 6}
DELTA_EXPERT_KEYS = {**EXPERT_KEYS, "expert_shared_feed_forward_length": 40}
DELTA = {"num_hidden_layers": 4, "head_dim": 24, "pad_token_id": None, "linear_num_key_heads": 2}
DELTA |= {"linear_num_value_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20}


def deltas(name, values, config):
    """What all hybrids of Qwen's have otherwise."""
    if "A_log" in name:
        return -np.exp(values)
    if "dt_bias" in name:
        return {name.replace("dt_bias", "dt_proj.bias"): values}
    return one_more(name, values.squeeze(), config) if "linear_attn.norm" not in name else values


def tiled_deltas(name, values, config):
    """What Qwen3.5 has by heads of v: those of one head of k are neighbours, and become as many heads of k apart."""
    if "linear_attn" not in name or "linear_attn.norm" in name:
        return deltas(name, values, config)
    rows = values.T if "out_proj" in name else values
    keys, group = config.linear_num_key_heads, config.linear_num_value_heads // config.linear_num_key_heads
    skipped = 2 * keys * config.linear_key_head_dim if "qkv" in name or "conv1d" in name else 0
    heads = rows[skipped:].reshape(keys, group, -1, *rows.shape[1:]).swapaxes(0, 1)
    rows = np.concatenate([rows[:skipped], heads.reshape(-1, *rows.shape[1:])])
    return deltas(name, rows.T if "out_proj" in name else rows, config)


def ungrouped_deltas(name, values, config):
    """What Qwen3-Next has by heads of k."""
    if "in_proj_qkvz" not in name:
        return deltas(name, values, config)
    heads = values.reshape(config.linear_num_key_heads, -1, values.shape[1])
    width = config.linear_num_value_heads // config.linear_num_key_heads * config.linear_value_head_dim
    parts = np.split(heads, np.cumsum([config.linear_key_head_dim] * 2 + [width]), axis=1)
    q, k, v, z = (part.reshape(-1, values.shape[1]) for part in parts)
    return {name.replace("qkvz", "qkv"): np.concatenate([q, k, v]), name.replace("qkvz", "z"): z}


def to_olmo_hybrid(tensors, config):
    """As it is published: transformers gives norms behind attention another's name, and cuts convolutions in thirds."""
    for i in range(4):
        at = f"model.layers.{i}"
        if config["layer_types"][i] == "full_attention":
            tensors[f"{at}.post_attention_layernorm.weight"] = tensors.pop(f"{at}.feedforward_layer_norm.weight")
            continue
        names = [f"{at}.linear_attn.{name}_conv1d.weight" for name in "qkv"]
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        parts = np.split(np.concatenate([tensors[name] for name in names]), [keys, 2 * keys])
        tensors |= zip(names, parts, strict=True)


HYBRIDS = {
    "LFM2": Family(
        "Lfm2",
        {
            **NO_PADDING,
            "num_hidden_layers": 3,
            "full_attn_idxs": [1],
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": True,
        },
        "lfm2",
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2, 0]},
        convert=lambda name, values, config: values.squeeze(),
    ),
    "LFM2, biases": Family(
        "Lfm2",
        {
            **NO_PADDING,
            "conv_bias": True,
            "conv_L_cache": 4,
            "block_multiple_of": 20,
            "layer_types": ["conv", "full_attention"],
        },
    ),
    "OLMo Hybrid": Family(
        "OlmoHybrid",
        {**NO_PADDING, "num_hidden_layers": 4, "rope_parameters": {"rope_type": "default", "rope_theta": None}},
        rewrite=to_olmo_hybrid,
    ),
    "OLMo Hybrid, positions": Family(
        "OlmoHybrid",
        {
            **DELTA,
            "head_dim": 8,
            "linear_allow_neg_eigval": False,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        },
        rewrite=to_olmo_hybrid,
    ),
    "LFM2-MoE": Family(
        "Lfm2Moe",
        {**NO_PADDING, **LFM2_EXPERTS},
        "lfm2moe",
        {
            "shortconv.l_cache": 3,
            "attention.head_count_kv": [0, 2, 0],
            **EXPERT_KEYS,
            "leading_dense_block_count": 1,
            "expert_gating_func": 2,
        },
        convert=lambda name, values, config: values.squeeze(),
    ),
    "LFM2-MoE, no bias": Family(
        "Lfm2Moe",
        {
            **NO_PADDING,
            **LFM2_EXPERTS,
            "use_expert_bias": False,
            "norm_topk_prob": False,
            "routed_scaling_factor": 2.0,
        },
    ),
    "Qwen3-Next, dense layers": Family("Qwen3Next", {**DELTA, **DELTA_EXPERTS, "mlp_only_layers": [1]}),
    "Qwen3-Next": Family(
        "Qwen3Next", {**DELTA, **DELTA_EXPERTS}, "qwen3next", {**DELTA_KEYS, **DELTA_EXPERT_KEYS}, ungrouped_deltas
    ),
    "Qwen3.5-MoE": Family(
        "Qwen3_5MoeText",
        {**DELTA, **DELTA_EXPERTS, "head_dim": 16},
        "qwen35moe",
        {**DELTA_KEYS, **DELTA_EXPERT_KEYS, "rope.dimension_count": 4, "feed_forward_length": 24},
        tiled_deltas,
    ),
    "Qwen3.5": Family(
        "Qwen3_5Text",
        {**DELTA, "tie_word_embeddings": True},
        "qwen35",
        {**DELTA_KEYS, "rope.dimension_sections": [1, 1, 1, 0]},
        tiled_deltas,
    ),
}
