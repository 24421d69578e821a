"""The job of an embedding: it keeps the rows of a text until all are there, and makes a vector of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from octavo.engine.completion import Completion
from octavo.engine.inputs import check_pair, read_pair
from octavo.engine.job import Job, Share
from octavo.engine.loading import LoadedModel
from octavo.engine.pair_template import PairTemplate, as_messages, knows_pairs
from octavo.engine.pooler import Pooler
from octavo.errors import NumericalError, PromptTooLongError, RequestError
from octavo.executor.base import StepResult
from octavo.pooling_params import PoolingParams
from octavo.request import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    Prompt,
    Request,
    RequestOutput,
    Sequence,
)
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.scheduler.scheduler import Scheduler
from octavo.text.chat import ChatEncoder
from octavo.text.tokenizer import Tokenizer
from octavo.weights.head import Floats

NOTHING_SAMPLED = SamplingParams(max_tokens=1, output_kind=RequestOutputKind.FINAL_ONLY)


class PoolingJob(Job):
    """One text. Raises RequestError where the model generates texts, ParameterError for what it has not."""

    def __init__(self, params: PoolingParams, request: Request, model: LoadedModel, seed: int):
        super().__init__(request, model)
        self.params, self.pooler, self.output_of_graph = params, pooler_of(model), model.graph.output
        self.pooler.check(params)
        request.needs_all_rows, request.is_drawn = self.pooler.needs_all_rows(params), False
        self.rows: list[Floats] = []
        self.vectors: Floats | None = None
        self.reason: str | None = None

    @property
    def finished(self) -> bool:
        return self.has_tokens or self.reason is not None

    @property
    def has_tokens(self) -> bool:
        return self.vectors is not None

    def draws(self, sequence: Sequence) -> list[Sequence]:
        return []

    def land(self, scheduler: Scheduler, share: Share, result: StepResult, tokens: list[int]) -> None:
        for chunk, rows in share.prompts:
            if chunk.start == 0:  # also where a preempted text begins anew
                self.rows.clear()
            self.rows.append(self._rows_of(result)[rows.start : rows.stop].copy())
        for _, row in share.ends:
            found = self.rows if self.request.needs_all_rows else [self._rows_of(result)[row : row + 1]]
            vectors = self.pooler.vectors(np.concatenate(found), self.params, self.request.prompt.token_ids)
            if not np.isfinite(vectors).all():
                raise NumericalError
            self.vectors = vectors
            self.rows.clear()

    def stop(self, reason: str) -> None:
        self.reason = reason

    def completions(self) -> list[Completion]:
        return []

    def output(self, finished: bool, delta: bool) -> RequestOutput:
        found = super().output(finished, delta)
        if self.vectors is None:
            return found
        return replace(found, details=PoolingOutput(self.vectors))

    def _rows_of(self, result: StepResult) -> Floats:
        return result.hidden_states if self.output_of_graph == "hidden_states" else result.logits


def pooler_of(model: LoadedModel) -> Pooler:
    """Raises RequestError where the model generates texts."""
    if model.pooler is None:
        reason = "load it with task='embed' to embed them; what classifies or scores has a head in place of logits"
        raise RequestError(f"the model {model.name} generates texts; {reason}")
    return model.pooler


def pooled(prompt: Prompt, params: PoolingParams, model: LoadedModel) -> Prompt:
    """The prompt of a text that is to become a vector, cut as `params` say."""
    longest, ids = longest_of(params, model), prompt.token_ids
    if longest is not None:
        ids = truncated(ids, longest, model.tokenizer) if prompt.text is not None else ids[:longest]
    job, second = partial(PoolingJob, params), prompt.second_start
    return Prompt(prompt.text, ids, cache_salt=prompt.cache_salt, job=job, second_start=second)


def pooled_pair(first: Any, second: Any, params: PoolingParams, model: LoadedModel) -> Prompt:
    """The prompt of two texts that the model reads together, likewise. Raises PromptError for what are no texts."""
    longest, form = longest_of(params, model), pooler_of(model).pair_form
    chat = model.chat_template
    check_pair(first, second)
    if form == "messages" and chat is not None and knows_pairs(chat):
        pair = Prompt(None, as_messages(first, second, ChatEncoder(model.tokenizer, chat), longest))
    elif form == "question":
        question = pooler_of(model).question or PairTemplate()
        pair = Prompt(None, question.encode(first, second, model.tokenizer, longest))
    else:
        pair = read_pair(first, second, model.tokenizer, longest)
    return pooled(pair, replace(params, truncate_prompt_tokens=None), model)


def read_pooled(prompt: Any, params: PoolingParams, model: LoadedModel) -> Prompt:
    """The prompt of a text or of a pair of texts, as users write them. Raises PromptError."""
    if isinstance(prompt, Mapping) and prompt.get("text_pair") is not None:
        return pooled_pair(prompt.get("prompt"), prompt["text_pair"], params, model)
    return pooled(model.reader.read(prompt), params, model)


def longest_of(params: PoolingParams, model: LoadedModel) -> int | None:
    """To how many tokens texts are cut, if they are. Raises PromptTooLongError for more than the model reads."""
    longest = model.max_model_len if params.truncate_prompt_tokens == -1 else params.truncate_prompt_tokens
    if longest is not None and longest > model.max_model_len:
        raise PromptTooLongError(longest, model.max_model_len, 0)
    return longest


def pooling_output(output: RequestOutput) -> PoolingRequestOutput:
    """As `LLM.encode` returns it; without numbers where there is an error."""
    found = output.details if output.error is None else PoolingOutput(np.zeros(0, np.float32))
    return PoolingRequestOutput(
        output.request_id, found, output.prompt_token_ids, output.num_cached_tokens or 0, True, output.error
    )


def embedding_output(output: PoolingRequestOutput) -> EmbeddingRequestOutput:
    """As `LLM.embed` returns it."""
    rest = output.prompt_token_ids, output.num_cached_tokens, output.finished, output.error
    return EmbeddingRequestOutput(output.request_id, EmbeddingOutput(output.outputs.data.tolist()), *rest)


def classification_output(output: PoolingRequestOutput) -> ClassificationRequestOutput:
    """As `LLM.classify` returns it."""
    rest = output.prompt_token_ids, output.num_cached_tokens, output.finished, output.error
    return ClassificationRequestOutput(output.request_id, ClassificationOutput(output.outputs.data.tolist()), *rest)


def truncated(ids: list[int], longest: int, tokenizer: Tokenizer) -> list[int]:
    """At most so many of a text's tokens: the special ones that a tokenizer puts at the end stay there."""
    if len(ids) <= longest:
        return ids
    count = 0
    while count < min(longest, len(ids)) and ids[-1 - count] in tokenizer.special_ids:
        count += 1
    return ids[: longest - count] + ids[len(ids) - count :]
