"""Reads a form with a file in it (multipart/form-data) as it arrives.

Put together by hand on python_multipart's parser, as a guard: the number and the size of every part are bounded.
"""

from __future__ import annotations

from email.message import Message
from typing import Any, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from octavo.server.body import announced_bytes, check_encoding, receive, validated
from octavo.server.errors import HttpError
from octavo.server.options import ServerConfig
from octavo.server.protocol.forms import FILE, FormRequest
from octavo.server.upload import Upload, UploadSpace

MAX_PARTS = 64
MAX_PART_HEADERS = 8
MAX_HEADER_BYTES = 4 << 10  # the most bytes of one header
MAX_FIELD_BYTES = 64 << 10
FORM_BYTES = MAX_PARTS * (MAX_FIELD_BYTES + MAX_PART_HEADERS * MAX_HEADER_BYTES)  # the most bytes besides the file
LEAST_RATE = 64 << 10  # bytes per second at which an upload may go on for longer than other bodies
T = TypeVar("T", bound=FormRequest)


async def read_form(request: Request, model: type[T], config: ServerConfig, space: UploadSpace) -> T:
    """The body as `model`, whose file is to be closed. Raises HttpError, naming the field that is wrong."""
    boundary = _boundary(request)
    limit = space.max_bytes + FORM_BYTES
    if announced_bytes(request) > limit:
        raise space.too_large()
    form = Form(boundary, space, model)
    try:
        async for piece in receive(request, config.body_timeout, LEAST_RATE):
            await form.feed(piece)
            if form.num_bytes > limit:
                raise space.too_large()
        return validated({**form.fields(), FILE: form.finish()}, model)
    except BaseException:
        form.close()
        raise


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        reason = "the body must be sent as 'Content-Type: multipart/form-data', as curl -F file=@NAME does"
        raise HttpError(reason, status=415, code="media_type")
    check_encoding(request)
    if not options.get(b"boundary"):
        raise _invalid("its Content-Type has no boundary; let the client library write that header")
    return options[b"boundary"]


class Form:
    """Takes the bytes of a form. Raises HttpError for what is none, or too large."""

    def __init__(self, boundary: bytes, space: UploadSpace, model: type[FormRequest]):
        self.num_bytes = 0
        self._space, self._model = space, model
        self._texts: list[tuple[str, str]] = []  # names and values, in their order
        self._upload: Upload | None = None
        self._num_parts = 0
        self._has_ended = False
        self._headers: dict[bytes, bytes] = {}  # headers of the part that is being read
        self._header, self._value = b"", b""
        self._name, self._text = "", bytearray()
        self._is_file = False
        callbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        limits = {"max_header_count": MAX_PART_HEADERS, "max_header_size": MAX_HEADER_BYTES}
        try:
            self._parser = MultipartParser(boundary, callbacks, **limits)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _invalid(str(error)) from None

    async def feed(self, data: bytes) -> None:
        self.num_bytes += len(data)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _invalid(str(error)) from None
        if self._upload is not None:
            await self._upload.store()

    def fields(self) -> dict[str, Any]:
        """The texts by their names. Lists may be repeated, and have brackets; those of objects have a name in them.

        A field that is empty was left out: a form has no other way to say null.
        """
        model, found = self._model, dict[str, Any]()
        for name, value in self._texts:
            plain, _, entry = name.removesuffix("]").partition("[")
            if plain in model.LISTS and not entry:
                found.setdefault(plain, []).append(value)
                continue
            is_entry = plain in model.OBJECTS and bool(entry)
            place, key = (found.setdefault(plain, {}), entry) if is_entry else (found, name)
            if not isinstance(place, dict) or key in place:
                raise _repeated(name)
            place[key] = value
        return {name: value for name, value in found.items() if value != "" or not model.knows(name)}

    def finish(self) -> Upload:
        """The file, when everything has come."""
        if not self._has_ended:
            raise _invalid("it ends before its last boundary" if self._num_parts else "there is no part in it")
        if self._upload is None:
            reason = f"file: this field is required: {self._model.CONTENT}, as curl -F file=@NAME sends it"
            raise HttpError(reason, FILE, code="missing_field")
        if self._upload.size == 0:
            raise HttpError("file: is empty", FILE, code=self._model.EMPTY)
        return self._upload

    def close(self) -> None:
        if self._upload is not None:
            self._upload.close()

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise _invalid(f"it has more than {MAX_PARTS} parts")
        self._headers = {}

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name = self._header.lower()
        if name in self._headers:
            raise _invalid(f"a part has two headers {name.decode(errors='replace')[:80]!r}")
        self._headers[name] = self._value
        self._header = self._value = b""

    def _begin_data(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _invalid("a part has no 'Content-Disposition: form-data; name=…'")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise _invalid("a part has a Content-Transfer-Encoding; send it as it is")
        self._name = name = options[b"name"].decode(errors="replace")[:80]
        self._text = bytearray()
        filename = _file_name(disposition)
        self._is_file = filename is not None
        if self._is_file and name != FILE:
            raise HttpError(f"{name}: must be text; the only file is 'file'", name, code="invalid_type")
        if name == FILE and not self._is_file:
            reason = "file: must be a file, with a file name, as curl -F file=@NAME sends it; it was sent as text"
            raise HttpError(reason, FILE, code="invalid_type")
        if self._is_file and self._upload is not None:
            raise _repeated(FILE)
        if filename is not None:
            self._upload = Upload(self._space, filename)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file and self._upload is not None:
            self._upload.add(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            reason = f"{self._name}: is longer than {MAX_FIELD_BYTES} bytes"
            headers = {"connection": "close"}
            raise HttpError(reason, self._name, status=413, code="field_too_large", headers=headers)

    def _end_part(self) -> None:
        if self._is_file:
            return
        try:
            self._texts.append((self._name, self._text.decode()))
        except UnicodeDecodeError:
            raise HttpError(f"{self._name}: is not UTF-8", self._name, code="invalid_value") from None

    def _end(self) -> None:
        self._has_ended = True


def _file_name(disposition: bytes) -> str | None:
    """The file's name, in whatever spelling: `filename`, `filename*` or, in pieces, `filename*0*`; None of no file."""
    message = Message()
    message["content-disposition"] = disposition.decode("latin-1")
    name = message.get_filename()
    return None if name is None else name.encode("latin-1", "replace").decode(errors="replace")


def _invalid(reason: str) -> HttpError:
    return HttpError(f"the form can't be read: {reason}", code="invalid_form")


def _repeated(name: str) -> HttpError:
    return HttpError(f"{name}: is there twice", name, code="repeated_field")
