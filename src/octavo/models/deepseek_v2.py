"""DeepSeek V2, V2.5, Coder V2 and V2 Lite."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.models.mixture import Mixture
from octavo.models.mla import LatentAttention
from octavo.weights.config_reader import ConfigReader


class DeepseekV2(Mixture, LatentAttention):
    """Latent attention; in all layers but the first ones, experts beside an MLP for all tokens (DeepSeek-AI 2024)."""

    architectures = ("DeepseekV2ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_v2",)
    kind = "experts"
    interleaved = True
    fields = {"num_experts": "n_routed_experts"}
    defaults: ClassVar[dict[str, object]] = {"v_head_dim": 128, "num_nextn_predict_layers": 1}
    normalises = False

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        """The factor is that of routes that are not normalised; a group is as good as its best expert."""
        found = super().routes(config)
        if found["score"] != "softmax":
            raise config.fail(
                "scoring_func", f"{found['score']!r} is not supported in this architecture, only 'softmax'"
            )
        if config.text("topk_method", "greedy") == "greedy":
            found = {name: value for name, value in found.items() if not name.startswith("group")}
        best = {"group_best": 1} if "groups" in found else {}
        return {**found, **best, "factor": 1.0 if found["normalise"] else found["factor"]}

    def is_sparse(self, i: int) -> bool:
        return super().is_sparse(i) and i % self.config.integer("moe_layer_freq", 1) == 0
