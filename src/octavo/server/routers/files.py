"""/v1/files: what clients upload, and the answers of batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from operator import attrgetter
from pathlib import Path
from typing import IO

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from octavo.server.batches.records import StoredFile
from octavo.server.form import read_form
from octavo.server.protocol.files import FileDeleted, FileList, FileListQuery, FileObject, FileRequest
from octavo.server.query import listed, page, read_query
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["files"])
BINARY = "application/octet-stream"
PIECE = 1 << 18  # bytes that are read at a time


@router.post("/v1/files", **endpoint(FileRequest, FileObject))
async def create_file(request: Request) -> Response:
    """Keeps a file."""
    server = state_of(request)
    folder = server.folder
    server.check_open()
    body = await read_form(request, FileRequest, server.config, folder.uploads)
    try:
        seconds = body.expires_after.seconds if body.expires_after else None
        file = await folder.store(body.file, request.state.client.owner, body.purpose, seconds)
    finally:
        body.file.close()
    return JSONAnswer(file.json())


@router.get("/v1/files", **endpoint(None, FileList, query=FileListQuery))
async def list_files(request: Request) -> Response:
    """The files of this key, the newest first unless `order` says otherwise."""
    folder = state_of(request).folder
    query = read_query(request, FileListQuery)
    files = [
        file
        for file in folder.files_of(request.state.client.owner)
        if query.purpose is None or file.purpose == query.purpose
    ]
    ordered = files if query.order == "asc" else files[::-1]
    part, has_more = page(ordered, query.after, query.limit, attrgetter("id"))
    return JSONAnswer(listed([file.json() for file in part], has_more))


@router.get("/v1/files/{file_id}", **endpoint(None, FileObject))
async def get_file(request: Request, file_id: str) -> Response:
    """What is known of a file."""
    return JSONAnswer(_find(request, file_id).json())


@router.get("/v1/files/{file_id}/content", **endpoint(None, None, texts=[BINARY]))
async def get_content(request: Request, file_id: str) -> Response:
    """The bytes of a file."""
    folder = state_of(request).folder
    file = _find(request, file_id)
    opened = await folder.do(_open, folder.content(file.id))
    return StreamingResponse(_pieces(opened), media_type=BINARY, headers={"content-length": str(file.bytes)})


@router.delete("/v1/files/{file_id}", **endpoint(None, FileDeleted))
async def delete_file(request: Request, file_id: str) -> Response:
    """Removes a file. A batch that reads it goes on."""
    await state_of(request).folder.remove(_find(request, file_id))
    return JSONAnswer({"id": file_id, "object": "file", "deleted": True})


def _find(request: Request, file_id: str) -> StoredFile:
    return state_of(request).folder.find_file(file_id, request.state.client.owner)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
