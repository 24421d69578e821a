"""Standard streams that are closed, or that take nothing more."""

from __future__ import annotations

import errno
import os
import sys

_WRITING = {errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC}


def open_closed_streams() -> None:
    """Fills the place of each standard stream that the caller closed.

    The next file to be opened would have its number otherwise, and print(file=sys.stderr) would go to stdout. Reading
    finds the end, writing to stdout fails as it does on a full disk, what goes to stderr is dropped.
    """
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def drop_output() -> None:
    """Whatever is still to be written goes nowhere: the interpreter's last flush must not fail once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def what_failed(error: OSError) -> str:
    """One line about an operation that the system refused."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}"
    return f"the output can't be written: {reason}" if error.errno in _WRITING else reason
