"""What every error is over HTTP: its status, and OpenAI's {"error": {message, type, param, code}}. Only here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from octavo.errors import (
    AudioError,
    ConfigError,
    EngineFailedError,
    NumericalError,
    OctavoError,
    ParameterError,
    PromptError,
    PromptTooLongError,
    RequestAbortedError,
    RequestError,
    RequestFailedError,
    SlowReaderError,
    UnsupportedError,
)

MAX_MESSAGE = 500  # the most characters


class HttpError(OctavoError):
    """An answer that is an error: what it says, and how."""

    status, type, code = 400, "invalid_request_error", "invalid_request"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ):
        """`retry_after` is in seconds; clients wait at most a minute."""
        super().__init__(message)
        self.param, self.headers = param, dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, min(60, round(retry_after))))
        self.status = status or type(self).status
        self.code = code or type(self).code


class KeyRejectedError(HttpError):
    """No API key, or one that is not known."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class NotFoundError(HttpError):
    """There is no such endpoint, or no such model."""

    status, code = 404, "not_found"


class DeadlineError(HttpError):
    """The request took longer than it may."""

    status, type, code = 504, "timeout_error", "request_timeout"


class UnavailableError(HttpError):
    """The server can't take the request now: it loads, drains, or its queue is full. The answer has a Retry-After."""

    status, type, code = 503, "service_unavailable_error", "unavailable"

    def __init__(self, message: str, code: str, retry_after: float):
        super().__init__(message, code=code, retry_after=retry_after)


class RateLimitError(HttpError):
    """The key's requests or tokens of this minute are used up."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class ClientGoneError(HttpError):
    """The client has closed the connection; nobody sees this."""

    status, code = 499, "client_closed_request"


# The tree of octavo.errors: status, type, code. A class stands for those below it that are not named.
_MAPPING: tuple[tuple[type[OctavoError], int, str, str], ...] = (
    (PromptTooLongError, 400, "invalid_request_error", "context_length_exceeded"),
    (PromptError, 400, "invalid_request_error", "invalid_prompt"),
    (ParameterError, 400, "invalid_request_error", "invalid_value"),
    (AudioError, 400, "invalid_request_error", "invalid_audio"),
    (UnsupportedError, 400, "invalid_request_error", "unsupported_value"),
    (ConfigError, 400, "invalid_request_error", "invalid_value"),
    (NumericalError, 500, "server_error", "numerical_error"),
    (RequestFailedError, 500, "server_error", "internal_error"),
    (SlowReaderError, 400, "invalid_request_error", "reader_too_slow"),
    (RequestAbortedError, 500, "server_error", "request_aborted"),
    (RequestError, 400, "invalid_request_error", "invalid_request"),
    (EngineFailedError, 500, "server_error", "engine_failed"),
)
ENGINE_FAILED = "the engine failed while it answered this request; others will do better"
INTERNAL = "something went wrong in the server; its log says more under this answer's x-request-id"


def status_of(error: BaseException) -> int:
    return error.status if isinstance(error, HttpError) else _row(error)[0]


def body_of(error: BaseException) -> dict[str, Any]:
    """The error's JSON. Of what was not raised on purpose it tells nothing."""
    message = str(error) if isinstance(error, OctavoError) else INTERNAL
    if isinstance(error, HttpError):
        kind, param, code = error.type, error.param, error.code
    else:
        _, kind, code = _row(error)
        param = error.name if isinstance(error, ParameterError | ConfigError | AudioError) else None
    if isinstance(error, EngineFailedError):
        message = ENGINE_FAILED
    message = " ".join(message.encode(errors="replace").decode().split())
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def encoded(error: BaseException) -> bytes:
    return json.dumps(body_of(error), ensure_ascii=False).encode()


def _row(error: BaseException) -> tuple[int, str, str]:
    for cls, status, kind, code in _MAPPING:
        if isinstance(error, cls):
            return status, kind, code
    return 500, "server_error", "internal_error"
