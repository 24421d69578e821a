"""/v1/batches: the lines of a file, answered while nobody else needs the engine."""

from __future__ import annotations

import time
import uuid
from operator import attrgetter

from fastapi import APIRouter, Request, Response

from octavo.server.batches.records import Batch
from octavo.server.body import read_body
from octavo.server.errors import HttpError
from octavo.server.protocol.batches import WINDOW_SECONDS, BatchList, BatchObject, BatchRequest
from octavo.server.protocol.files import ListQuery
from octavo.server.query import listed, page, read_query
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["batches"])


@router.post("/v1/batches", **endpoint(BatchRequest, BatchObject))
async def create_batch(request: Request) -> Response:
    """Begins to answer the lines of a file."""
    server = state_of(request)
    folder, owner = server.folder, request.state.client.owner
    server.check_open()
    body = await read_body(request, BatchRequest, server.config)
    file = folder.find_file(body.input_file_id, owner, "input_file_id")
    if file.purpose != "batch":
        reason = f"input_file_id: must be an upload with the purpose 'batch', not {file.purpose!r}"
        raise HttpError(reason, "input_file_id", code="invalid_value")
    now = int(time.time())
    batch = await folder.add_batch(
        Batch(
            id=f"batch_{uuid.uuid4().hex}",
            owner=owner,
            created_at=now,
            input_file_id=file.id,
            endpoint=body.endpoint,
            completion_window=body.completion_window,
            expires_at=now + WINDOW_SECONDS,
            metadata=body.metadata,
            output_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
        )
    )
    server.batches.begin(batch)
    return JSONAnswer(batch.json())


@router.get("/v1/batches", **endpoint(None, BatchList, query=ListQuery))
async def list_batches(request: Request) -> Response:
    """The batches of this key, the newest first."""
    server = state_of(request)
    query = read_query(request, ListQuery)
    batches = list(server.folder.batches_of(request.state.client.owner))[::-1]
    part, has_more = page(batches, query.after, query.limit, attrgetter("id"))
    return JSONAnswer(listed([server.batches.counted(batch).json() for batch in part], has_more))


@router.get("/v1/batches/{batch_id}", **endpoint(None, BatchObject))
async def get_batch(request: Request, batch_id: str) -> Response:
    """How far a batch is."""
    server = state_of(request)
    batch = server.folder.find_batch(batch_id, request.state.client.owner)
    return JSONAnswer(server.batches.counted(batch).json())


@router.post("/v1/batches/{batch_id}/cancel", **endpoint(None, BatchObject))
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Ends a batch with the answers that there are."""
    server = state_of(request)
    batch = server.folder.find_batch(batch_id, request.state.client.owner)
    batch = await server.batches.cancel(batch)
    return JSONAnswer(server.batches.counted(batch).json())
