"""OLMo 2 and OLMo 3."""

from __future__ import annotations

from octavo.models.decoder import HEAD_NORMS, NORMS_BEHIND, Decoder
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Olmo2(Decoder):
    """Norms behind the branches alone, and of all of q and all of k (OLMo Team 2024)."""

    architectures = ("Olmo2ForCausalLM",)
    model_types = ("olmo2",)
    defaults = {"rms_norm_eps": 1e-5}
    names = HEAD_NORMS | NORMS_BEHIND
    norms_heads = False


class Olmo3(Olmo2):
    """The same with a window in three of four layers, whose positions are not scaled (OLMo Team 2025)."""

    architectures = ("Olmo3ForCausalLM",)
    model_types = ("olmo3",)
    # Of OLMo 2, too: it is a model without a window.
    gguf = (GGUFFamily("olmo2"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        theta = for_layers(self.config, "full_attention").number("rope_theta", 500000.0)
        local = self.rope(for_layers(self.config, "sliding_attention", theta))
        self.ropes = [rope if self.full[i] or not self.windows[i] else local for i, rope in enumerate(self.ropes)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % 4 == 0
