"""InternLM 1, 2, 2.5 and 3."""

from octavo.models.decoder import Decoder


class InternLM(Decoder):
    """Llama with biases on q, k, v and o."""

    architectures = ("InternLMForCausalLM",)
    fields = {"attention_bias": "bias"}
    defaults = {"attention_bias": True}


class InternLM2(Decoder):
    """Llama with names of its own; the matrices of q, k and v are stored by KV heads (Cai et al. 2024).

    GGUF files of it have Llama's own form.
    """

    architectures = ("InternLM2ForCausalLM",)
    model_types = ("internlm2",)
    fields = {"attention_bias": "bias"}
    embed_name = "model.tok_embeddings"
    head_name = "output"
    qkv_by_heads = True
    names = {
        "attn_norm": "attention_norm",
        "attention": "attention",
        "attn_qkv": "wqkv",
        "attn_output": "wo",
        "ffn_norm": "ffn_norm",
        "mlp": "feed_forward",
        "ffn_gate": "w1",
        "ffn_up": "w3",
        "ffn_down": "w2",
    }


class InternLM3(Decoder):
    """Llama, whose biases have other names in its configuration."""

    architectures = ("InternLM3ForCausalLM",)
    model_types = ("internlm3",)
    fields = {"attention_bias": "qkv_bias", "mlp_bias": "bias"}
    defaults = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
