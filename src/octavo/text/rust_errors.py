"""The guard around the Rust library of tokenizers: its errors have no types, and it panics."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from octavo.errors import ModelLoadError

_STDERR = 2
_PANIC = b"\nthread '"  # what Rust writes first of one
_redirecting = threading.RLock()


def is_rust_panic(error: BaseException) -> bool:
    """Whether a bug in the Rust library was hit. Its panics are not an `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def _without_panics() -> Iterator[None]:
    """Keeps Rust's reports of panics, with their backtraces, from the screen; all else that is written comes later."""
    with _redirecting, tempfile.TemporaryFile() as held:
        try:
            screen = os.dup(_STDERR)
        except OSError:  # there is none
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(screen, _STDERR)
            os.close(screen)
            held.seek(0)
            with open(_STDERR, "wb", buffering=0, closefd=False) as stream:
                stream.write(held.read().partition(_PANIC)[0])


@contextmanager
def loading(file: str | os.PathLike[str], field: str) -> Iterator[None]:
    """Raises what goes wrong inside as ModelLoadError: the Rust library's errors have no types."""
    try:
        with _without_panics():
            yield
    except ModelLoadError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_rust_panic(error):
            raise
        raise ModelLoadError(file, field, " ".join(str(error).split())[:300]) from None
