"""The query of a URL, as a model of its endpoint; `include` of OpenAI's clients asks for what is always there."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request

from octavo.server.body import validated
from octavo.server.errors import HttpError
from octavo.server.protocol.common import RequestModel

Q = TypeVar("Q", bound=RequestModel)


def read_query(request: Request, model: type[Q]) -> Q:
    """Raises HttpError for what is wrong, unknown or there twice."""
    pairs = [
        (name, value) for name, value in request.query_params.multi_items() if name not in ("include", "include[]")
    ]
    if len(pairs) > len(fields := dict(pairs)):
        raise HttpError("a parameter of the query is there twice", code="repeated_field")
    return validated(dict(fields), model)
