"""Hunyuan 0.5B to 7B, the dense ones, and Hunyuan-Large and A13B."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class HunYuanDense(Decoder):
    """Llama with an RMS norm of every head of q and k once they are rotated (Tencent Hunyuan Team 2025)."""

    architectures = ("HunYuanDenseV1ForCausalLM",)
    model_types = ("hunyuan_v1_dense",)
    fields = {"has_head_norms": "use_qk_norm"}
    defaults = {"rms_norm_eps": 1e-5}
    names = {"attn_q_norm": "query_layernorm", "attn_k_norm": "key_layernorm"}
    gguf = (GGUFFamily("hunyuan-dense"),)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        rope = self.ropes[i]
        if rope is not None:
            q, k = (g.rope(x, self.head_dim, rope) for x in (q, k))
        return self.head_norms(g, q, k, at) if self.has_head_norms else (q, k)


class HunYuanMoe(Mixture, HunYuanDense):
    """Hunyuan-Large and A13B: the same with experts, and one for all tokens (Tencent Hunyuan Team 2025)."""

    architectures = ("HunYuanMoEV1ForCausalLM",)
    model_types = ("hunyuan_v1_moe",)
    fields = {
        **HunYuanDense.fields,
        "num_experts_per_tok": "moe_topk",
        "n_shared_experts": "num_shared_expert",
    }
    router_name = "gate.wg"
    shared_name = "mlp.shared_mlp"
    gguf = (GGUFFamily("hunyuan-moe"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        lists = {}
        for field in ("num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size"):
            found = config.values.get(field)
            if isinstance(found, list) and len(set(map(str, found))) == 1:
                lists[field] = found[0]  # a number for each layer, of which all are equal
        config = ConfigReader({"num_shared_expert": 1, **config.values, **lists}, config.fail)
        if config.flag("use_cla"):
            raise config.fail("use_cla", "layers that share keys and values are not supported")
        super().__init__(config, max_model_len)
