"""StableLM 3B, Zephyr, 2 1.6B and 2 12B."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class StableLM(Decoder):
    """Llama with layer norms and a quarter of each head rotated (Bellagente et al. 2024)."""

    architectures = ("StableLmForCausalLM", "StableLMEpochForCausalLM")
    model_types = ("stablelm",)
    fields = {
        "attention_bias": "use_qkv_bias",
        "rms_norm_eps": "layer_norm_eps",
        "partial_rotary_factor": "rope_pct",
        "has_head_norms": "qk_layernorm",
    }
    defaults = {
        "attention_out_bias": False,
        "has_head_norms": False,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
    }
    rotary_part = 0.25
    is_layer_norm = True
    names = {f"attn_{part}_norm": f"{part}_layernorm.norms" for part in "qk"}
    gguf = (GGUFFamily("stablelm", keys={"use_parallel_residual": "use_parallel_residual"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.is_parallel = self.config.flag("use_parallel_residual")
        if self.is_parallel:
            self.parts = {**self.parts, "ffn_norm": ""}

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        """With a weight for each column of each head."""
        d = self.head_dim
        q, k = (
            g.layer_norm(x, f"{at}.{name}_layernorm.norms", self.eps, bias=False, width=d, shape=(x.columns // d, d))
            for x, name in ((q, "q"), (k, "k"))
        )
        return q, k
