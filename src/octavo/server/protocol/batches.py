"""/v1/batches: what makes one, and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from octavo.server.batches.lines import URLS
from octavo.server.protocol.common import Name, RequestModel
from octavo.server.protocol.files import ExpiresAfter, ObjectList

WINDOW = "24h"
WINDOW_SECONDS = 86400
Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]


def _check_endpoint(url: str) -> str:
    if url not in URLS:
        raise ValueError(f"must be one of {', '.join(URLS)}, got {url[:40]!r}")
    return url


class BatchRequest(RequestModel):
    """The requests of a file, to be answered when there is room."""

    input_file_id: Name = Field(description="an upload with the purpose batch")
    endpoint: Annotated[str, AfterValidator(_check_endpoint), WithJsonSchema({"enum": list(URLS)})] = Field(
        description="the url of all lines"
    )
    completion_window: Literal["24h"]
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = Field(None, description="how long the files of answers stay")


class BatchError(BaseModel):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(BaseModel):
    object: Literal["list"]
    data: list[BatchError]


class BatchRequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchRequestCounts
    output_file_id: str | None
    error_file_id: str | None
    errors: BatchErrors | None
    model: str | None
    metadata: dict[str, Any] | None


class BatchList(ObjectList):
    data: list[BatchObject]
