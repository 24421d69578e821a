"""GLM-4.5, GLM-4.6 and their Air."""

from octavo.models.decoder import HEAD_NORMS
from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import GGUFFamily


class Glm4Moe(Mixture):
    """Llama with biases on q, k and v, half of each head rotated, and DeepSeek-V3's experts (GLM-4.5 Team 2025)."""

    architectures = ("Glm4MoeForCausalLM",)
    model_types = ("glm4_moe", "glm4v_moe_text")
    fields = {"num_experts": "n_routed_experts", "has_head_norms": "use_qk_norm"}
    defaults = {
        "attention_out_bias": False,
        "has_head_norms": False,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "n_shared_experts": 1,
    }
    rotary_part = 0.5
    names = HEAD_NORMS
    score = "sigmoid"
    choice_bias = "gate.e_score_correction_bias"
    gguf = (GGUFFamily("glm4moe", layer={"post_attention_norm": "post_attention_layernorm"}),)
