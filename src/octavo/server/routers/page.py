"""GET /: the page, and its files under /ui/."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.errors import NotFoundError
from octavo.server.page import HEADERS, PREFIX, page_files
from octavo.server.state import state_of

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route(PREFIX + "{name}", methods=["GET", "HEAD"])
async def get_file(request: Request, name: str = "") -> Response:
    """One file; 304 where the client has it already."""
    path = PREFIX + name if name else "/"
    if not state_of(request).config.ui:
        raise NotFoundError("the page is switched off by --no-ui", code="no_page")
    if path not in page_files():
        raise NotFoundError(f"the page has no file {name[:80]}")
    file, headers = page_files()[path], {**HEADERS, "etag": page_files()[path].etag}
    known = request.headers.get("if-none-match", "").replace("W/", "")
    if known == "*" or file.etag.removeprefix("W/") in known.split(", "):
        return Response(status_code=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["content-encoding"] = file.compressed, "gzip"
    return Response(body, headers=headers, media_type=file.media_type)
