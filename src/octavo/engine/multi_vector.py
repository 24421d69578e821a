"""Models that make a vector of each token, to be compared token by token: ColBERT, and BGE-M3, which does more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from octavo.engine.pooler import Pooler
from octavo.errors import ModelLoadError
from octavo.pooling_params import PoolingParams
from octavo.request import TokenIds
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint
from octavo.weights.config_reader import ConfigReader
from octavo.weights.head import Dense, Floats, Stage

if TYPE_CHECKING:
    from octavo.weights.sentence_transformers import Modules

# Architectures that are a text encoder and linears over its rows, by the encoder's own.
ENCODERS = {
    "HF_ColBERT": "BertModel",
    "ColBERTModel": "BertModel",
    "ColBERTModernBertModel": "ModernBertModel",
    "ColBERTJinaRobertaModel": "XLMRobertaModel",
    "BgeM3EmbeddingModel": "XLMRobertaModel",
}
_COLBERT, _SPARSE = "colbert_linear", "sparse_linear"  # of BGE-M3
_PROJECTIONS = ("linear", "bert.linear", "model.linear", _COLBERT)  # of ColBERT


@dataclass(frozen=True, slots=True)
class TokenPooler(Pooler):
    """Stages over each token's row, and the length 1 (ColBERT, Khattab and Zaharia 2020)."""

    does: ClassVar[str] = "makes a vector of each token"
    shown_by: ClassVar[str] = "LLM.encode, LLM.score and /pooling"

    skipped_words: tuple[str, ...] = ()  # tokens that do not count in documents, such as commas
    skipped_ids: tuple[int, ...] = ()  # the same, once the tokenizer is known
    markers: tuple[str, ...] = ()  # what queries and documents begin with, which may be a token each

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("token_embed",)

    @property
    def skills(self) -> tuple[str, ...]:
        return ("score", "pool")

    @property
    def scores_by(self) -> str:
        return "token_embed"

    def completed(self, tokenizer: Tokenizer) -> TokenPooler:
        for marker in self.markers:
            tokenizer.keep_whole(marker)
        ids = (tokenizer.token_id(word) for word in self.skipped_words)
        return replace(self, skipped_ids=tuple(i for i in ids if i is not None))

    def of_document(self, vectors: Floats, token_ids: TokenIds) -> Floats:
        return vectors[~np.isin(np.asarray(token_ids), self.skipped_ids)]


@dataclass(frozen=True, slots=True)
class BgeM3Pooler(Pooler):
    """A vector of the text, one of each token, and a weight of each token (Chen et al. 2024)."""

    does: ClassVar[str] = "embeds texts, and weighs their tokens"
    shown_by: ClassVar[str] = "LLM.embed, LLM.encode and /pooling"

    colbert: tuple[Stage, ...] = ()
    sparse: tuple[Stage, ...] = ()
    ends: tuple[int, int] = (0, 2)  # the first and the last token of texts

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("embed", "token_embed", "token_classify", "embed&token_classify")

    def vectors(self, rows: Floats, params: PoolingParams, token_ids: TokenIds = ()) -> Floats:
        """[dimensions]; "token_embed": [tokens, dimensions], without the first token's; "token_classify": [tokens, 1],
        the weights of tokens but the first and the last; or the vector and behind it the weights.
        """
        task = self.task_of(params)
        inner = rows[1:] if len(token_ids) and token_ids[0] == self.ends[0] else rows
        if task == "token_embed":
            plain = replace(params, dimensions=None)
            return Pooler.vectors(replace(self, stages=self.colbert), inner, plain, token_ids)
        vector = Pooler.vectors(self, rows, replace(params, task="embed"), token_ids)
        if task == "embed":
            return vector
        inner = inner[:-1] if len(token_ids) and token_ids[-1] == self.ends[1] else inner
        weights = self.sparse[0](inner)
        weights = weights if params.normalizes is False else np.maximum(weights, 0)
        return weights if task == "token_classify" else np.concatenate([vector, weights[:, 0]])


def embedder_of(name: str, pooling: str, columns: int, modules: Modules | None, checkpoint: Checkpoint) -> Pooler:
    """The pooler of a model that embeds, whose architecture has that name in its configuration.

    Raises ModelLoadError for linears that are missing or misshapen.
    """
    tensors = checkpoint.tensors
    are_there = [f"{head}.weight" in tensors or _pickled(checkpoint, head).is_file() for head in (_COLBERT, _SPARSE)]
    if modules is not None and modules.pooling == "tokens":
        of_tokens = TokenPooler.of(pooling, columns, modules, checkpoint)
        return replace(of_tokens, skipped_words=modules.skipped_words, markers=modules.markers)
    if name == "BgeM3EmbeddingModel" or all(are_there):
        heads = (_linear(checkpoint, head, columns, rows) for head, rows in ((_COLBERT, columns), (_SPARSE, 1)))
        pooler = BgeM3Pooler.of(pooling, columns, modules, checkpoint)
        config = ConfigReader.of_file(checkpoint.config, checkpoint.path / "config.json")
        ends = config.integer("bos_token_id", 0, low=0), config.integer("eos_token_id", 2, low=0)
        colbert, sparse = ((head,) for head in heads)
        return replace(pooler, colbert=colbert, sparse=sparse, ends=ends)
    projection = next((found for found in _PROJECTIONS if f"{found}.weight" in tensors), None)
    if projection is not None or "ColBERT" in name:
        linear = _linear(checkpoint, projection or _PROJECTIONS[0], columns)
        return replace(TokenPooler.of("tokens", columns, None, checkpoint), stages=(linear,))
    return Pooler.of(pooling, columns, modules, checkpoint)


def _pickled(checkpoint: Checkpoint, name: str) -> Path:
    """Where BGE-M3's own folder has a linear."""
    return checkpoint.path / f"{name}.pt"


def _linear(checkpoint: Checkpoint, name: str, columns: int, rows: int | None = None) -> Dense:
    """Raises ModelLoadError where it is missing, or of another shape."""
    file, values = checkpoint.path, {}
    for part in ("weight", "bias"):
        if (stored := checkpoint.tensors.get(f"{name}.{part}")) is not None:
            file, values[part] = stored.file, stored.values()
    if not values and (pickled := _pickled(checkpoint, name)).is_file():
        from octavo.weights.torch_file import read_torch_file  # only such folders need it

        file, values = pickled, read_torch_file(pickled)
    weight, bias = values.get("weight"), values.get("bias")
    if weight is None:
        raise ModelLoadError(file, f"{name}.weight", f"is missing; it should have {columns} columns")
    shape = (rows or len(weight), columns)
    if weight.shape != shape or (bias is not None and bias.shape != shape[:1]):
        reason = f"has shape {weight.shape}, or its bias does not fit, where {shape} is expected"
        raise ModelLoadError(file, f"{name}.weight", reason)
    return Dense(weight, bias)
