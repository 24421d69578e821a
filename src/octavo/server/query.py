"""The query of a URL, as a model of its endpoint, and the pages of lists, as OpenAI's clients ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from octavo.server.body import validated
from octavo.server.errors import HttpError
from octavo.server.protocol.common import RequestModel

Q = TypeVar("Q", bound=RequestModel)
T = TypeVar("T")
Json = dict[str, Any]


def read_query(request: Request, model: type[Q], *, may_include: bool = False) -> Q:
    """Raises HttpError for what is wrong, unknown or there twice.

    With `may_include` an `include` of OpenAI's clients is passed over: it asks for what is always there.
    """
    pairs = request.query_params.multi_items()
    if may_include:
        pairs = [(name, value) for name, value in pairs if name not in ("include", "include[]")]
    if len(pairs) > len(fields := dict(pairs)):
        raise HttpError("a parameter of the query is there twice", code="repeated_field")
    return validated(dict(fields), model)


def page(items: Sequence[T], after: str | None, limit: int, id_of: Callable[[T], str]) -> tuple[list[T], bool]:
    """Up to `limit` of the items behind the one with the id `after`, and whether there are more.

    Raises HttpError if that is none of them.
    """
    begin = 0
    if after is not None:
        begin = next((place for place, item in enumerate(items, 1) if id_of(item) == after), 0)
        if not begin:
            raise HttpError(f"after: there is no {after[:100]!r} in the list", "after", code="invalid_value")
    return list(items[begin : begin + limit]), begin + limit < len(items)


def listed(items: list[Json], has_more: bool = False) -> Json:
    """The JSON of a list."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": items, **ends, "has_more": has_more}
