"""The models of a server: loaded on a thread of their own, found by any of their names."""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

from octavo.async_llm import AsyncLLM
from octavo.chat_formats.detect import check_parsers
from octavo.chat_formats.format import ChatFormat
from octavo.config import EngineConfig, log_notes
from octavo.engine.driver import EngineStats
from octavo.engine.inputs import read_prompt
from octavo.errors import ChatTemplateError, ConfigError, OctavoError
from octavo.plan.estimate import two_lines
from octavo.request import Prompt
from octavo.server.errors import HttpError, NotFoundError, UnavailableError
from octavo.server.limits import Queue
from octavo.server.metrics import ModelMetrics
from octavo.server.options import MOST, ModelSpec, ServerConfig
from octavo.speech.model import SpeechModel
from octavo.text.chat import ChatEncoder
from octavo.text.chat_template import MISSING, text_size
from octavo.text.tokenizer import LONG_TEXT
from octavo.weights.known import DEFAULT_MODEL, SHORT_NAMES

logger = logging.getLogger("octavo.server")
SHARE = 0.9  # all models together take this share of the free memory
_readers = ThreadPoolExecutor(2, "octavo-text")
T = TypeVar("T")
# What a model can do, as requests ask for it, and how that is said.
SKILLS = {
    "text": "answer text",
    "embed": "embed texts",
    "score": "score pairs of texts",
    "classify": "classify texts",
    "pool": "make vectors or classes of texts",
    "transcribe": "transcribe speech",
    "translate": "translate speech into English",
}


def served_names(spec: ModelSpec, reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that were given, a model's id first, and those that lead to it too unless another model has them."""
    given = dict.fromkeys((*(spec.names or (reference,)), *spec.aliases))
    path = PurePath(reference)
    # The last two parts of a path are often its name on the Hub; and tiny.en is openai/whisper-tiny.en.
    hub = ("/".join(path.parts[-2:]), SHORT_NAMES.get(path.name, reference))
    others = (reference, path.name, *hub, *(PurePath(name).name for name in given))
    return tuple(given), tuple(dict.fromkeys(name for name in others if name and name not in given))


class ServedModel:
    """One model: its names, its engine once it is loaded, its queue and its metrics."""

    def __init__(self, spec: ModelSpec, config: EngineConfig, server: ServerConfig):
        check_parsers(config.tool_call_parser, config.reasoning_parser)
        self.config = config
        self.names, self.implied_names = served_names(spec, config.model or DEFAULT_MODEL)
        self.tags = spec.tags
        self.created = int(time.time())
        self.phase = "waiting"
        self.llm: AsyncLLM | None = None
        self.queue: Queue = Queue(server.max_queued_requests, server.max_queued_tokens)
        self.background: Queue = Queue(MOST, MOST)  # of batches, which wait as long as they must
        self.metrics: ModelMetrics = ModelMetrics()
        self._chat: ChatFormat | None = None

    @property
    def id(self) -> str:
        return self.names[0]

    @property
    def short_name(self) -> str:
        """The id without its folders, for those who may not know them."""
        return PurePath(self.id).name

    @property
    def is_ready(self) -> bool:
        return self.llm is not None

    def can(self, skill: str) -> bool:
        """Whether it can do one of SKILLS; of a model that is not loaded nobody knows, so it may."""
        if self.llm is None:
            return True
        speech = self.llm.model.reader
        if not isinstance(speech, SpeechModel):
            pooler = self.llm.model.pooler
            return skill in (("text",) if pooler is None else pooler.skills)
        return skill == "transcribe" or (skill == "translate" and speech.tokens.is_multilingual)

    def queue_of(self, is_background: bool) -> Queue:
        return self.background if is_background else self.queue

    @property
    def engine(self) -> AsyncLLM:
        """Raises UnavailableError until the model is loaded."""
        self.check_loaded()
        assert self.llm is not None
        return self.llm

    def check_loaded(self) -> None:
        """Raises UnavailableError until the model is loaded."""
        if self.llm is None:
            raise UnavailableError(f"the model {self.id} is not loaded yet: {self.phase}", "model_loading", 1)

    @property
    def chat(self) -> ChatFormat:
        """How it reads and writes conversations. Raises ChatTemplateError if the model has no template."""
        if self._chat is None:
            raise ChatTemplateError(MISSING)
        return self._chat

    def load(self) -> None:
        """Blocks until the model is there. Raises what loading raises."""
        begin = time.monotonic()
        llm = AsyncLLM.from_config(self.config, self._report)
        if llm.model.chat_template is not None:
            encoder = ChatEncoder(llm.model.tokenizer, llm.model.chat_template)
            self._chat = ChatFormat.of(encoder, self.config.tool_call_parser, self.config.reasoning_parser)
            logger.info("model %s: %s", self.id, self._chat)
        self.queue.seats = self.background.seats = self.config.max_num_seqs
        self.llm, self.phase = llm, "ready"
        logger.info("model %s loaded in %.2f s", self.id, time.monotonic() - begin)
        for line in two_lines(llm.model, llm.model.plan):
            logger.info("model %s: %s", self.id, line)

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

    def stats(self) -> EngineStats:
        return EngineStats() if self.llm is None else self.llm.driver.stats()

    def _report(self, phase: str) -> None:
        self.phase = phase
        logger.info("model %s: %s", self.id, phase)


class ModelRegistry:
    """All models of a server. Raises ConfigError for bad options, or if two models share a name."""

    def __init__(self, specs: Sequence[ModelSpec], server: ServerConfig):
        share = {"gpu_memory_utilization": SHARE / len(specs)}
        resolved = [EngineConfig.resolve({**share, **spec.options}) for spec in specs]
        log_notes(note for _, notes in resolved for note in notes)
        self._models = [ServedModel(spec, config, server) for spec, (config, _) in zip(specs, resolved, strict=True)]
        self._by_name: dict[str, ServedModel] = {}
        for model in self._models:
            for name in model.names:
                if self._by_name.setdefault(name, model) is not model:
                    raise ConfigError("served_model_name", name, "two models have this name; give one another name")
        implied = Counter(name for model in self._models for name in model.implied_names)
        for model in self._models:
            for name in model.implied_names:
                if implied[name] == 1:
                    self._by_name.setdefault(name, model)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def find(self, name: str | None, skill: str | None = None) -> ServedModel:
        """The model that a request names, or the only one with the skill that it needs.

        Raises NotFoundError with the names there are, or HttpError with those that can do it.
        """
        able = [model for model in self._models if skill is None or model.can(skill)]
        chosen = [self._named(name)] if name else able
        if len(chosen) == 1 and chosen[0] in able:
            return chosen[0]
        names = ", ".join(model.id for model in able)
        if len(chosen) < 2:
            who = f"The model {chosen[0].id!r} can't" if chosen else "No model that is served can"
            others = f" Served models that can: {names}" if able else " No other model is served that can"
            reason = f"{who} {SKILLS[skill or 'text']}.{others if chosen else ''}"
            raise HttpError(reason, "model", code="model_not_suitable")
        for model in able if skill else ():
            model.check_loaded()
        reason = f"several models are served: say which in 'model': {names}"
        raise NotFoundError(reason, "model", status=400, code="missing_field")

    def _named(self, name: str) -> ServedModel:
        if name in self._by_name:
            return self._by_name[name]
        near = difflib.get_close_matches(name[:200], self._by_name, 1, 0.5)
        advice = f" Did you mean {near[0]!r}?" if near else ""
        served = ", ".join(model.id for model in self._models)
        reason = f"The model {name[:100]!r} does not exist.{advice} Served: {served}"
        raise NotFoundError(reason, "model", code="model_not_found")

    def load_all(self) -> None:
        """Loads one after another. Raises OctavoError, which ends it."""
        try:
            for model in self._models:
                model.load()
        except OctavoError:
            raise
        except Exception as error:
            logger.exception("loading failed")
            raise OctavoError(f"loading failed: {error}") from error

    def ailment(self) -> str | None:
        """What is wrong with the engines right now; None if nothing is."""
        for model in self._models:
            if model.llm is not None and (reason := model.llm.driver.ailment()) is not None:
                return f"{model.short_name}: {reason}"
        return None

    def close(self) -> None:
        for model in self._models:
            if model.llm is not None:
                model.llm.close()


async def read_with(read: Callable[[], T], num_characters: int) -> T:
    """What `read` makes of texts of so many characters; long ones are read on another thread."""
    return read() if num_characters < LONG_TEXT else await _read_elsewhere(read)


async def _read_elsewhere(function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_readers, function)
