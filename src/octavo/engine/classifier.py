"""How the rows of a text become scores of labels: the pooler of a model that classifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from octavo.engine.pair_template import PairTemplate
from octavo.engine.pooler import OF_TOKENS, POOLINGS, Pooler
from octavo.errors import ModelLoadError, ParameterError, UnsupportedError
from octavo.graph.node import Node, Rows, Weight
from octavo.graph.ops.linear import Logits
from octavo.models.base import CausalLM
from octavo.models.encoders.heads import DECODER_HEADS, Head, named
from octavo.pooling_params import PoolingParams
from octavo.request import TokenIds
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint
from octavo.weights.bind import bind
from octavo.weights.config_reader import ConfigReader
from octavo.weights.head import ACTIVATIONS, Dense, Floats, Norm, Stage
from octavo.weights.tensor import StoredTensor

STEP_TAG = "<extra_0>"  # behind each step of a solution, of Qwen2.5-Math's process reward models
# What problem_type says of the scores; others are probabilities.
PROBLEMS = {"regression": "identity", "multi_label_classification": "sigmoid"}


@dataclass(frozen=True, slots=True)
class TokenScores:
    """A classifier whose scores are the logits of some tokens (`words`), or the second's less the first's."""

    words: tuple[str | int, ...]  # as the vocabulary writes them, or ids
    is_difference: bool
    logits: Logits
    tensors: Mapping[str, StoredTensor]

    def stage(self, tokenizer: Tokenizer) -> Dense:
        """Raises ModelLoadError for a word that is no token."""
        rows, weights = self.logits.weight.shape[0], []
        for word in self.words:
            token = word if isinstance(word, int) else tokenizer.token_id(word)
            if token is None or token >= rows:
                raise ModelLoadError("config.json", "classifier_from_token", f"{word!r:.80} is no token of the model")
            at = Rows(1, rows, token, token + 1)
            weights.append(self._part(self.logits.weight, at) * np.float32(self.logits.scale))
        weight = np.concatenate(weights)
        return Dense(weight[1:] - weight[:1] if self.is_difference else weight)

    def _part(self, weight: Weight, rows: Rows) -> Floats:
        part = replace(weight, shape=(1, *weight.shape[1:]), rows=rows)
        return self.tensors[weight.name].part(part).values()


@dataclass(frozen=True, slots=True)
class Classifier(Pooler):
    """One of POOLINGS and stages of a head, or the other way round, and what makes probabilities of the scores."""

    kind: str = "classify"  # of head, see `octavo.models.encoders.heads`
    labels: tuple[str, ...] = ()
    activations: Mapping[str, str] = field(default_factory=dict)  # by task: one of ACTIVATIONS
    is_late: bool = False
    from_tokens: TokenScores | None = None  # until the tokenizer is known
    form: str = ""  # of pairs: `pair_form`
    step_tag_id: int | None = None
    words: PairTemplate | None = None  # `question`

    does: ClassVar[str] = "classifies texts"
    shown_by: ClassVar[str] = "LLM.classify, LLM.score, octavo rerank and /classify"

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("classify", "score", "token_classify") if self.kind == "classify" else ("token_classify",)

    @property
    def skills(self) -> tuple[str, ...]:
        scores = self.kind == "classify" and len(self.labels) == 1
        return ("classify", "score", "pool") if scores else ("classify", "pool")

    @property
    def scores_by(self) -> str:
        return "score"

    @property
    def pair_form(self) -> str:
        return self.form

    @property
    def question(self) -> PairTemplate | None:
        return self.words

    def completed(self, tokenizer: Tokenizer) -> Classifier:
        if self.kind == "step_reward":
            return replace(self, step_tag_id=tokenizer.token_id(STEP_TAG))
        if self.from_tokens is None:
            return self
        return replace(self, stages=(self.from_tokens.stage(tokenizer),), from_tokens=None)

    def check(self, params: PoolingParams) -> None:
        """Raises ParameterError for another task, for dimensions, and for a score of several labels."""
        task = self.task_of(params)
        if params.dimensions is not None:
            raise ParameterError("dimensions", params.dimensions, "left out: the model classifies")
        if task == "score" and len(self.labels) != 1:
            those = f"{len(self.labels)} ({', '.join(self.labels[:8])})"
            raise ParameterError("task", task, f"classify: a score is of 1 label, and the model has {those}")

    def needs_all_rows(self, params: PoolingParams) -> bool:
        return self.task_of(params) in OF_TOKENS or self.pooling != "last"

    def vectors(self, rows: Floats, params: PoolingParams, token_ids: TokenIds = ()) -> Floats:
        """The scores of a text, [labels]; or of each token, [tokens, labels], or of each that ends a step."""
        task = self.task_of(params)
        if task not in OF_TOKENS:
            pool = POOLINGS[self.pooling]
            x = pool(self.staged(rows)) if self.is_late else self.staged(pool(rows))
            return np.asarray(self._activated(x, task, params)[0], np.float32)
        tag = self.step_tag_id if params.step_tag_id is None else params.step_tag_id
        if tag is not None:
            rows = rows[np.flatnonzero(np.asarray(token_ids) == tag)]
        x = self._activated(self.staged(rows), task, params)
        return x if params.returned_token_ids is None else x[:, params.returned_token_ids]

    def _activated(self, x: Floats, task: str, params: PoolingParams) -> Floats:
        activates = params.normalizes is not False
        if self.kind == "reward":
            activates = params.normalizes is True  # a reward has no bounds
        return np.asarray(ACTIVATIONS[self.activations[task]](x) if activates else x, np.float32)


def classifier_of(kind: str, model: CausalLM, last: Node, checkpoint: Checkpoint, config: ConfigReader) -> Classifier:
    """The classifier of a checkpoint; `last` is the node that the model's graph ends in.

    Raises ModelLoadError for a head that is missing or misshapen, UnsupportedError for logits that are no products.
    """
    pooling, columns = model.pooling or "last", last.inputs[0].columns
    if kind == "classify" and config.values.get("classifier_from_token") is not None:
        scores = _token_scores(last, checkpoint, config)
        labels = ("LABEL_0",) if scores.is_difference else tuple(map(str, scores.words))
        return Classifier(
            pooling,
            columns,
            labels=labels,
            activations=_activations(config, len(labels)),
            from_tokens=scores,
            form="question" if config.flag("is_original_qwen3_reranker") else config.text("pair_form", ""),
        )
    heads = getattr(model, "known_heads", DECODER_HEADS)
    options = heads.get(kind) or DECODER_HEADS[kind]
    head = next((found for option in options if (found := named(option, checkpoint.tensors)) is not None), None)
    if head is None:
        missing = next(layer.name for layer in options[0].layers if named(Head((layer,)), checkpoint.tensors) is None)
        reason = f"is missing: a head with a row for each label is expected, of {columns} columns in"
        raise ModelLoadError(checkpoint.path, f"{missing}.weight", reason)
    stages = _read(head, checkpoint, columns)
    labels = _labels(config, stages[-1].columns, kind, f"{head.layers[-1].name}.weight")
    return Classifier(
        head.pooling or pooling,
        columns,
        stages,
        kind=kind,
        labels=labels,
        activations=_activations(config, len(labels)),
        is_late=head.is_late,
        form="" if (words := PairTemplate.of_file(checkpoint.metadata)) is None else "question",
        words=words,
    )


def _read(head: Head, checkpoint: Checkpoint, columns: int) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for layer in head.layers:
        found = [checkpoint.tensors.get(f"{layer.name}.{part}") for part in ("weight", "bias")]
        weight, bias = (None if tensor is None else tensor.values() for tensor in found)
        assert weight is not None
        stage = Dense(weight, bias, layer.activation) if layer.norm_eps is None else Norm(weight, bias, layer.norm_eps)
        rank = 2 if layer.norm_eps is None else 1
        if weight.ndim != rank or stage.takes != columns or (bias is not None and bias.shape != (stage.columns,)):
            shapes = " and ".join(str(tensor.shape) for tensor in found if tensor is not None)
            reason = f"has shape {shapes}, but what is before it has {columns} columns"
            raise ModelLoadError(checkpoint.path, f"{layer.name}.weight", reason)
        if not all(np.isfinite(part).all() for part in (weight, bias) if part is not None):
            raise ModelLoadError(checkpoint.path, f"{layer.name}.weight", "has values that are not finite")
        columns = stage.columns
        stages.append(stage)
    return tuple(stages)


def _labels(config: ConfigReader, count: int, kind: str, weight: str) -> tuple[str, ...]:
    """By id2label; where that is not said, or of a reward model, LABEL_0 and so on."""
    said = config.values.get("id2label")
    if said is None or kind in ("reward", "step_reward"):
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(said, dict) or {str(key) for key in said} != {str(i) for i in range(len(said))}:
        raise config.fail("id2label", "must map 0, 1, 2 … to names")
    if len(said) != count:
        raise config.fail("id2label", f"names {len(said)} labels, but {weight} has a row for each of {count}")
    return tuple(str(said[str(i)]) for i in range(count))


def _activations(config: ConfigReader, labels: int) -> Mapping[str, str]:
    """What becomes of scores, by task: that of a pair's score is what sentence-transformers says, if it does."""
    usual = "sigmoid" if labels == 1 else "softmax"
    problem = config.text("problem_type", "")
    st = config.object("sentence_transformers")
    field = "sbert_ce_default_activation_function"
    name = st.text("activation_fn", "") or config.text(field, "")
    score = name.rsplit(".", 1)[-1].lower() or usual
    if score not in ACTIVATIONS:
        raise config.fail(field, f"{name!r:.80} is not known; {', '.join(ACTIVATIONS)} are")
    return {"classify": PROBLEMS.get(problem, usual), "token_classify": PROBLEMS.get(problem, usual), "score": score}


def _token_scores(last: Node, checkpoint: Checkpoint, config: ConfigReader) -> TokenScores:
    words = config.values["classifier_from_token"]
    if not isinstance(words, list) or not words or not all(isinstance(word, str | int) for word in words):
        raise config.fail("classifier_from_token", f"must be a list of tokens, got {words!r:.80}")
    original = config.flag("is_original_qwen3_reranker")
    method = config.text("method", "from_2_way_softmax" if original else "no_post_processing")
    if method not in ("from_2_way_softmax", "no_post_processing"):
        raise config.fail("method", f"{method!r:.80} is not known; from_2_way_softmax and no_post_processing are")
    if method == "from_2_way_softmax" and len(words) != 2:
        raise config.fail("classifier_from_token", f"must be two tokens for from_2_way_softmax, got {len(words)}")
    if not isinstance(last, Logits) or last.bias is not None or last.softcap is not None:
        raise UnsupportedError("classifier_from_token", words, "only for logits that are products, no more")
    tensors = bind([last.weight], checkpoint, [""])
    return TokenScores(tuple(words), method == "from_2_way_softmax", last, tensors)
