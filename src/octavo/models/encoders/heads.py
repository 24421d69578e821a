"""Heads: what models have in place of logits, to classify texts or tokens, and how checkpoints name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from octavo.models.registry import declared
from octavo.weights.config_reader import ConfigReader

# What follows the model's name in the names of architectures, and the kind of head that it has.
SUFFIXES = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "token_classify",
    "ForProcessRewardModel": "step_reward",
    "ForRewardModel": "reward",
}
# What stands there instead in the names of those that are declared here, without a head.
_WHOLE = ("ForCausalLM", "LMHeadModel", "Model")
# Tensors of heads.
TENSORS = r"^(\w+\.)?(pooler|head|dense|score|v_head|classifier|pre_classifier|(colbert_|sparse_)?linear)\."


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with a matrix and an activation, or a layer norm; a bias is there where the checkpoint has one."""

    name: str  # of its tensors, behind the model's own name if they have that
    activation: str = "identity"
    norm_eps: float | None = None  # None: it is no norm


@dataclass(frozen=True, slots=True)
class Head:
    """Layers over the row that a text is pooled to, or over those of tokens. The last has a column for each label."""

    layers: tuple[Layer, ...]
    pooling: str | None = None  # None: as the model is pooled
    is_late: bool = False  # what comes out is pooled, not what goes in


Heads = Mapping[str, tuple[Head, ...]]  # by their kinds; the first whose tensors are there, of several

SCORE = Head((Layer("score"),))
CLASSIFIER = Head((Layer("classifier"),))
TWO_SCORES = Head((Layer("score.0", "relu"), Layer("score.2")))  # Qwen2.5-Math's reward models

# Of decoders: a text's row is that of its last token.
DECODER_HEADS: Heads = {
    "classify": (SCORE, CLASSIFIER),
    "token_classify": (SCORE, CLASSIFIER),
    "reward": (TWO_SCORES, Head((Layer("v_head"),)), SCORE),
    "step_reward": (TWO_SCORES, SCORE),
}
BERT_HEADS: Heads = {
    "classify": (Head((Layer("pooler.dense", "tanh"), Layer("classifier")), "cls"),),
    "token_classify": (CLASSIFIER,),
}
ROBERTA_HEADS: Heads = {
    **BERT_HEADS,
    "classify": (Head((Layer("classifier.dense", "tanh"), Layer("classifier.out_proj")), "cls"),),
}
# GGUF files have one architecture for both, and no dense layer where a model has none beside its pooler.
BERT_HEADS = {
    **BERT_HEADS,
    "classify": (
        *BERT_HEADS["classify"],
        *ROBERTA_HEADS["classify"],
        Head((Layer("classifier.out_proj"),), "cls"),
    ),
}
DISTILBERT_HEADS: Heads = {
    **BERT_HEADS,
    "classify": (Head((Layer("pre_classifier", "relu"), Layer("classifier")), "cls"),),
}


def modernbert_heads(config: ConfigReader, norm_eps: float) -> Heads:
    """Raises what `config.fail` makes for what is not known of them."""
    kind, pooling = config.text("classifier_activation", "gelu"), config.text("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise config.fail("classifier_pooling", f"must be cls or mean, got {pooling!r:.80}")
    layers = (Layer("head.dense", kind), Layer("head.norm", norm_eps=norm_eps), Layer("classifier"))
    return {"classify": (Head(layers, pooling),), "token_classify": (Head(layers),)}


def eurobert_heads(config: ConfigReader) -> Heads:
    """Likewise."""
    pooling = config.text("classifier_pooling", "late")
    if pooling not in ("late", "mean", "bos"):
        raise config.fail("classifier_pooling", f"must be late, mean or bos, got {pooling!r:.80}")
    head = Head((Layer("dense", "gelu"), Layer("classifier")), "cls" if pooling == "bos" else "mean", pooling == "late")
    return {"classify": (head,), "token_classify": (CLASSIFIER,)}


def without_head(name: str) -> tuple[str, str | None]:
    """The architecture that is declared here for the model alone, and the kind of its head; else the name itself."""
    kind = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    suffix = next((suffix for suffix in (*SUFFIXES, "Model") if name.endswith(suffix)), None)
    if suffix is None or declared(name) is not None:
        return name, None
    base = name.removesuffix(suffix)
    names = [part + whole for whole in _WHOLE for part in (base, base.removesuffix("Text"))]
    return next(((whole, kind) for whole in names if whole != name and declared(whole) is not None), (name, None))


def named(head: Head, tensors: Mapping[str, object]) -> Head | None:
    """The head with the full names of its tensors; None where one is missing."""
    layers = []
    for layer in head.layers:
        own = f"{layer.name}.weight"
        found = own if own in tensors else next((name for name in tensors if name.endswith(f".{own}")), None)
        if found is None:
            return None
        layers.append(replace(layer, name=found.removesuffix(".weight")))
    return replace(head, layers=tuple(layers))
