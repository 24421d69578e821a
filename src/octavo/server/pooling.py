"""Requests about whole texts: read, run, and counted; routers write what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from octavo.engine.classifier import Classifier
from octavo.engine.inputs import check_prompt
from octavo.engine.loading import LoadedModel
from octavo.engine.pooling import NOTHING_SAMPLED, pooled, pooler_of
from octavo.engine.prompts import prompt_for
from octavo.engine.scoring import scoring_of
from octavo.errors import ParameterError, PromptError
from octavo.request import Prompt, RequestOutput
from octavo.server.admission import admit
from octavo.server.answering import answer_head
from octavo.server.generation import Generation
from octavo.server.instance import ModelInstance, read_with
from octavo.server.protocol.pooling import InputRequest, PoolingFields
from octavo.server.state import state_of

Json = dict[str, Any]
Read = Callable[[], Prompt]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a request's prompts have become, in their order."""

    model: ModelInstance
    outputs: list[RequestOutput]
    head: Json  # what the answer begins with
    num_tokens: int

    @property
    def labels(self) -> tuple[str, ...]:
        """What its classes are called, of a model that classifies."""
        pooler = self.model.engine.model.pooler
        assert isinstance(pooler, Classifier)
        return pooler.labels

    @property
    def usage(self) -> Json:
        return {"prompt_tokens": self.num_tokens, "total_tokens": self.num_tokens}


async def run_texts(
    request: Request,
    body: InputRequest,
    skill: str,
    kind: str,
    prompt_name: str | None = None,
    input_type: str | None = None,
) -> Ran:
    """Runs each text of `body.input` by itself; `kind` is what the answer's id begins with.

    Before texts comes the prompt of `prompt_name`, or that which the model has for texts of `input_type`.
    Raises PromptError, which names the text that is wrong, ParameterError or HttpError.
    """
    items = body.items
    model = await _model(request, body, skill, {"input": items})
    loaded, params = model.engine.model, body.params()
    pooler = pooler_of(loaded)
    pooler.check(params)
    texts = [pooler.prompted(item, prompt_name or (input_type and prompt_for(loaded, input_type))) for item in items]
    if isinstance(texts[0], str):
        field = "input" if params.truncate_prompt_tokens is None else None
        read = await model.read_texts(texts, body.add_special_tokens is not False, field)
    else:
        read = [model.read_ids(ids) for ids in texts]
    reads: list[Read] = [lambda prompt=prompt: pooled(prompt, params, loaded) for prompt in read]  # type: ignore[misc]
    prompts = _prompts(loaded, zip(places_of("input", len(read)), reads, strict=True))
    return await _run(request, body, model, kind, prompts)


async def run_pairs(
    request: Request,
    body: PoolingFields,
    kind: str,
    texts: Mapping[str, Sequence[str]],
    is_search: bool,
    longest: tuple[int | None, int | None] = (None, None),
) -> tuple[Ran, list[float]]:
    """The scores of pairs: `texts` are the first ones and the second ones, by the names of their fields.

    They are cut to `longest` tokens. With `is_search` the first ones are queries, and the second ones documents, to
    models with prompts for those.
    """
    model = await _model(request, body, "score", texts)
    loaded, params = model.engine.model, body.params()
    first, second = texts.values()
    if params.truncate_prompt_tokens is None:
        for (name, some), most in zip(texts.items(), longest, strict=True):
            if most is None:
                model.check_texts(name, some)
    prompts = (prompt_for(loaded, "query"), prompt_for(loaded, "document")) if is_search else (None, None)
    scoring = scoring_of(loaded, first, second, params, prompts, longest)
    fields = [places_of(name, len(some)) for name, some in texts.items()]
    places = [fields[0][item.first or 0] if item.second is None else fields[1][item.second] for item in scoring.items]

    def read_all() -> list[Prompt]:
        reads: list[Read] = [lambda item=item: scoring.read(item) for item in scoring.items]  # type: ignore[misc]
        return _prompts(loaded, zip(places, reads, strict=True))

    read = await read_with(read_all, sum(len(text) for some in texts.values() for text in some))
    ran = await _run(request, body, model, kind, read)
    return ran, [output.outputs.score for output in scoring.scores(ran.outputs)]


def places_of(name: str, number: int) -> list[str]:
    """What the texts of a field are called."""
    return [name] if number == 1 else [f"{name}[{i}]" for i in range(number)]


async def _model(
    request: Request, body: PoolingFields, skill: str, fields: Mapping[str, Sequence[Any]]
) -> ModelInstance:
    """The model, where the texts of these fields are not too many, and none of them is empty."""
    server = state_of(request)
    model = await server.control.find(body.model, skill)
    for name, texts in fields.items():
        if len(texts) > (most := server.config.max_prompts):
            raise ParameterError(name, len(texts), f"at most {most} texts (--max-prompts)")
        for place, text in zip(places_of(name, len(texts)), texts, strict=True):
            if text == "":
                raise PromptError(f"{place} is empty; a text must have at least one character")
    return await admit(server, model, request, 1)


def _prompts(model: LoadedModel, reads: Iterable[tuple[str, Read]]) -> list[Prompt]:
    """What is read; the PromptError of a bad one begins with its place."""
    prompts = []
    for place, read in reads:
        try:
            prompts.append(read())
            check_prompt(prompts[-1].token_ids, model.vocab_size, model.max_model_len, room=0)
        except PromptError as error:
            error.args = (f"{place}: {error}",)
            raise
    return prompts


async def _run(request: Request, body: PoolingFields, model: ModelInstance, kind: str, prompts: list[Prompt]) -> Ran:
    generation = Generation(state_of(request), model, request, prompts, NOTHING_SAMPLED, None, body.priority)
    async with generation:
        outputs = await generation.finished()
    head = answer_head(kind, "list", request, body.request_id, body.model or model.id)
    return Ran(model, outputs, head, generation.num_prompt_tokens)
