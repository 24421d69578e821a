"""The locks of a cache on file systems that have more demands on them, or none at all."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from octavo.errors import ModelNotFoundError
from octavo.weights.cache import busy, locked


def test_a_lock_is_open_for_writing_as_nfs_demands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def of_nfs(descriptor: int, how: int) -> None:
        if how & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    with locked(tmp_path, "x"), busy(tmp_path, "x") as is_busy:
        assert is_busy


def test_a_lock_of_another_user_need_only_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with locked(tmp_path, "x"), busy(tmp_path, "x") as is_busy:
        assert is_busy


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = r"can't be written \(No locks available\): set OCTAVO_CACHE"
    with pytest.raises(ModelNotFoundError, match=said), locked(tmp_path, "x"):
        pass
