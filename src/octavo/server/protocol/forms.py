"""Bodies that are forms with a file in them (multipart/form-data): how their texts become values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, WithJsonSchema

from octavo.server.protocol.common import RequestModel, tell_refused
from octavo.server.upload import Upload

FILE = "file"


def _written(form: str, what: str, read: Callable[[str], Any]) -> BeforeValidator:
    """A value that a form spells like `form`."""

    def check(text: str) -> Any:
        if not re.fullmatch(form, text, re.ASCII | re.IGNORECASE):
            raise ValueError(f"must be {what}, got {text[:40]!r}")
        return read(text)

    return BeforeValidator(check)


NUMBER = _written(r"[+-]?(\d{1,20}\.?\d{0,20}|\.\d{1,20})(e[+-]?\d{1,3})?", "a number", float)
INTEGER = _written(r"[+-]?\d{1,40}", "an integer", int)
BOOLEAN = _written("true|1|false|0", "true or false", lambda text: text.lower() in ("true", "1"))

FormFile = Annotated[Upload, WithJsonSchema({"type": "string", "format": "binary"})]


class FormRequest(RequestModel):
    """A form: all its fields but the file are texts. What is left out or empty is the default."""

    model_config = ConfigDict(arbitrary_types_allowed=True, json_schema_extra=tell_refused)

    file: FormFile

    CONTENT: ClassVar[str] = "the file"
    EMPTY: ClassVar[str] = "invalid_file"  # the code of an empty file's error
    # Fields that may be repeated, and may have brackets behind their names.
    LISTS: ClassVar[frozenset[str]] = frozenset()
    # Fields whose entries come one by one, as name[entry].
    OBJECTS: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def knows(cls, name: str) -> bool:
        return name in cls.model_fields or name in cls.REFUSED
