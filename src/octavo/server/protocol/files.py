"""/v1/files: the form of an upload, what lists are asked for with, and answers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo.server.protocol.common import Name, RequestModel
from octavo.server.protocol.forms import INTEGER, FormFile, FormRequest

AN_HOUR, A_MONTH = 3600, 2592000
Seconds = Annotated[int, Field(ge=AN_HOUR, le=A_MONTH)]


class ExpiresAfter(RequestModel):
    """How long a file stays."""

    anchor: Literal["created_at"]
    seconds: Seconds


class WrittenExpiresAfter(ExpiresAfter):
    """The same in a form."""

    seconds: Annotated[Seconds, INTEGER]


def _describe(schema: dict[str, Any], _: type[RequestModel]) -> None:
    """Entries of objects have a name each, as OpenAI's clients write them."""
    del schema["properties"]["expires_after"]
    seconds = {"type": "integer", "minimum": AN_HOUR, "maximum": A_MONTH, "description": "after which it is removed"}
    schema["properties"]["expires_after[anchor]"] = {"enum": ["created_at"]}
    schema["properties"]["expires_after[seconds]"] = seconds


class FileRequest(FormRequest):
    """A file to keep."""

    model_config = ConfigDict(json_schema_extra=_describe)

    file: FormFile = Field(description="of a batch: JSON lines")
    purpose: Literal["batch", "user_data"] = Field(description="batch: lines of requests; user_data: audio of lines")
    expires_after: WrittenExpiresAfter | None = None

    OBJECTS: ClassVar[frozenset[str]] = frozenset({"expires_after"})


class ListQuery(RequestModel):
    """What a list is asked for with."""

    after: Name | None = Field(None, description="the id of the last object of the page before")
    limit: Annotated[int, Field(ge=1, le=100), INTEGER] = 20


class FileListQuery(ListQuery):
    limit: Annotated[int, Field(ge=1, le=10_000), INTEGER] = 10_000
    order: Literal["asc", "desc"] = Field("desc", description="desc: the newest first")
    purpose: Name | None = Field(None, description="only files of this purpose")


class FileObject(BaseModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"]
    deleted: bool


class ObjectList(BaseModel):
    """A page of a list."""

    object: Literal["list"]
    first_id: str
    last_id: str
    has_more: bool


class FileList(ObjectList):
    data: list[FileObject]
