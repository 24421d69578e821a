"""Decoders that were made encoders: EmbeddingGemma, EuroBERT, and NVIDIA's bidirectional Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from octavo.graph import Graph
from octavo.graph.ends import both_ways, with_hidden_states
from octavo.models.decoder import Decoder
from octavo.models.encoders.heads import eurobert_heads
from octavo.models.gemma3 import Gemma3
from octavo.models.llama import Llama
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class BothWays(Decoder):
    """A decoder whose tokens see each other in both directions, and which ends in hidden states."""

    kind = "encoder"
    pooling = "mean"

    @classmethod
    def completed(cls, family: GGUFFamily) -> GGUFFamily:
        return replace(super().completed(family), causal=False)

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, rf"^{self.head_name}\.")

    def build(self) -> Graph:
        return both_ways(with_hidden_states(super().build()))


class EuroBert(BothWays, Llama):
    """Llama, both ways (Boizard et al. 2025)."""

    architectures: ClassVar[tuple[str, ...]] = ("EuroBertModel", "EuroBertForMaskedLM")
    model_types: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, object]] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 8192}
    gguf = (GGUFFamily("eurobert"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.known_heads = eurobert_heads(self.config)


class LlamaBidirectional(BothWays, Llama):
    """Llama 3.2, both ways: llama-nemotron-embed (NVIDIA 2024)."""

    architectures = ("LlamaBidirectionalModel",)
    model_types = ()
    gguf = (GGUFFamily("llama-embed", permuted=True),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.pooling = {"avg": "mean", "cls": "cls", "last": "last"}.get(config.text("pooling", "avg"), "")
        if not self.pooling:
            raise config.fail("pooling", f"must be avg, cls or last, got {config.values['pooling']!r:.80}")


class EmbeddingGemma(BothWays, Gemma3):
    """Gemma 3, both ways, with half of `sliding_window` to either side (Schechter Vera et al. 2025)."""

    architectures = ("Gemma3TextModel",)
    model_types: ClassVar[tuple[str, ...]] = ()  # type: ignore[assignment]
    gguf = (
        GGUFFamily(
            "gemma-embedding",
            outer={"dense_2": "dense_2", "dense_3": "dense_3"},
            keys={
                "rope.freq_base_swa": "rope_local_base_freq",
                **{f"dense_{i}_feat_{end}": f"dense_{i}_{end}" for i in (2, 3) for end in ("in", "out")},
            },
            values={"rope_local_base_freq": 10000.0, "use_bidirectional_attention": True},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if not config.flag("use_bidirectional_attention"):
            raise config.fail("use_bidirectional_attention", "must be true: a Gemma 3 without logits is known as that")
        plain = ConfigReader({**config.values, "use_bidirectional_attention": False}, config.fail)
        super().__init__(plain, max_model_len)
        self.windows = [None if window is None else window // 2 + 1 for window in self.windows]
