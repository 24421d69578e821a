"""Pages of a list, as OpenAI's clients ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Protocol, TypeVar

from starlette.requests import Request

from octavo.server.body import validated
from octavo.server.errors import HttpError
from octavo.server.protocol.files import ListQuery
from octavo.server.writing import JSONAnswer

Q = TypeVar("Q", bound=ListQuery)


class Listed(Protocol):
    @property
    def id(self) -> str: ...

    def json(self) -> dict[str, object]: ...


def read_query(request: Request, model: type[Q]) -> Q:
    """The query of a URL. Raises HttpError for what is wrong, unknown or there twice."""
    pairs = request.query_params.multi_items()
    if len(pairs) > len(fields := dict(pairs)):
        raise HttpError("a parameter of the query is there twice", code="repeated_field")
    return validated(dict(fields), model)


def page(objects: Iterable[Listed], query: ListQuery, most: int) -> JSONAnswer:
    """The objects behind `query.after`, at most `most` unless it says how many. Raises HttpError for an unknown one."""
    rest = iter(objects)
    if query.after is not None and not any(each.id == query.after for each in rest):
        raise HttpError(f"after: {query.after[:80]!r} is not in the list", "after", code="invalid_value")
    limit = query.limit or most
    found = list(islice(rest, limit + 1))
    data = [each.json() for each in found[:limit]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    has_more = len(found) > limit
    return JSONAnswer({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})
