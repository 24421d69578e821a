"""Every family with experts, as `families` has the others."""

import re

import numpy as np

from families import NO_PADDING, Family, join, partial, permuted, rename

GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 8.0,
    "tie_word_embeddings": True,
}
GRANITE_KEYS = {"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.3, "logit_scale": 8.0}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
EXPERT_KEYS = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 24}
ROUTED = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
ROUTED_KEYS = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 24,
    "expert_shared_count": 2,
    "leading_dense_block_count": 1,
    "expert_weights_scale": 2.5,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
}


def granite_experts(name, values, config):
    """Gate and up apart, as llama.cpp has them."""
    if "input_linear" not in name:
        return permuted(name, values, config)
    kind, layer = "shexp" if "shared_mlp" in name else "exps", name.split(".")[2]
    parts = np.split(values, 2, axis=-2)
    return {f"blk.{layer}.ffn_{part}_{kind}.weight": half for part, half in zip(("gate", "up"), parts, strict=True)}


def granite_swa_experts(name, values, config):
    names = {"sinks": "attn_sinks", "router": "ffn_gate_inp", "experts.down_proj": "ffn_down_exps"}
    names |= {"experts.gate_up_proj": "ffn_gate_up_exps"}
    part = next((ours for theirs, ours in names.items() if name.removesuffix(".weight").endswith(theirs)), None)
    return {f"blk.{name.split('.')[2]}.{part}.weight": values} if part else permuted(name, values, config)


def bias_of_choice(name, values, config):
    return {f"blk.{name.split('.')[2]}.exp_probs_b": values} if name.endswith("expert_bias") else values


ERNIE = {
    **NO_PADDING,
    "tie_word_embeddings": False,
    "moe_num_experts": 6,
    "moe_k": 2,
    "moe_intermediate_size": 24,
    "moe_num_shared_experts": 2,
    "num_hidden_layers": 3,
}
DEEPSEEK_KEYS = {**EXPERT_KEYS, "expert_shared_count": 2, "leading_dense_block_count": 1}


DEEPSEEK = {"intermediate_size": 24, "tie_word_embeddings": False}


def to_deepseek(tensors, config):
    """Of Granite's, without its factors."""
    for name in list(tensors):
        if "block_sparse_moe.input_linear" in name or "output_linear" in name or "shared_mlp.input" in name:
            parts = np.split(tensors.pop(name), 2, axis=-2) if "input" in name else [None, None, tensors.pop(name)]
            for part, values in zip(("gate_proj", "up_proj", "down_proj"), parts, strict=False):
                if values is not None and values.ndim == 3:
                    for e, matrix in enumerate(values):
                        tensors[re.sub(r"block.*", f"mlp.experts.{e}.{part}.weight", name)] = matrix
                elif values is not None:
                    tensors[re.sub(r"shared_mlp.*", f"mlp.shared_experts.{part}.weight", name)] = values
    rename(tensors, {"block_sparse_moe.router.layer": "mlp.gate"})
    config |= {"architectures": ["DeepseekForCausalLM"], "norm_topk_prob": True, "n_routed_experts": 6}
    config |= {"n_shared_experts": 2, "moe_intermediate_size": 24}


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
YARN |= {"beta_fast": 32.0, "beta_slow": 1.0}
LLAMA4 = {
    **NO_PADDING,
    "num_hidden_layers": 4,
    "num_local_experts": 3,
    "num_experts_per_tok": 1,
    "head_dim": 8,
    "attention_chunk_size": 16,
    "floor_scale": 10,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


def gpt_oss_experts(name, values, config):
    """Gate and up apart, rows of outputs."""
    if "experts" not in name:
        return {f"{name}.weight": values} if name.endswith("sinks") else values
    at, kind = f"blk.{name.split('.')[2]}.ffn", "bias" if name.endswith("bias") else "weight"
    rows = values if kind == "bias" else values.swapaxes(1, 2)
    if "gate_up" in name:
        return {f"{at}_gate_exps.{kind}": rows[:, ::2], f"{at}_up_exps.{kind}": rows[:, 1::2]}
    return {f"{at}_down_exps.{kind}": rows}


def llama4_experts(name, values, config):
    at = f"blk.{name.split('.')[2]}.ffn" if "experts" in name else ""
    if "gate_up" in name:
        gate, up = np.split(values.swapaxes(1, 2), 2, axis=1)
        return {f"{at}_gate_exps.weight": gate, f"{at}_up_exps.weight": up}
    return {f"{at}_down_exps.weight": values.swapaxes(1, 2)} if at else values


def flat_experts(name, values, config):
    if "experts.mlp" not in name:
        return values
    stack = values.reshape(config.ffn_config.moe_num_experts, -1, values.shape[1])
    part = {"w1": "gate", "v1": "up", "w2": "down"}[name.split(".")[-1]]
    return {f"blk.{name.split('.')[2]}.ffn_{part}_exps.weight": stack.swapaxes(1, 2) if part == "down" else stack}


def to_bailing(tensors, config):
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "query_key_value")
    names = {r"model\.embed_tokens": "model.word_embeddings", "self_attn": "attention", "o_proj": "dense"}
    names |= {"q_norm": "query_layernorm", "k_norm": "key_layernorm", "e_score_correction_bias": "expert_bias"}
    rename(tensors, names)
    theirs = {"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"}
    config |= {name: config.pop(ours) for name, ours in theirs.items()}
    config |= {"score_function": "sigmoid", "partial_rotary_factor": 0.5, "rope_theta": 1e4}
    config |= {"use_qkv_bias": config.pop("attention_bias"), "architectures": ["BailingMoeV2ForCausalLM"]}
    del config["rope_parameters"]


def to_first_bailing(tensors, config):
    to_deepseek(tensors, config)
    join(tensors, "self_attn", ["q_proj", "k_proj", "v_proj"], "query_key_value")
    rename(tensors, {r"model\.embed_tokens": "model.word_embeddings", "self_attn": "attention", "o_proj": "dense"})
    theirs = {"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"}
    config |= {name: config.pop(ours) for name, ours in theirs.items()}
    config |= {"architectures": ["BailingMoeForCausalLM"]}


def apart_and_permuted(name, values, config):
    if "query_key_value" not in name:
        return values
    at = f"model.layers.{name.split('.')[2]}.self_attn"
    parts = np.split(values, [48, 64])
    return {
        f"{at}.{part}_proj.weight": permuted(f"{part}_proj.weight", rows, config)
        for part, rows in zip("qkv", parts, strict=True)
    }


MIXTURES = {
    "Mixtral": Family(
        "Mixtral",
        {"num_local_experts": 5},
        "llama",
        {"expert_count": 5, "expert_used_count": 2},
        permuted,
    ),
    "Mixtral, windows": Family("Mixtral", {"num_local_experts": 5, "sliding_window": 16}),
    "Phi-3.5-MoE": Family(
        "Phimoe",
        {"num_local_experts": 6, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.2},
    ),
    "Phi-mini-MoE": Family(
        "Phimoe",
        {"num_local_experts": 6, "attention_bias": True, "lm_head_bias": True},
        "phimoe",
        {"expert_count": 6, "expert_used_count": 2},
    ),
    "Phi-3.5-MoE, longrope": Family(
        "Phimoe",
        {
            "num_local_experts": 6,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
                "short_mscale": 1.1,
                "long_mscale": 1.2,
                "original_max_position_embeddings": 128,  # transformers never has long_factor in this architecture
            },
        },
    ),
    "Qwen2-MoE": Family(
        "Qwen2Moe",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2, "num_hidden_layers": 4},
    ),
    "Qwen1.5-MoE": Family(
        "Qwen2Moe",
        {**EXPERTS, "shared_expert_intermediate_size": 40},
        "qwen2moe",
        {**EXPERT_KEYS, "expert_shared_feed_forward_length": 40},
    ),
    "Qwen3-MoE": Family("Qwen3Moe", {**EXPERTS, "head_dim": 24, "norm_topk_prob": True}, "qwen3moe", EXPERT_KEYS),
    "Qwen3-MoE, dense layers": Family("Qwen3Moe", {**EXPERTS, "mlp_only_layers": [0]}),
    "OLMoE": Family(
        "Olmoe",
        {**NO_PADDING, "num_experts": 6, "num_experts_per_tok": 3, "clip_qkv": 0.8},
    ),
    "OLMoE 1B-7B": Family(
        "Olmoe",
        {**NO_PADDING, "num_experts": 6, "num_experts_per_tok": 3},
        "olmoe",
        {"expert_count": 6, "expert_used_count": 3},
    ),
    "FlexOlmo": Family("FlexOlmo", {**NO_PADDING, "num_experts": 6, "num_experts_per_tok": 3}),
    "GLM-4.5": Family(
        "Glm4Moe",
        {**ROUTED, "use_qk_norm": True, "attention_bias": True, "num_hidden_layers": 3, "head_dim": 16},
        "glm4moe",
        {**ROUTED_KEYS, "rope.dimension_count": 8},
    ),
    "GLM-4.5-Air": Family("Glm4Moe", {**ROUTED, "n_group": 4, "topk_group": 2}),
    "Granite MoE": Family(
        "GraniteMoe",
        {**GRANITE, "num_local_experts": 6},
        "granitemoe",
        {**GRANITE_KEYS, "expert_count": 6, "expert_used_count": 2},
        granite_experts,
    ),
    "Granite MoE, shared": Family(
        "GraniteMoeShared",
        {**GRANITE, "num_local_experts": 6, "shared_intermediate_size": 40},
        "granitemoe",
        {
            **GRANITE_KEYS,
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_shared_feed_forward_length": 40,
        },
        granite_experts,
    ),
    "Granite MoE, windows and one frequency": Family(
        "GraniteMoeSWA",
        {**GRANITE, "num_local_experts": 6, "sliding_window": 16, "num_hidden_layers": 5},
        "granite_swa",
        {
            **GRANITE_KEYS,
            "expert_count": 6,
            "expert_used_count": 2,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [False, True, True, True, False],
            "attention.rope_pattern": [True] * 5,
        },
        granite_swa_experts,
    ),
    "Granite MoE, windows": Family(
        "GraniteMoeSWA",
        {
            **GRANITE,
            "num_local_experts": 6,
            "sliding_window": 16,
            "num_hidden_layers": 5,
            "layer_rope_theta": [0, 1e4, 5e3, 0, 1e4],
        },
    ),
    "dots.llm1": Family("Dots1", {**ROUTED, "sliding_window": None}, "dots1", ROUTED_KEYS),
    "dots.llm1, windows": Family("Dots1", {**ROUTED, "sliding_window": 16, "max_window_layers": 1}),
    "DeepSeek-MoE": Family(
        "GraniteMoeShared",
        {"num_local_experts": 6, "shared_intermediate_size": 48, "attention_multiplier": 8**-0.5, **DEEPSEEK},
        "deepseek",
        {**DEEPSEEK_KEYS, "leading_dense_block_count": 0, "expert_weights_norm": True},
        permuted,
        rewrite=to_deepseek,
    ),
    "ERNIE 4.5 MoE": Family(
        "Ernie4_5_Moe",
        {**ERNIE, "num_hidden_layers": 4, "moe_layer_interval": 2},
        "ernie4_5-moe",
        {
            **DEEPSEEK_KEYS,
            "rope.freq_base": 500000.0,
            "interleave_moe_layer_step": 2,
            "expert_shared_feed_forward_length": 48,
        },
        lambda name, values, config: values.reshape(-1) if "e_score" in name else values,
    ),
    "ERNIE 4.5 MoE, biases": Family("Ernie4_5_Moe", {**ERNIE, "use_bias": True, "moe_layer_end_index": 1}),
    "MiniMax-M2": Family(
        "MiniMaxM2",
        {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 16, "rope_parameters": partial(0.5)},
        "minimax-m2",
        {"expert_count": 6, "expert_used_count": 3, "expert_gating_func": 2, "rope.dimension_count": 8},
    ),
    "Hunyuan MoE": Family(
        "HunYuanMoEV1",
        {**NO_PADDING, "head_dim": 8, "num_experts": 6, "moe_topk": 2},
        "hunyuan-moe",
        {"expert_count": 6, "expert_used_count": 2, "expert_shared_feed_forward_length": 80},
    ),
    "K-EXAONE": Family(
        "ExaoneMoe",
        {
            **EXPERTS,
            "sliding_window": 16,
            "num_hidden_layers": 5,
            "num_shared_experts": 2,
            "n_group": 2,
            "topk_group": 1,
            "head_dim": 8,
        },
        "exaone-moe",
        {
            **EXPERT_KEYS,
            "expert_shared_count": 2,
            "leading_dense_block_count": 1,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "expert_group_count": 2,
            "expert_group_used_count": 1,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [True, True, True, False, True],
        },
    ),
    "AFMoE": Family(
        "Afmoe",
        {**EXPERTS, "sliding_window": 16, "num_hidden_layers": 5, "head_dim": 8, "mup_enabled": True},
        "afmoe",
        {
            **EXPERT_KEYS,
            "expert_shared_count": 2,
            "leading_dense_block_count": 1,
            "expert_gating_func": 2,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [True, True, True, False, True],
        },
    ),
    "Ling": Family(
        "GraniteMoeShared",
        {"num_local_experts": 6, "shared_intermediate_size": 48, "attention_multiplier": 8**-0.5, **DEEPSEEK},
        "bailingmoe",
        {**DEEPSEEK_KEYS, "leading_dense_block_count": 0, "expert_weights_norm": True, "rope.dimension_count": 8},
        apart_and_permuted,
        to_first_bailing,
    ),
    "Ling 2": Family(
        "Glm4Moe",
        {**ROUTED, "use_qk_norm": True, "num_hidden_layers": 3, "head_dim": 16, "n_group": 4, "topk_group": 2},
        "bailingmoe2",
        {**ROUTED_KEYS, "rope.dimension_count": 8, "expert_group_count": 4, "expert_group_used_count": 2},
        rewrite=to_bailing,
    ),
    "DBRX": Family(
        "Dbrx",
        {
            "d_model": 48,
            "n_heads": 6,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.8, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 5, "moe_top_k": 2},
        },
        "dbrx",
        {
            "feed_forward_length": 40,
            "attention.clamp_kqv": 0.8,
            "expert_count": 5,
            "expert_used_count": 2,
        },
        flat_experts,
    ),
    "MiMo-V2-Flash": Family(
        "MiMoV2Flash",
        {
            **ROUTED,
            "n_shared_experts": None,
            "num_hidden_layers": 7,
            "head_dim": 12,
            "v_head_dim": 8,
            "num_attention_heads": 4,
            "sliding_window": 16,
        },
    ),
    "Solar Open": Family("SolarOpen", {**ROUTED, "head_dim": 8, "n_group": 2, "topk_group": 1}),
    "Mellum": Family(
        "Mellum",
        {
            **EXPERTS,
            "head_dim": 8,
            "sliding_window": 16,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
        },
    ),
    "Mellum, experts in all layers": Family(
        "Mellum",
        {
            **EXPERTS,
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "mlp_layer_types": ["sparse", "sparse"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
                "full_attention": YARN | {"rope_theta": 5e5},
            },
        },
        "mellum",
        {
            **EXPERT_KEYS,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [True, False],
            "rope.freq_base": 5e5,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    "Hunyuan 3": Family(
        "HYV3",
        {**EXPERTS, "head_dim": 8, "num_shared_experts": 2, "num_hidden_layers": 3},
        "hy_v3",
        {
            **EXPERT_KEYS,
            "expert_shared_feed_forward_length": 48,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.826,
            "expert_gating_func": 2,
            "leading_dense_block_count": 1,
        },
        bias_of_choice,
    ),
    "Command A, experts": Family(
        "Cohere2Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "head_dim": 8,
            "sliding_window": 16,
            "num_hidden_layers": 5,
            "first_k_dense_replace": 1,
            "prefix_dense_intermediate_size": 56,
            "expert_selection_fn": "sigmoid",
        },
    ),
    "Command A, RMS norms": Family(
        "Cohere2Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "sliding_window": 16,
            "num_hidden_layers": 4,
            "rms_norm_eps": 1e-5,
        },
    ),
    "gpt-oss": Family(
        "GptOss",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "head_dim": 8,
            "sliding_window": 16,
            "rope_parameters": YARN | {"truncate": False},
            "max_position_embeddings": 256,
        },
        "gpt-oss",
        {
            "expert_count": 6,
            "expert_used_count": 3,
            "expert_feed_forward_length": 80,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [True, False],
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
        gpt_oss_experts,
    ),
    "Llama 4 Scout": Family(
        "Llama4Text",
        {
            **LLAMA4,
            "num_local_experts": 4,
            "attention_chunk_size": 8192,
            "floor_scale": 8192,
            "intermediate_size_mlp": 56,
        },
        "llama4",
        {
            "expert_count": 4,
            "expert_used_count": 1,
            "interleave_moe_layer_step": 1,
            "feed_forward_length": 56,
            "expert_feed_forward_length": 80,
        },
        llama4_experts,
    ),
    "Llama 4, blocks": Family("Llama4Text", LLAMA4),
    "Llama 4 Maverick": Family(
        "Llama4Text",
        {**LLAMA4, "interleave_moe_layer_step": 2, "use_qk_norm": False, "intermediate_size_mlp": 56},
    ),
}
