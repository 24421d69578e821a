"""How the rows of a text become its vector, and which models are asked for vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.config import ADAPTED_TASKS, EngineConfig
from octavo.errors import ConfigError, ModelLoadError, ParameterError
from octavo.models import declared
from octavo.models.base import CausalLM
from octavo.pooling_params import PoolingParams
from octavo.weights import Checkpoint
from octavo.weights.adapters import adaptations, with_adapters

if TYPE_CHECKING:
    from octavo.weights.sentence_transformers import Dense, Modules

Floats = np.ndarray[Any, np.dtype[np.float32]]
# A text's rows [tokens, columns] as one [1, columns]; each sums in one order, whoever else is in the step.
POOLINGS: Mapping[str, Callable[[Floats], Floats]] = {
    "cls": lambda rows: rows[:1],
    "last": lambda rows: rows[-1:],
    "max": lambda rows: rows.max(axis=0, keepdims=True),
    "mean": lambda rows: _sum(rows) / np.float32(len(rows)),
    "mean_sqrt_len": lambda rows: _sum(rows) / np.sqrt(np.float32(len(rows))),
    "weighted_mean": lambda rows: _sum(rows * _places(rows)) / _sum(_places(rows)),
}


@dataclass(frozen=True, slots=True)
class Pooler:
    """One of POOLINGS, then products with matrices, then, as the request wants it, fewer columns and the length 1.

    A model that was trained so that its first columns are a vector, too, says so by `dimensions`: those that may be
    asked for, or all with an empty list (matryoshka, Kusupati et al. 2022).
    """

    pooling: str
    columns: int  # of the rows
    dense: tuple[Dense, ...] = ()
    normalizes: bool = True
    dimensions: tuple[int, ...] | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)  # what may be put before a text, by names
    default_prompt: str | None = None

    @classmethod
    def of(cls, pooling: str, columns: int, modules: Modules | None, checkpoint: Checkpoint) -> Pooler:
        """As the modules of sentence-transformers say; without them, `pooling` and vectors as long as 1, as in vLLM.

        Raises ModelLoadError where a module takes rows of another width.
        """
        config, width = checkpoint.config, columns
        for i, dense in enumerate(modules.dense if modules else ()):
            if dense.weight.shape[1] != width:
                reason = f"takes {dense.weight.shape[1]} columns, but what is before it has {width}"
                raise ModelLoadError(checkpoint.path / "modules.json", f"Dense {i}", reason)
            width = len(dense.weight)
        sizes = config.get("matryoshka_dimensions")
        known = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
        dimensions = tuple(sizes) if known and sizes else () if config.get("is_matryoshka") is True else None
        if modules is None:
            return cls(pooling, columns, dimensions=dimensions)
        how = modules.dense, modules.normalizes, dimensions, modules.prompts, modules.default_prompt
        return cls(modules.pooling, columns, *how)

    def check(self, params: PoolingParams) -> None:
        """Raises ParameterError for dimensions that the model was not trained for."""
        asked, width = params.dimensions, len(self.dense[-1].weight) if self.dense else self.columns
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
        return params.task == "token_embed" or self.pooling != "last"

    def vectors(self, rows: Floats, params: PoolingParams) -> Floats:
        """[1, dimensions] of the rows of a text, [tokens, columns]; or [tokens, dimensions] for "token_embed"."""
        x = rows if params.task == "token_embed" else POOLINGS[self.pooling](rows)
        for dense in self.dense:
            x = x @ dense.weight.T + (0 if dense.bias is None else dense.bias)
            x = np.tanh(x) if dense.activation == "Tanh" else x
        x = x[:, : params.dimensions]
        if self.normalizes if params.normalizes is None else params.normalizes:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return np.asarray(x, np.float32)


def _sum(rows: Floats) -> Floats:
    return np.asarray(rows.sum(axis=0, keepdims=True, dtype=np.float64), np.float32)


def _places(rows: Floats) -> Floats:
    return np.arange(1, len(rows) + 1, dtype=np.float32)[:, None]


def embedder(config: EngineConfig, checkpoint: Checkpoint) -> tuple[Checkpoint, Modules | None, bool]:
    """The checkpoint as its declaration knows it, what follows the model in its folder, and whether it is to embed.

    Decoders embed where `task` says it, where modules.json says how, or where a checkpoint is of a model without the
    logits, as "Qwen3Model". Raises ModelLoadError, or ConfigError for a task that the model has no adapters for.
    """
    if config.task not in ("auto", "embed", *ADAPTED_TASKS):
        return checkpoint, None, False
    modules = None
    if (checkpoint.path / "modules.json").is_file():
        from octavo.weights.sentence_transformers import read_modules  # only such folders need it

        modules = read_modules(checkpoint.path)
    elif checkpoint.metadata is not None:
        from octavo.weights import gguf_modules

        checkpoint, modules = gguf_modules.read_modules(checkpoint)
    if config.task in ADAPTED_TASKS or adaptations(checkpoint.config):
        checkpoint, task = with_adapters(checkpoint, config.task if config.task in ADAPTED_TASKS else None)
        modules = modules and modules.for_task(task)
    said = checkpoint.config.get("architectures")
    name = said[0] if isinstance(said, list) and said and isinstance(said[0], str) else ""
    whole = f"{name.removesuffix('Model')}ForCausalLM"
    is_part = name.endswith("Model") and declared(name) is None and declared(whole) is not None
    if is_part:
        checkpoint = replace(checkpoint, config={**checkpoint.config, "architectures": [whole]})
    return checkpoint, modules, config.task != "auto" or is_part or modules is not None


def check_embeds(config: EngineConfig, model: CausalLM) -> None:
    """Raises ConfigError where a model that does nothing else is to do something else."""
    if model.pooling is not None and config.task not in ("auto", "embed", *ADAPTED_TASKS):
        raise ConfigError("task", config.task, "this model embeds texts; say embed, or leave it out")
