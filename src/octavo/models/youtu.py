"""Youtu-LLM."""

from octavo.models.mla import LatentAttention


class Youtu(LatentAttention):
    """Llama with DeepSeek V3's attention (Tencent Youtu Lab 2026)."""

    architectures = ("YoutuForCausalLM",)
    model_types = ("youtu",)
    defaults = {"tie_word_embeddings": True}
    interleaved = True
