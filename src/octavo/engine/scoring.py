"""Scores of pairs of texts: what is to be run for them, and what is made of the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from octavo.engine.loading import LoadedModel
from octavo.engine.pooling import pooled_pair, pooler_of, read_pooled
from octavo.errors import PromptError
from octavo.pooling_params import PoolingParams
from octavo.request import Prompt, RequestOutput, ScoringOutput, ScoringRequestOutput
from octavo.weights.head import Floats


class Item(NamedTuple):
    """What is run by itself: a text, or two that the model reads together, by their places among those given."""

    first: int | None  # None: the item is one of the second texts alone
    second: int | None


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scores of pairs of texts, by a model that reads both together, or makes a vector of each, or of its tokens.

    Whoever has it reads each of `items`, runs the prompts with `NOTHING_SAMPLED`, and gives the outputs, in that order,
    to `scores`. A text that is in several pairs is run once where the model reads it alone.
    """

    model: LoadedModel
    texts: tuple[Sequence[Any], Sequence[Any]]  # first ones and second ones
    params: PoolingParams
    items: tuple[Item, ...]
    pairs: tuple[tuple[int, ...], ...]  # places of the items that each score is made of
    prompt_names: tuple[str | None, str | None]  # of what is put before first texts and before second ones
    longest: tuple[int | None, int | None]  # they are cut to so many tokens, without that

    def read(self, item: Item) -> Prompt:
        """Raises PromptError."""
        kinds = zip(self.texts, item, self.prompt_names, self.longest, strict=True)
        texts = [self._whole(some[place], name, longest) for some, place, name, longest in kinds if place is not None]
        if len(texts) == 2:
            return pooled_pair(texts[0], texts[1], self.params, self.model)
        return read_pooled(texts[0], self.params, self.model)

    def _whole(self, text: Any, prompt_name: str | None, longest: int | None) -> Any:
        if longest is not None and isinstance(text, str):
            text = self.model.tokenizer.beginning(text, longest)
        return pooler_of(self.model).prompted(text, prompt_name)

    def scores(self, outputs: Sequence[RequestOutput]) -> list[ScoringRequestOutput]:
        """As `LLM.score` returns them; not a number, and an error, where a text of a pair has that."""
        return [self._score([outputs[place] for place in places]) for places in self.pairs]

    def _score(self, found: Sequence[RequestOutput]) -> ScoringRequestOutput:
        error, score = next((output.error for output in found if output.error is not None), None), math.nan
        if error is None:
            *before, last = (output.details.data for output in found)
            last = pooler_of(self.model).of_document(last, found[-1].prompt_token_ids)
            score = SCORES[self.params.task or "embed"](*before, last)
        ids = [token for output in found for token in output.prompt_token_ids]
        cached = sum(output.num_cached_tokens or 0 for output in found)
        return ScoringRequestOutput(found[-1].request_id, ScoringOutput(score), ids, cached, True, error)


def scoring_of(
    model: LoadedModel,
    first: Sequence[Any],
    second: Sequence[Any],
    params: PoolingParams | None = None,
    prompt_names: tuple[str | None, str | None] = (None, None),
    longest: tuple[int | None, int | None] = (None, None),
) -> Scoring:
    """Scores of one text and each of several, or of as many and as many, in their order.

    `prompt_names` name what the model puts before the first texts, and before the second ones; `longest` are the tokens
    to which these and those are cut. Raises PromptError where the numbers of texts do not fit, RequestError where the
    model generates texts, ParameterError for bad parameters and for a model that has several labels.
    """
    if len(first) not in (1, len(second)) or not second:
        raise PromptError(f"{len(first)} texts can't be compared with {len(second)}: give 1, or as many")
    pooler = pooler_of(model)
    params = replace(params or PoolingParams(), task=pooler.scores_by)
    pooler.check(params)
    for name in prompt_names:
        pooler.prompted("", name)
    how = (first, second), params
    if pooler.scores_by == "score":
        items = tuple(Item(i % len(first), i) for i in range(len(second)))
        return Scoring(model, *how, items, tuple((i,) for i in range(len(second))), prompt_names, longest)
    items = (*(Item(i, None) for i in range(len(first))), *(Item(None, i) for i in range(len(second))))
    pairs = tuple((i % len(first), len(first) + i) for i in range(len(second)))
    return Scoring(model, *how, items, pairs, prompt_names, longest)


def cosine(one: Floats, other: Floats) -> float:
    """Of two vectors."""
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-12))


def max_similarity(one: Floats, other: Floats) -> float:
    """The sum of what each token of `one`, [tokens, dimensions], has most in common with any of `other`.

    Source: ColBERT (Khattab and Zaharia 2020).
    """
    return float((np.asarray(one, np.float64) @ np.asarray(other, np.float64).T).max(axis=1).sum())


# By the task whose outputs, of one prompt or of two, a score is made of.
SCORES: Mapping[str, Callable[..., float]] = {
    "embed": cosine,
    "token_embed": max_similarity,
    "score": lambda scores: float(scores[0]),
}
