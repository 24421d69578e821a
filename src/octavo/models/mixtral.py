"""Mixtral 8x7B and 8x22B."""

from octavo.models.mixture import Mixture


class Mixtral(Mixture):
    """Llama with eight experts in each layer, two of which are asked (Jiang et al. 2024)."""

    architectures = ("MixtralForCausalLM",)
    model_types = ("mixtral",)
    fields = {"num_experts": "num_local_experts"}
    defaults = {"rms_norm_eps": 1e-5}
    names = {"mlp": "block_sparse_moe", "ffn_gate": "w1", "ffn_up": "w3", "ffn_down": "w2"}
