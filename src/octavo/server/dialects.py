"""How the APIs that are spoken here tell errors: the shape of their JSON, and what fields are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.types import Scope

from octavo.server.errors import body_of, status_of

Json = dict[str, Any]
# What went wrong in Anthropic's words, by status.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_FIELD = re.compile(r"[a-z]\w*(?:\[\d+\]|\.\w+)*", re.ASCII)  # the path of a field, with which messages begin
_INDEX = re.compile(r"\[\d+\]")
_MESSAGE = re.compile(r"messages\[(\d+)\]")


class FieldNames:
    """What fields of a chat completion are called in the request that was made one.

    `names` are (pattern of a path's beginning, what it becomes); the first that fits counts. `messages` are the places
    in the request that its messages come from.
    """

    def __init__(self, names: Sequence[tuple[str, str]], messages: Sequence[str] = ()):
        self._names = [(re.compile(rf"{pattern}(?!\w)"), name) for pattern, name in names]
        self._messages = messages

    def renamed(self, error: Json) -> Json:
        """The same error about a field of the request."""
        message, param = error["message"], error["param"]
        found = _FIELD.match(message)
        if found and (message[found.end() :].startswith(":") or param in (found[0], _INDEX.sub("", found[0]))):
            path = self._renamed(found[0])
            message, param = path + message[found.end() :], param and _INDEX.sub("", path)
        elif param is not None:
            param = self._renamed(param)
        return {**error, "message": message, "param": param}

    def _renamed(self, path: str) -> str:
        if (found := _MESSAGE.match(path)) and int(found[1]) < len(self._messages):
            path = self._messages[int(found[1])] + path[found.end() :]
        for pattern, name in self._names:
            if found := pattern.match(path):
                return found.expand(name) + path[found.end() :]
        return path


def path_of(scope: Scope) -> str:
    """The path as it was sent, without what a proxy puts before it."""
    path: str = scope.get("raw_path", b"").decode("latin-1")
    prefix: str = scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(prefix + "/") else path


def is_anthropic(scope: Scope) -> bool:
    return f"{path_of(scope)}/".startswith("/v1/messages/")


def is_ollama(scope: Scope) -> bool:
    return path_of(scope).startswith("/api/")


def error_json(error: BaseException, scope: Scope) -> Json:
    """The JSON of an error for whoever sent the request."""
    state = scope.get("state", {})
    told: Json = body_of(error)["error"]
    names: FieldNames | None = state.get("names")
    told = told if names is None else names.renamed(told)
    if is_anthropic(scope):
        kind = _ANTHROPIC_TYPES.get(
            status := status_of(error), "api_error" if status >= 500 else "invalid_request_error"
        )
        inner = {"type": kind, "message": told["message"]}
        return {"type": "error", "error": inner, "request_id": state.get("request_id")}
    return {"error": told["message"] if is_ollama(scope) else told}
