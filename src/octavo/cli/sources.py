"""Where answers come from: an engine in this process, or a server. Chat and completion see no difference."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from octavo.cli.inputs import text_engine_options
from octavo.cli.remote import api_key
from octavo.errors import OctavoError

if TYPE_CHECKING:
    from octavo.async_llm import AsyncLLM
    from octavo.client.api import ApiClient

MAX_TOKENS = 1024  # the longest answer, where neither user nor model gives a limit
Asked = str | Sequence[Mapping[str, str]]  # a text to continue, or the messages of a conversation


class Piece(NamedTuple):
    """What is new in an answer; the last piece says why it ended."""

    text: str
    finish_reason: str | None = None


class TooLongError(OctavoError):
    """A prompt and the room for its answer do not fit into the model's context."""


class Source(Protocol):
    """One model. `answer` raises TooLongError, or another OctavoError if the request can't be answered."""

    name: str

    def answer(self, prompt: Asked) -> AsyncIterator[Piece]: ...

    def close(self) -> None: ...


class LocalSource:
    """An engine of its own thread, so that Ctrl-C never meets it in the middle of a step."""

    def __init__(self, options: Mapping[str, Any], sampling: Mapping[str, Any]):
        """`options` are the engine's, `sampling` the parameters that were typed. Raises OctavoError."""
        from octavo.async_llm import AsyncLLM
        from octavo.cli.run import DEFAULTS
        from octavo.sampling_params import RequestOutputKind

        self.llm: AsyncLLM = AsyncLLM(**{"max_num_seqs": 1, **options})
        model = self.llm.model
        self.name = model.name
        self.params = model.sampling_params(sampling, {**DEFAULTS, "max_tokens": MAX_TOKENS})
        if "max_tokens" not in sampling:
            self.params.max_tokens = _room(self.params.max_tokens or MAX_TOKENS, model.max_model_len, sampling)
        self.params.output_kind = RequestOutputKind.DELTA

    async def answer(self, prompt: Asked) -> AsyncIterator[Piece]:
        from octavo.request import Prompt
        from octavo.text.chat import ChatEncoder

        model = self.llm.model
        if isinstance(prompt, str):
            read = Prompt(prompt, model.tokenizer.encode(prompt))
        else:
            rendered = ChatEncoder(model.tokenizer, model.chat_template).encode(prompt)
            read = Prompt(rendered.text, rendered.token_ids)
        length, room, limit = len(read.token_ids), self.params.max_tokens or 1, model.max_model_len
        if length + room > limit:
            raise TooLongError(f"{length} tokens and up to {room} of an answer do not fit into a context of {limit}")
        async for output in self.llm.generate(read, self.params):
            yield Piece(output.outputs[0].text, output.outputs[0].finish_reason)

    def close(self) -> None:
        self.llm.close()


class RemoteSource:
    """A model of a server. What was not typed is the server's to decide."""

    def __init__(self, client: ApiClient, card: Mapping[str, Any], sampling: Mapping[str, Any]):
        self.client, self.name = client, str(card["id"])
        limit = card.get("max_model_len")
        room = {"max_tokens": _room(MAX_TOKENS, limit, sampling)} if isinstance(limit, int) else {}
        self._fields = {"model": self.name, **room, **sampling}

    @classmethod
    async def open(cls, url: str, api_key: str | None, model: str | None, sampling: Mapping[str, Any]) -> RemoteSource:
        """Asks the server what it serves; `model` may be any name that it knows. Raises OctavoError."""
        from octavo.client.api import ApiClient

        client = ApiClient(url, api_key)
        try:
            cards = await client.models()
        except BaseException:
            client.close()
            raise
        card = next((card for card in cards if card["id"] == model), {"id": model} if model else cards[0])
        return cls(client, card, sampling)

    async def answer(self, prompt: Asked) -> AsyncIterator[Piece]:
        from octavo.client.api import CHAT, COMPLETIONS, ApiError, finish_of, text_of

        path, body = (COMPLETIONS, {"prompt": prompt}) if isinstance(prompt, str) else (CHAT, {"messages": prompt})
        try:
            async for chunk in self.client.stream(path, {**self._fields, **body}):
                yield Piece(text_of(chunk.json), finish_of(chunk.json))
        except ApiError as error:
            raise TooLongError(error.reason) if error.is_too_long else error from None

    def close(self) -> None:
        self.client.close()


def _room(wanted: int, context: int, sampling: Mapping[str, Any]) -> int:
    """Tokens of an answer: half of the context at most, as the other half is for the conversation."""
    least: int = sampling.get("min_tokens", 1)
    return max(1, least, min(wanted, context // 2))


async def open_source(args: argparse.Namespace, sampling: Mapping[str, Any]) -> Source:
    """What --url names, or else an engine. Raises OctavoError."""
    if args.url is None:
        return LocalSource(text_engine_options(args), sampling)
    more = {"seed": args.seed} if hasattr(args, "seed") else {}
    return await RemoteSource.open(args.url, api_key(args), getattr(args, "model", None), {**sampling, **more})
