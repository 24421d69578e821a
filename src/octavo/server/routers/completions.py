"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.request import CompletionOutput, Prompt, RequestOutput
from octavo.server.answering import Writer, answer
from octavo.server.instance import ModelInstance, read_with
from octavo.server.protocol.answers import Completion
from octavo.server.protocol.completions import CompletionRequest
from octavo.server.protocol.logprobs import CompletionLogprobs, prompt_logprobs_json
from octavo.server.schema import endpoint
from octavo.server.writing import dumps
from octavo.text.fill_in_the_middle import Form, infill_ids

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", **endpoint(CompletionRequest, Completion, streams=True))
async def create_completion(request: Request) -> Response:
    """Continues one prompt or many."""
    return await answer(request, CompletionRequest, _Writer)


async def _infilled(
    model: ModelInstance, form: Form, prefixes: list[Prompt], suffix: str, special: bool
) -> list[Prompt]:
    """The prompts for what is between each prefix and the suffix. Raises HttpError or PromptError."""
    model.check_texts("suffix", [suffix])
    tokenizer = model.engine.model.tokenizer

    def make() -> list[Prompt]:
        return [Prompt(one.text, infill_ids(form, tokenizer, one.token_ids, suffix, special)) for one in prefixes]

    return await read_with(make, len(suffix))


class _Writer(Writer[CompletionRequest]):
    ID, WHOLE, CHUNK = "cmpl", "text_completion", "text_completion"

    def __init__(self, *args: Any):
        super().__init__(*args)
        body, tokenizer = self.body, self.tokenizer
        self._logprobs = {index: CompletionLogprobs(tokenizer, body.logprobs, body) for index in self.open_choices}

    @staticmethod
    async def read(model: ModelInstance, body: CompletionRequest) -> list[Prompt]:
        """The prompts are all texts or all token ids; with `echo`, ids are texts too."""
        form = body.infill(model.engine.model)
        special, are_texts = body.add_special_tokens is not False, isinstance(body.prompts[0], str)
        if are_texts:
            field = None if body.truncate_prompt_tokens else "prompt"
            read = await model.read_texts(body.prompts, special and form is None, field)  # type: ignore[arg-type]
        else:
            read = [model.read_ids(ids) for ids in body.prompts]  # type: ignore[arg-type]
        if form is not None:
            return await _infilled(model, form, read, body.suffix or "", special)
        if are_texts:
            return read
        if body.echo:
            decode = model.engine.model.tokenizer.decode
            read = [Prompt(decode(prompt.token_ids), prompt.token_ids) for prompt in read]
        return read

    def more(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        if self.body.max_tokens == 0:
            self.generation.num_output_tokens = 0
        return {}

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        choice = self._told(place * self.num_choices + completion.index, output, completion)
        asked = self.body.prompt_logprobs is not None
        return {
            **choice,
            "token_ids": choice.get("token_ids"),
            "prompt_token_ids": choice.get("prompt_token_ids"),
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs) if asked else None,
        }

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        tells_tokens = completion.logprobs is not None or self.body.return_token_ids
        if completion.text or (tells_tokens and completion.token_ids) or completion.finish_reason:
            yield self.chunk(dumps(self._told(index, output, completion)))

    def _told(self, index: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        """What a choice says of a completion, or of what is new of it; of its prompt where it begins."""
        body, prompt = self.body, output.prompt_token_ids
        text, tokens, positions = completion.text, completion.token_ids, completion.logprobs
        reason = completion.finish_reason
        if body.max_tokens == 0:  # the one token that was made is not shown
            text, tokens, positions, reason = "", [], positions and [], reason and "length"
        begins = self.begins(index)
        echoes = bool(body.echo) and begins
        written = None
        if positions is not None:
            echoed = (prompt, output.prompt_logprobs or []) if echoes else ([], [])
            written = self._logprobs[index].write([*echoed[0], *tokens], [*echoed[1], *positions])
        choice = {
            "index": index,
            "text": (output.prompt or "") + text if echoes else text,
            "logprobs": written,
            "finish_reason": reason,
            "stop_reason": completion.stop_reason,
        }
        if body.return_token_ids:
            choice["token_ids"] = tokens
            if begins:
                choice["prompt_token_ids"] = prompt
        return choice
