"""The head that guesses masked tokens, of whose logits SPLADE makes vectors."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.graph import Graph, Node, Weight
from octavo.graph.ops.linear import Logits


@dataclass(frozen=True, slots=True)
class MaskedHead:
    """A linear, an activation and a norm, then a product with the table of words; all by their full names."""

    dense: str = "cls.predictions.transform.dense"
    norm: str = "cls.predictions.transform.LayerNorm"
    decoder: str = "cls.predictions.decoder"  # has the matrix, unless it is the table of words
    bias: str = "cls.predictions.bias"
    activation: tuple[str, str] = ("hidden_act", "gelu")  # the field that names it, and what it is without that

    def end(self, g: Graph, x: Node, word: str | None, vocab_size: int, *, bias: bool) -> Node:
        """The logits of tokens whose normed rows are `x`; `word` names the table of words if that is the matrix."""
        weight = Weight(f"{word or self.decoder}.weight", (vocab_size, x.columns))
        return g.append(Logits(x, weight, Weight(self.bias, (vocab_size,)) if bias else None))


ROBERTA = MaskedHead("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", ("", "gelu"))
GTE = MaskedHead("lm_head.dense", "lm_head.norm", "lm_head.decoder", "lm_head.decoder.bias")
DISTILBERT = MaskedHead("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias")
NOMIC = MaskedHead(norm="cls.predictions.transform.layer_norm")
GTE = MaskedHead("lm_head.dense", "lm_head.norm", "lm_head.decoder", "lm_head.decoder.bias", ("", "gelu"))
MODERNBERT = MaskedHead("head.dense", "head.norm", "decoder", "decoder.bias", ("classifier_activation", "gelu"))
