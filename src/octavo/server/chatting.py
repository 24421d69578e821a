"""What all APIs that answer conversations have in common: the prompt, and the parts of each choice as they come."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

from starlette.requests import Request

from octavo.chat_formats.parts import Answer, AnswerReader, Part, PlainReader
from octavo.request import CompletionOutput, Prompt
from octavo.server.answering import Writer
from octavo.server.models import ServedModel
from octavo.server.protocol.chat import ChatFields

Body = TypeVar("Body", bound=ChatFields)


class ChatWriter(Writer[Body]):
    """Writes the answers of one API to conversations, which are read as chat completions."""

    def __init__(self, request: Request, *args: Any):
        super().__init__(request, *args)
        self._readers: dict[int, AnswerReader] = defaultdict(PlainReader)  # by choice
        self.answers: dict[int, Answer] = defaultdict(Answer)  # all that was read of each choice

    @staticmethod
    async def read(model: ServedModel, body: ChatFields) -> list[Prompt]:
        options = body.template_options()
        return [await model.read_chat([each.plain() for each in messages], **options) for messages in body.prompts]

    def parts(self, index: int, completion: CompletionOutput) -> list[Part]:
        """What is new of choice `index`."""
        reader = self._readers[index]
        parts = reader.feed(completion.text)
        if completion.finish_reason is not None:
            parts += reader.end()
        self.answers[index].add(parts)
        return parts

    def finish_reason(self, index: int, completion: CompletionOutput) -> str | None:
        """Why choice `index` ended, in the words of chat completions."""
        ended_by_itself = completion.finish_reason == "stop"
        return "tool_calls" if ended_by_itself and self.answers[index].calls else completion.finish_reason
