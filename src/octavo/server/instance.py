"""A model as it was loaded once: its engine, how it reads prompts, and who uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

from octavo.async_llm import AsyncLLM
from octavo.chat_formats.format import ChatFormat
from octavo.config import EngineConfig
from octavo.engine.driver import EngineStats
from octavo.engine.inputs import read_prompt
from octavo.errors import ChatTemplateError, OctavoError
from octavo.request import Prompt
from octavo.server.errors import HttpError, UnavailableError
from octavo.server.limits import Queue
from octavo.server.metrics import ModelMetrics
from octavo.speech.model import SpeechModel
from octavo.text.chat import ChatEncoder
from octavo.text.chat_template import MISSING, text_size
from octavo.text.tokenizer import LONG_TEXT

_readers = ThreadPoolExecutor(2, "octavo-text")
T = TypeVar("T")


class ModelInstance:
    """What requests hold while they run, from `use` to `release`; a reload makes another one.

    `queue`, `background` and `metrics` are the model's, and stay when an instance goes.
    """

    def __init__(self, id: str, llm: AsyncLLM, queues: tuple[Queue, Queue], metrics: ModelMetrics):
        self.id, self.metrics = id, metrics
        self.queue, self.background = queues
        self.config: EngineConfig = llm.model.config
        self.held = llm.model.plan.total  # bytes of memory that it may take
        self.llm: AsyncLLM | None = llm
        self.is_open = True  # for further requests
        self.is_frozen = False  # whether collections of garbage pass it over
        self.num_users = 0
        self.closing: asyncio.Task[None] | None = None  # that gives its memory back
        self.active: set[Callable[[OctavoError], None]] = set()  # each ends a request that runs here
        self.released: Callable[[], None] = lambda: None  # called when the last user has gone
        self._idle = asyncio.Event()
        self._idle.set()
        self._chat: ChatFormat | None = None
        if llm.model.chat_template is not None:
            encoder = ChatEncoder(llm.model.tokenizer, llm.model.chat_template)
            self._chat = ChatFormat.of(encoder, self.config.tool_call_parser, self.config.reasoning_parser)

    @property
    def short_name(self) -> str:
        """The id without its folders, for those who may not know them."""
        return PurePath(self.id).name

    @property
    def engine(self) -> AsyncLLM:
        """Raises UnavailableError once it is closed."""
        if (llm := self.llm) is None:
            raise self.unloaded_error
        return llm

    @property
    def unloaded_error(self) -> UnavailableError:
        return UnavailableError(f"the model {self.id} was unloaded while it answered this", "model_unloaded", 1)

    @property
    def chat(self) -> ChatFormat:
        """How it reads and writes conversations. Raises ChatTemplateError if the model has no template."""
        if self._chat is None:
            raise ChatTemplateError(MISSING)
        return self._chat

    @property
    def chat_format(self) -> ChatFormat | None:
        return self._chat

    @property
    def skills(self) -> frozenset[str]:
        return skills_of(self.engine)

    def queue_of(self, is_background: bool) -> Queue:
        return self.background if is_background else self.queue

    def use(self) -> None:
        """One more uses it, who calls `release` once."""
        self.num_users += 1
        self._idle.clear()

    def release(self) -> None:
        self.num_users -= 1
        if not self.num_users:
            self._idle.set()
            self.released()

    async def wait_idle(self, seconds: float | None) -> bool:
        """Whether nobody uses it any more within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def stats(self) -> EngineStats:
        return EngineStats() if (llm := self.llm) is None else llm.driver.stats()  # a thread may close it now

    def close(self) -> None:
        """Ends its engine. Blocks; nothing of the model is held afterwards."""
        llm, self.llm, self._chat = self.llm, None, None
        self.held = 0
        if llm is not None:
            llm.close()

    async def read_chat(self, conversation: list[dict[str, Any]], **options: Any) -> Prompt:
        """The prompt of a conversation; `options` are those of ChatFormat.encode.

        A template is a program of whoever made the model, so it never runs on the event loop, however short the
        conversation is. Raises PromptError, or HttpError if it can't fit.
        """
        chat = self.chat
        self._check_length(sum(text_size(message["content"]) for message in conversation))
        rendered = await _read_elsewhere(lambda: chat.encode(conversation, **options))
        return Prompt(rendered.text, rendered.token_ids)

    async def read_texts(
        self, texts: list[str], add_special_tokens: bool = True, field: str | None = "prompt"
    ) -> list[Prompt]:
        """The texts of a request's `field`, which may be too long where that is None: then they are cut afterwards.

        Raises PromptError, or HttpError if a text can't fit.
        """
        if field is not None:
            self.check_texts(field, texts)
        read_all = partial(self.engine.model.tokenizer.encode_batch, texts, add_special_tokens)  # without the GIL
        read = await read_with(read_all, sum(map(len, texts)))
        return [Prompt(text, ids) for text, ids in zip(texts, read, strict=True)]

    def read_ids(self, token_ids: list[int]) -> Prompt:
        """Raises PromptError."""
        return read_prompt(token_ids, self.engine.model.tokenizer)

    def check_texts(self, name: str, texts: Sequence[str]) -> None:
        """Raises HttpError, which names the longest of a field's texts, if that can't fit."""
        place = max(range(len(texts)), key=lambda i: len(texts[i]))
        self._check_length(len(texts[place]), f"{name}[{place}]" if len(texts) > 1 else "the prompt")

    def _check_length(self, num_characters: int, what: str = "the prompt") -> None:
        """Raises HttpError for a text that is too long even if it were made of the longest tokens only."""
        model = self.engine.model
        room = model.max_model_len
        if num_characters <= 4 * room:  # it may fit
            return
        longest = model.tokenizer.longest_token
        if num_characters > longest * room:
            reason = (
                f"This model's maximum context length is {room} tokens, but {what} has {num_characters} "
                f"characters, which are at least {num_characters // longest} tokens"
            )
            raise HttpError(reason, code="context_length_exceeded")


def skills_of(llm: AsyncLLM) -> frozenset[str]:
    """What a loaded model can do, as requests ask for it."""
    speech = llm.model.reader
    if isinstance(speech, SpeechModel):
        return frozenset(("transcribe", "translate") if speech.tokens.is_multilingual else ("transcribe",))
    return frozenset(("text",) if llm.model.pooler is None else llm.model.pooler.skills)


async def read_with(read: Callable[[], T], num_characters: int) -> T:
    """What `read` makes of texts of so many characters; long ones are read on another thread."""
    return read() if num_characters < LONG_TEXT else await _read_elsewhere(read)


async def _read_elsewhere(function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_readers, function)
