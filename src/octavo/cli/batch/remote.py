"""Answers of a batch from a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from octavo.client.api import ApiClient, ApiError
from octavo.client.framing import ConnectionFailed
from octavo.server.batches.calling import body_for, refusal
from octavo.server.batches.entries import Reply
from octavo.server.batches.lines import Line
from octavo.server.errors import HttpError

TRIES = 6
LATER = (408, 409, 429, 500, 502, 503, 504)  # statuses after which a request is sent again


class RemoteBatch:
    """Sends each request as it is, many at a time; where a body names no model, `model` is put in."""

    def __init__(self, client: ApiClient, model: str, concurrency: int):
        self._client, self._model = client, model
        self.concurrency = concurrency

    async def answer(self, line: Line) -> Reply:
        """Waits and tries again where the server is busy. Raises ConnectionFailed if it stays away."""
        try:
            body = body_for(replace(line, body={"model": self._model, **line.body}))
        except HttpError as error:
            return refusal(error)
        for attempt in range(TRIES):
            is_last = attempt == TRIES - 1
            pause = min(30.0, 0.5 * 2**attempt)
            try:
                answer, headers = await self._client.send("POST", line.url, body.data, body.content_type.decode())
                return Reply(200, answer, headers.get("x-request-id", ""))
            except ApiError as error:
                if is_last or error.status not in LATER:
                    return Reply(error.status, _body(error.body), error.headers.get("x-request-id", ""))
                pause = max(pause, _seconds(error.headers.get("retry-after")))
            except ConnectionFailed:
                if is_last:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError

    def close(self) -> None:
        self._client.close()


def _body(body: Any) -> Any:
    return body if isinstance(body, dict) else {"error": {"message": str(body)}}


def _seconds(text: str | None) -> float:
    """The seconds that a Retry-After asks for; dates are not understood."""
    return min(60.0, float(text)) if text is not None and text.isascii() and text.isdigit() else 0.0
