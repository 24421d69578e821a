"""How the rows of a text become its vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from octavo.errors import ModelLoadError, ParameterError
from octavo.pooling_params import PoolingParams
from octavo.request import TokenIds
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint
from octavo.weights.head import Floats, Stage

if TYPE_CHECKING:
    from octavo.engine.pair_template import PairTemplate
    from octavo.weights.sentence_transformers import Modules

OF_TOKENS = ("token_embed", "token_classify")  # tasks with an output for each token
# A text's rows [tokens, columns] as one [1, columns]; each sums in one order, whoever else is in the step.
POOLINGS: Mapping[str, Callable[[Floats], Floats]] = {
    "cls": lambda rows: rows[:1],
    "last": lambda rows: rows[-1:],
    "max": lambda rows: rows.max(axis=0, keepdims=True),
    "mean": lambda rows: _sum(rows) / np.float32(len(rows)),
    "mean_sqrt_len": lambda rows: _sum(rows) / np.sqrt(np.float32(len(rows))),
    "weighted_mean": lambda rows: _sum(rows * _places(rows)) / _sum(_places(rows)),
    # Of logits of words: how much of each word a text is about (SPLADE, Formal et al. 2021).
    "splade_max": lambda rows: _saturated(rows.max(axis=0, keepdims=True)),
    "splade_sum": lambda rows: _sum(_saturated(rows)),
    "splade_max_log": lambda rows: np.log1p(_saturated(rows.max(axis=0, keepdims=True))),
    "splade_sum_log": lambda rows: _sum(np.log1p(_saturated(rows))),
}


def pool(pooling: str, rows: Floats) -> Floats:
    """[1, columns]: one of POOLINGS, or several, joined by +, side by side."""
    return np.concatenate([POOLINGS[name](rows) for name in pooling.split("+")], axis=1)


@dataclass(frozen=True, slots=True)
class Pooler:
    """What `pool` does, then stages of a head, then, as the request wants it, fewer columns and the length 1.

    A model that was trained so that its first columns are a vector, too, says so by `dimensions`: those that may be
    asked for, or all with an empty list (matryoshka, Kusupati et al. 2022).
    """

    does: ClassVar[str] = "embeds texts"
    shown_by: ClassVar[str] = "LLM.embed, octavo embed and /v1/embeddings"

    pooling: str
    columns: int  # of what is pooled
    stages: tuple[Stage, ...] = ()
    normalizes: bool = True
    dimensions: tuple[int, ...] | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)  # what may be put before a text, by names
    default_prompt: str | None = None
    pools_prompts: bool = True  # their rows are pooled, too
    prompt_starts: tuple[tuple[int, ...], ...] = ()  # of texts whose prompts are not; once the tokenizer is known
    lowers_case: bool = False  # texts become lower case

    @classmethod
    def of(cls, pooling: str, columns: int, modules: Modules | None, checkpoint: Checkpoint) -> Self:
        """As the modules of sentence-transformers say; without them, `pooling` and vectors as long as 1, as in vLLM.

        Raises ModelLoadError where a module takes rows of another width.
        """
        config = checkpoint.config
        width = columns = columns * (1 if modules is None else modules.pooling.count("+") + 1)
        for i, dense in enumerate(modules.dense if modules else ()):
            if dense.takes != width:
                reason = f"takes {dense.takes} columns, but what is before it has {width}"
                raise ModelLoadError(checkpoint.path / "modules.json", f"Dense {i}", reason)
            width = dense.columns
        sizes = config.get("matryoshka_dimensions")
        known = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
        dimensions = tuple(sizes) if known and sizes else () if config.get("is_matryoshka") is True else None
        if modules is None:
            return cls(pooling, columns, dimensions=dimensions)
        how = modules.dense, modules.normalizes, dimensions, modules.prompts, modules.default_prompt
        return cls(modules.pooling, columns, *how, modules.pools_prompts, lowers_case=modules.lowers_case)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of PoolingParams; the first unless one is said."""
        is_plain = "+" not in self.pooling and not self.pooling.startswith("splade")
        return ("embed", "token_embed") if is_plain else ("embed",)

    @property
    def skills(self) -> tuple[str, ...]:
        """What a server may ask of it."""
        return ("embed", "score", "pool")

    @property
    def scores_by(self) -> str:
        """The task whose outputs a score of two texts is made of; see `octavo.engine.scoring`."""
        return "embed"

    @property
    def pair_form(self) -> str:
        """How two texts that are read together are put: "" as the tokenizer has it, or as "question" or "messages"."""
        return ""

    @property
    def question(self) -> PairTemplate | None:
        """The words of a "question"; None: those of Qwen3-Reranker."""
        return None

    def of_document(self, vectors: Floats, token_ids: TokenIds) -> Floats:
        """Those that count where a document is compared with a query."""
        return vectors

    def completed(self, tokenizer: Tokenizer) -> Pooler:
        """With what only the tokenizer knows."""
        if self.pools_prompts:
            return self
        texts = sorted(self.prompts.values(), key=len, reverse=True)
        starts = (tokenizer.encode(text) for text in texts if text)
        return replace(self, prompt_starts=tuple(tuple(_without_end(ids, tokenizer)) for ids in starts))

    def task_of(self, params: PoolingParams) -> str:
        """Raises ParameterError for a task that the model has not."""
        if params.task not in (None, *self.tasks):
            raise ParameterError("task", params.task, f"one of {', '.join(self.tasks)}: the model {self.does}")
        return params.task or self.tasks[0]

    def check(self, params: PoolingParams) -> None:
        """Raises ParameterError for another task, and for dimensions that the model was not trained for."""
        self.task_of(params)
        asked, width = params.dimensions, self.stages[-1].columns if self.stages else self.columns
        if asked is None:
            return
        if self.dimensions is None:
            raise ParameterError("dimensions", asked, f"left out: the model has vectors of {width}, and was trained so")
        if asked > width or (self.dimensions and asked not in self.dimensions):
            those = ", ".join(map(str, self.dimensions)) or f"at most {width}"
            raise ParameterError("dimensions", asked, f"{those}, as the model was trained for")

    def prompted(self, text: Any, name: str | None = None) -> Any:
        """The text behind the prompt of that name, or behind the default one if there is that; token ids as they are.

        Raises ParameterError for a prompt that the model has not.
        """
        name = name or self.default_prompt
        if name is not None and name not in self.prompts:
            those = f"one of {', '.join(self.prompts)}" if self.prompts else "left out: the model has no prompts"
            raise ParameterError("prompt_name", name, those)
        return text if name is None or not isinstance(text, str) else self.prompts[name] + text

    def needs_all_rows(self, params: PoolingParams) -> bool:
        """Whether more than the row of a text's last token is needed."""
        return self.task_of(params) in OF_TOKENS or self.pooling != "last"

    def vectors(self, rows: Floats, params: PoolingParams, token_ids: TokenIds = ()) -> Floats:
        """[dimensions] of the rows of a text, [tokens, columns]; or [tokens, dimensions] for "token_embed".

        `token_ids` are those of the text.
        """
        of_tokens = self.task_of(params) in OF_TOKENS
        x = self.staged(rows if of_tokens else pool(self.pooling, rows[self.first_row(token_ids) :]))
        x = x[:, : params.dimensions]
        if self.normalizes if params.normalizes is None else params.normalizes:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return np.asarray(x if of_tokens else x[0], np.float32)

    def first_row(self, token_ids: TokenIds) -> int:
        """That is pooled: it is behind a prompt which is not, unless there is nothing else."""
        for start in self.prompt_starts:  # a prompt's last token may be another where a text follows
            if len(start) < len(token_ids) and tuple(token_ids[: len(start) - 1]) == start[:-1]:
                return len(start)
        return 0

    def staged(self, x: Floats) -> Floats:
        for stage in self.stages:
            x = stage(x)
        return x


def _sum(rows: Floats) -> Floats:
    return np.asarray(rows.sum(axis=0, keepdims=True, dtype=np.float64), np.float32)


def _places(rows: Floats) -> Floats:
    return np.arange(1, len(rows) + 1, dtype=np.float32)[:, None]


def _saturated(rows: Floats) -> Floats:
    return np.asarray(np.log1p(np.maximum(rows, 0)), np.float32)


def _without_end(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    return ids[:-1] if ids and ids[-1] in tokenizer.special_ids else ids
