"""A line of a batch, asked of the application in this process without a socket."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message

from octavo.server.batches.entries import Json, Reply
from octavo.server.batches.lines import AUDIO, Line
from octavo.server.errors import HttpError, NotFoundError, body_of, status_of

# A POST in ASGI's words; its path, headers and state are to be added.
POST = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "query_string": b""}
SOURCES = ("file_url", "file_id")  # where the audio of a line is
ReadFile = Callable[[str], bytes]


class Body(NamedTuple):
    content_type: bytes
    data: bytes


def no_files(file_id: str) -> bytes:
    """What reads a file by its id where there are none."""
    raise NotFoundError("there are no files here; give the audio as a file_url that begins with data:", "file_id")


def body_for(line: Line, read_file: ReadFile = no_files) -> Body:
    """The body of a line's request: JSON, or for speech a form. Raises HttpError for audio that can't be had."""
    if line.url not in AUDIO:
        return Body(b"application/json", json.dumps(line.body).encode())
    fields = dict(line.body)
    given = {name: fields.pop(name) for name in SOURCES if fields.get(name) is not None}
    if len(given) != 1:
        wanted = "the audio is needed: as a file_url that begins with data:, or as the file_id of an upload"
        raise HttpError(wanted if not given else "only one of file_url and file_id", "file_url", code="invalid_value")
    ((name, value),) = given.items()
    if not isinstance(value, str):
        raise HttpError(f"{name}: must be a string", name, code="invalid_type")
    return _form(fields, _decode(value) if name == "file_url" else read_file(value))


def refusal(error: HttpError) -> Reply:
    """What a line gets that can't be asked."""
    return Reply(status_of(error), body_of(error), "")


def _decode(url: str) -> bytes:
    """The bytes of a data: URL; nothing else is ever fetched."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        reason = "file_url: must be like data:audio/wav;base64,…; the server fetches nothing"
        raise HttpError(reason, "file_url", code="unsupported_value")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise HttpError("file_url: is not base64", "file_url", code="invalid_value") from None


def _form(fields: Mapping[str, Any], audio: bytes) -> Body:
    """A form with a file; a list is a field that is repeated."""
    boundary = uuid.uuid4().hex.encode()
    parts = [(b'name="file"; filename="audio"', audio)]
    for name, value in fields.items():
        if not name.isidentifier():
            raise HttpError(f"{name[:40]}: is not known here; no field is ignored", name[:40], code="unknown_parameter")
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            text = each if isinstance(each, str) else json.dumps(each)
            parts.append((f'name="{name}"'.encode(), text.encode(errors="replace")))
    data = b"".join(
        b"--%b\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, head, content)
        for head, content in parts
    )
    return Body(b"multipart/form-data; boundary=" + boundary, data + b"--%b--\r\n" % boundary)


async def call(
    app: ASGIApp,
    line: Line,
    state: Mapping[str, Any] | None = None,
    gone: asyncio.Event | None = None,
    read_file: ReadFile = no_files,
) -> Reply:
    """The answer to a line. `state` is that of the request; once `gone` is set, its client has left."""
    try:
        is_short = line.url not in AUDIO
        body = body_for(line) if is_short else await asyncio.to_thread(body_for, line, read_file)
    except HttpError as error:
        return refusal(error)
    messages: list[Message] = [{"type": "http.request", "body": body.data}]
    answer: list[Message] = []
    gone = gone or asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.append(message)

    path = {"path": line.url, "raw_path": line.url.encode(), "headers": [(b"content-type", body.content_type)]}
    await app({**POST, **path, "state": dict(state or {})}, receive, send)
    headers = dict(answer[0]["headers"])
    data = b"".join(message.get("body", b"") for message in answer[1:])
    status, is_json = answer[0]["status"], headers.get(b"content-type", b"").startswith(b"application/json")
    content = data.decode() if not is_json else Json(data) if status == 200 else json.loads(data)
    return Reply(status, content, headers[b"x-request-id"].decode())
