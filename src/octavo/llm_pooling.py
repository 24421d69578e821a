"""What `LLM` does with models that embed, classify and score texts, with vLLM's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from octavo.engine.inputs import split_prompts
from octavo.engine.loading import LoadedModel
from octavo.engine.pooling import (
    NOTHING_SAMPLED,
    classification_output,
    embedding_output,
    pooler_of,
    pooling_output,
    read_pooled,
)
from octavo.engine.scoring import scoring_of
from octavo.errors import PromptError
from octavo.lora.request import refuse_lora
from octavo.pooling_params import PoolingParams
from octavo.request import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    PoolingRequestOutput,
    RequestOutput,
    ScoringRequestOutput,
)
from octavo.sampling_params import SamplingParams

Params = TypeVar("Params", SamplingParams, PoolingParams)


class PoolsTexts:
    """The methods of `LLM` that pool texts."""

    model: LoadedModel

    def _run(
        self, prompts: Sequence[Any], params: Sequence[SamplingParams], priorities: Sequence[int], use_tqdm: bool
    ) -> list[RequestOutput]:
        raise NotImplementedError

    def embed(
        self,
        prompts: Any,
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        lora_request: None = None,
        prompt_name: str | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """A vector of each text, in their order: `outputs.embedding`, a list of numbers.

        `prompts` are those of `generate`. `prompt_name` names what the model puts before a text, such as "query"; where
        it says a default, that is put there without.

        Raises RequestError where the model generates texts, ParameterError for bad parameters, and for a single prompt
        its error. Of a list, only those fail that can't be carried out: they have `error` set, and no numbers.
        """
        given = pooling_params
        found = self._pool(prompts, given, "embed", truncate_prompt_tokens, use_tqdm, lora_request, prompt_name)
        return [embedding_output(output) for output in found]

    def encode(
        self,
        prompts: Any,
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
        lora_request: None = None,
        pooling_task: str | None = None,
    ) -> list[PoolingRequestOutput]:
        """Like `embed` and `classify`, but `outputs.data` is an array; it has a row for each token with "token_embed"
        and "token_classify". Without `pooling_task` it is what the model does first.
        """
        return self._pool(prompts, pooling_params, pooling_task, truncate_prompt_tokens, use_tqdm, lora_request)

    def classify(
        self,
        prompts: Any,
        *,
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
        lora_request: None = None,
    ) -> list[ClassificationRequestOutput]:
        """The probabilities of each text's labels, in their order: `outputs.probs`, `outputs.num_classes`.

        A pair of texts is {"prompt": …, "text_pair": …}. With `use_activation=False` they are the scores themselves.
        Raises what `embed` raises, ParameterError where the model has no head for that.
        """
        found = self._pool(prompts, pooling_params, "classify", truncate_prompt_tokens, use_tqdm, lora_request)
        return [classification_output(output) for output in found]

    def reward(
        self,
        prompts: Any,
        *,
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
        lora_request: None = None,
    ) -> list[PoolingRequestOutput]:
        """What a reward model says of each token, [tokens, labels], or of each step; or, with one score, of the text.

        Scores are not made probabilities, but those of steps; see `use_activation`. Raises what `classify` raises.
        """
        pooler, given = pooler_of(self.model), pooling_params
        task = "classify" if "classify" in pooler.tasks else "token_classify"
        if given is None and task == "classify":
            given = PoolingParams(use_activation=False)
        return self._pool(prompts, given, task, truncate_prompt_tokens, use_tqdm, lora_request)

    def score(
        self,
        data_1: Any,
        data_2: Any,
        /,
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
        pooling_params: PoolingParams | None = None,
        lora_request: None = None,
        prompt_names: tuple[str | None, str | None] = (None, None),
    ) -> list[ScoringRequestOutput]:
        """How well texts go together, in `outputs.score`: what a model that reads pairs says, or the cosine of vectors.

        One text is compared with each of several, or as many with as many, in their order. `prompt_names` name what the
        model puts before the first texts, and before the second ones. Raises what `embed` raises, PromptError where the
        numbers of texts do not fit, ParameterError where the model has several labels.
        """
        refuse_lora(lora_request)
        (first, _), (second, _) = split_prompts(data_1), split_prompts(data_2)
        params = pooling_params or PoolingParams()
        if truncate_prompt_tokens is not None:
            params = replace(params, truncate_prompt_tokens=truncate_prompt_tokens)
        scoring = scoring_of(self.model, first, second, params, prompt_names)
        reads = [partial(scoring.read, item) for item in scoring.items]
        return scoring.scores(self._run(reads, [NOTHING_SAMPLED] * len(reads), [0] * len(reads), use_tqdm))

    def _pool(
        self,
        prompts: Any,
        given: PoolingParams | Sequence[PoolingParams] | None,
        task: str | None,
        truncate: int | None,
        use_tqdm: bool,
        lora_request: None,
        prompt_name: str | None = None,
    ) -> list[PoolingRequestOutput]:
        refuse_lora(lora_request)
        items, single = split_prompts(prompts)
        pooler = pooler_of(self.model)
        params = for_each(items, given or PoolingParams(), PoolingParams, "pooling_params")
        texts = [pooler.prompted(item, prompt_name) for item in items]
        asked = [replace(one, task=one.task or task) for one in params]
        for one in asked:
            pooler.check(one)
        if truncate is not None:
            asked = [replace(one, truncate_prompt_tokens=truncate) for one in asked]
        reads = [partial(read_pooled, text, one, self.model) for text, one in zip(texts, asked, strict=True)]
        outputs = self._run(reads, [NOTHING_SAMPLED] * len(items), [0] * len(items), use_tqdm)
        if single and outputs[0].error is not None:
            raise outputs[0].error
        return [pooling_output(output) for output in outputs]


def for_each(prompts: Sequence[Any], given: Params | Sequence[Params], kind: type[Params], name: str) -> list[Params]:
    """Parameters for each prompt, of one for all or of as many."""
    if isinstance(given, kind):
        return [given] * len(prompts)
    assert isinstance(given, Sequence)
    if len(given) != len(prompts):
        raise PromptError(f"{len(given)} {name} were given for {len(prompts)} prompts")
    return list(given)
