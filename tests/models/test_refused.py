"""Configurations of the families that ask for what is not supported, or contradict themselves: the field is named."""

import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import SIZES, save_checkpoint
from octavo.errors import ModelLoadError
from octavo.models import load_declaration, open_model
from octavo.weights.bind import bind

TIED = {"tie_word_embeddings": True}
GROWTH = {"rope_theta": 1e4, "llama_4_scaling_beta": -1.0, "original_max_position_embeddings": 64}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3}
REFUSED = {
    "layers of an unknown kind": ("Qwen3ForCausalLM", {"layer_types": ["full_attention", "linear"]}, "layer_types"),
    "too few kinds of layers": ("Qwen3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types"),
    "a cap that is none": ("Gemma2ForCausalLM", {"attn_logit_softcapping": -5.0}, "attn_logit_softcapping"),
    "attention in both directions": (
        "Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention",
    ),
    "positions that are no slopes": ("MPTForCausalLM", {"attn_config": {"alibi": False}}, "attn_config.alibi"),
    "norms of q and k": ("MPTForCausalLM", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln"),
    "frequencies of too few layers": (
        "GraniteSWAForCausalLM", {"layer_rope_theta": [0], "attention_multiplier": 0.1}, "layer_rope_theta",
    ),
    "growth that is none": (
        "Ministral3ForCausalLM", {"rope_parameters": GROWTH}, "rope_parameters.llama_4_scaling_beta",
    ),
    "positions of too few layers": ("SmolLM3ForCausalLM", {"no_rope_layers": [1]}, "no_rope_layers"),
    "KV heads that are no divisor": (
        "DeciLMForCausalLM",
        {"block_configs": [{}, {"attention": {"n_heads_in_group": 4}}]},
        "block_configs.0.attention.n_heads_in_group",
    ),
    "no experts": ("Qwen3MoeForCausalLM", {}, "num_experts"),
    "fewer experts than are asked": (
        "MixtralForCausalLM", {"num_local_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok",
    ),
    "a score that is not known": ("Dots1ForCausalLM", {**EXPERTS, "scoring_func": "tanh"}, "scoring_func"),
    "groups of unequal size": ("Dots1ForCausalLM", {**EXPERTS, "n_group": 3, "topk_group": 1}, "n_group"),
    "groups of one expert": ("Dots1ForCausalLM", {**EXPERTS, "n_group": 8, "topk_group": 8}, "n_group"),
    "too few groups": ("Dots1ForCausalLM", {**EXPERTS, "n_group": 4, "topk_group": 1}, "topk_group"),
    "another limit": (
        "GptOssForCausalLM", {"num_local_experts": 8, "num_experts_per_tok": 3, "swiglu_limit": 3.0}, "swiglu_limit",
    ),
    "several experts whose input is scaled": (
        "Llama4ForCausalLM",
        {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size_mlp": 80},
        "num_experts_per_tok",
    ),
    "three experts of two": (
        "PhiMoEForCausalLM", {"num_local_experts": 8, "num_experts_per_tok": 3}, "num_experts_per_tok",
    ),
    "learned positions": ("JAISLMHeadModel", {"position_embedding_type": "learned"}, "position_embedding_type"),
    "another norm of routes": (
        "DbrxForCausalLM",
        {"ffn_config": {"moe_normalize_expert_weights": 2}},
        "ffn_config.moe_normalize_expert_weights",
    ),
    "experts": ("MiniCPMForCausalLM", {"num_experts": 8}, "num_experts"),
    "layers by turns of another kind": ("GPTNeoForCausalLM", {"attention_types": [[["global"], 2]]}, "attention_types"),
    "an activation that is not known": ("ArceeForCausalLM", {"hidden_act": "xielu"}, "hidden_act"),
    "a prefix": ("ChatGLMModel", {"seq_length": 64, "pre_seq_len": 8, "multi_query_attention": True}, "pre_seq_len"),
    "another source": ("GPT2LMHeadModel", {"add_cross_attention": True}, "add_cross_attention"),
    "a field under its own name": ("GPT2LMHeadModel", {"n_embd": "wide"}, "n_embd"),
    "a part of an odd size": ("Phi3ForCausalLM", {"partial_rotary_factor": 0.7}, "head_dim"),
    "a part that is none": ("Phi3ForCausalLM", {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    "a part in an entry": (
        "Phi3ForCausalLM",
        {"rope_parameters": {"partial_rotary_factor": "half"}},
        "rope_parameters.partial_rotary_factor",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "entries", "field"), REFUSED.values(), ids=REFUSED)
def test_the_field_is_named(name, entries, field):
    with pytest.raises(ModelLoadError) as caught:
        load_declaration({**SIZES, **TIED, "architectures": [name], **entries}, "config.json").build()
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_an_expert_that_is_missing_is_named(tmp_path):
    save_checkpoint(tmp_path, "Mixtral", num_local_experts=3)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_model(tmp_path)
    graph = load_declaration(checkpoint.config, tmp_path).build()
    with pytest.raises(ModelLoadError, match=rf"{name}: is missing; it should have shape \(80, 48\)"):
        bind(graph.weights, checkpoint, ())
