"""Hunyuan-Large and Hunyuan-A13B."""

from __future__ import annotations

from octavo.models.hunyuan import NAMES, HunYuanDense
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import EXPERTS, LAYER, SHARED, GGUFFamily

OURS = {name: ours.replace("shared_experts", "shared_mlp") for name, ours in SHARED.items()}
OURS |= EXPERTS | {"ffn_gate_inp": "mlp.gate.wg"} | NAMES


class HunYuanMoe(Mixture, HunYuanDense):
    """Hunyuan with experts, and one for all tokens (Tencent Hunyuan Team 2025)."""

    architectures = ("HunYuanMoEV1ForCausalLM",)
    model_types = ("hunyuan_v1_moe",)
    fields = {"num_experts_per_tok": "moe_topk", "n_shared_experts": "num_shared_expert"}
    router_name = "gate.wg"
    shared_name = "mlp.shared_mlp"
    gguf = (GGUFFamily("hunyuan-moe", "HunYuanMoEV1ForCausalLM", layer=LAYER | OURS),)

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
