"""OpenAI's API as a client sees it: one request, its stream of chunks, and what a server says when it refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from octavo.client.framing import ConnectionFailed, EventParser
from octavo.client.http import Address, HttpClient
from octavo.errors import OctavoError

Json = dict[str, Any]
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


class ApiError(OctavoError):
    """The server refused a request (`status` is HTTP's), or a stream ended in an error (`status` is 200)."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None):
        error = body.get("error", body) if isinstance(body, dict) else body
        fields = error if isinstance(error, dict) else {}
        self.status, self.body, self.headers = status, body, headers or {}
        self.code, self.param = fields.get("code"), fields.get("param")
        self.reason = " ".join(str(fields.get("message") or error or "no reason given").split())[:500]
        super().__init__(f"the server says {status}: {self.reason}" if status != 200 else f"the server: {self.reason}")

    @property
    def is_too_long(self) -> bool:
        """Whether the prompt did not fit into the model's context."""
        return self.code == "context_length_exceeded" or "maximum context length" in self.reason


class Chunk(NamedTuple):
    """One event of a stream, and when it arrived, in seconds of `time.perf_counter()`."""

    time: float
    json: Json


class ApiClient:
    """One server. Its methods raise ApiError and ConnectionFailed."""

    def __init__(self, url: str, api_key: str | None = None):
        self.address = Address.parse(url)
        headers = {"user-agent": "octavo", "accept": "*/*"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self.http = HttpClient(self.address, headers)

    async def models(self) -> list[Json]:
        """The cards of the models that are served."""
        data = (await self.call("GET", "/v1/models")).get("data")
        cards = [card for card in data or [] if isinstance(card, dict) and isinstance(card.get("id"), str)]
        if not cards:
            raise ConnectionFailed(f"{self.address}: serves no models")
        return cards

    async def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """The JSON of an answer that is not streamed."""
        data = b"" if body is None else json.dumps(body).encode()
        parsed, _ = await self.send(method, path, data)
        if not isinstance(parsed, dict):
            raise ConnectionFailed(f"{self.address}{path}: the answer is not a JSON object")
        return parsed

    async def send(
        self, method: str, path: str, data: bytes, content_type: str = "application/json"
    ) -> tuple[Any, Mapping[str, str]]:
        """What an answer says, as JSON or, where it is none, as text; and its headers."""
        async with self.http.request(method, path, data, content_type) as answer:
            content = await answer.read()
            if answer.status != 200:
                raise ApiError(answer.status, _parsed(content), answer.headers)
            is_json = answer.headers.get("content-type", "application/json").startswith("application/json")
            return _parsed(content) if is_json else content.decode(errors="replace"), answer.headers

    async def stream(self, path: str, body: Json) -> AsyncIterator[Chunk]:
        """The chunks of a streamed answer, up to [DONE]. What breaks off before that is a ConnectionFailed."""
        async with self.http.request("POST", path, json.dumps({**body, "stream": True}).encode()) as answer:
            if answer.status != 200:
                raise ApiError(answer.status, _parsed(await answer.read()), answer.headers)
            events, done = EventParser(), False
            async for arrival in answer.arrivals():
                for event in events.feed(arrival.data):
                    if event == b"[DONE]":
                        done = True
                    elif not done:
                        yield Chunk(arrival.time, self._chunk(event))
            if not done:
                raise ConnectionFailed(f"{self.address}: the stream ended before [DONE]")

    def close(self) -> None:
        self.http.close()

    def _chunk(self, event: bytes) -> Json:
        parsed = _parsed(event)
        if not isinstance(parsed, dict):
            raise ConnectionFailed(f"{self.address}: an event is not a JSON object: {event[:80]!r}")
        if parsed.get("error"):
            raise ApiError(200, parsed)
        return parsed


def _parsed(data: bytes) -> Any:
    """JSON where it is that, else text."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")[:500]


def text_of(chunk: Json) -> str:
    """What a chunk adds to the first choice, of either endpoint."""
    for choice in chunk.get("choices") or []:
        text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        return text if isinstance(text, str) else ""
    return ""


def finish_of(chunk: Json) -> str | None:
    """Why the first choice ended, if it has."""
    return next((choice.get("finish_reason") for choice in chunk.get("choices") or []), None)
