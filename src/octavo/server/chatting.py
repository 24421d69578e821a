"""What all APIs that answer conversations have in common: the prompt, and the parts of each choice as they come."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request

from octavo.chat_formats.parts import Answer, AnswerReader, Part
from octavo.engine.completion import num_tokens_of
from octavo.request import CompletionOutput, Prompt
from octavo.sampling_params import SamplingParams
from octavo.server.answering import Writer, compiled
from octavo.server.instance import ModelInstance
from octavo.server.protocol.chat import ChatFields
from octavo.structured.grammar import Grammar, SpecialTokens

Body = TypeVar("Body", bound=ChatFields)


class ChatWriter(Writer[Body]):
    """Writes the answers of one API to conversations, which are read as chat completions."""

    def __init__(self, request: Request, *args: Any):
        super().__init__(request, *args)
        self._use = self.body.tool_use
        self._readers: dict[int, AnswerReader] = {}  # by choice
        self._tokens: dict[int, list[int]] = defaultdict(list)  # of each choice
        self.answers: dict[int, Answer] = defaultdict(Answer)  # all that was read of each choice

    @staticmethod
    async def read(model: ModelInstance, body: ChatFields) -> list[Prompt]:
        options = {**body.template_options(), "use": body.tool_use}
        return [await model.read_chat([each.plain() for each in messages], **options) for messages in body.prompts]

    @staticmethod
    def params(model: ModelInstance, body: ChatFields) -> SamplingParams:
        params = body.params(model.engine.model)
        if body.skip_special_tokens is None and model.chat.sees_special_tokens(body.tool_use):
            params = replace(params, skip_special_tokens=False)
        return params

    @staticmethod
    async def limited(model: ModelInstance, body: ChatFields, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts with what their answers may be: calls fit their tools, and structure begins after thinking."""
        limit = _Limit(model, body)
        return [await limit.applied(prompt) for prompt in prompts] if limit.is_there else prompts

    def parts(self, index: int, completion: CompletionOutput) -> list[Part]:
        """What is new of choice `index`."""
        if (reader := self._readers.get(index)) is None:
            reader = self._readers[index] = self._new_reader(index)
        self._tokens[index] += completion.token_ids
        parts = reader.feed(completion.text)
        if (reason := completion.finish_reason) is not None:
            parts += reader.end(is_cut=reason != "stop")
            self.generation.num_reasoning_tokens += self._num_thought(index, reader.num_thought)
        self.answers[index].add(parts)
        return parts

    def finish_reason(self, index: int, completion: CompletionOutput) -> str | None:
        """Why choice `index` ended, in the words of chat completions."""
        ended_by_itself = completion.finish_reason == "stop"
        return "tool_calls" if ended_by_itself and self.answers[index].calls else completion.finish_reason

    def _new_reader(self, index: int) -> AnswerReader:
        prompt = self.generation.prompts[index // self.num_choices]
        drops = self.body.skip_special_tokens is not False
        return self.generation.model.chat.reader(prompt.text or "", self._use, drops)

    def _num_thought(self, index: int, num_characters: int) -> int:
        """The tokens that so many first characters of choice `index` came from."""
        prompt = self.generation.prompts[index // self.num_choices]
        tokens = self._tokens.pop(index)
        params = self.generation.params
        return num_tokens_of(num_characters, tokens, self.tokenizer, prompt.token_ids, params)


class _Limit:
    """What a request says that answers must be."""

    def __init__(self, model: ModelInstance, body: ChatFields):
        self._model, self._body, self._use = model, body, body.tool_use
        self._asked, self._budget = body.grammar(), body.thinking_token_budget

    @property
    def is_there(self) -> bool:
        return self._asked is not None or bool(self._use.callable) or self._budget not in (None, -1)

    async def applied(self, prompt: Prompt) -> Prompt:
        """A prompt whose answer is limited. Raises GrammarError or ParameterError."""
        text, budget = prompt.text or "", None
        if self._budget is not None and self._budget >= 0:
            budget = self._model.chat.budget(text, self._budget)
        name = "tools" if self._asked is None else self._asked[0]
        grammar = await compiled(self._model, partial(self._grammar, text), name)
        return prompt.extended(grammar=replace(grammar, budget=budget))

    def _grammar(self, prompt: str, special: SpecialTokens) -> Grammar:
        body = self._asked[1](special) if self._asked else None
        return self._model.chat.grammar(prompt, self._use, special, body)
