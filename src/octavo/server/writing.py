"""JSON as the server writes it, and the answers that are nothing else."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from octavo.server.errors import HttpError, body_of, status_of


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class JSONAnswer(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def error_answer(error: BaseException) -> JSONAnswer:
    headers = error.headers if isinstance(error, HttpError) else None
    return JSONAnswer(body_of(error), status_of(error), headers)
