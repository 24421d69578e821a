"""Files of the store: whole or not at all, sealed, bounded, and nobody else's."""

import os
import stat
import time
from errno import ENOSPC
from hashlib import sha256

import numpy as np
import pytest

from octavo.errors import ConfigError
from octavo.prefix_store.entry import HEADER_BYTES, DamagedError
from octavo.prefix_store.folder import ABANDONED, VERSION, Folder

SIZE = 1 << 30


def key_of(number):
    return sha256(str(number).encode()).digest()


def contents_of(number, size=1000):
    return np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "kept", SIZE)


def test_what_was_written_is_read_by_another_process(folder, tmp_path):
    assert folder.write(key_of(1), "kv", contents_of(1)) == HEADER_BYTES + 1000
    other = Folder(tmp_path / "kept", SIZE)
    assert other.has(key_of(1), "kv", 1000)
    assert (other.read(key_of(1), "kv", 1000) == contents_of(1)).all()
    assert other.read(key_of(2), "kv", 1000) is None
    assert other.read(key_of(1), "state", 1000) is None
    assert other.write(key_of(1), "kv", contents_of(1)) == 0  # it is there


def test_a_file_with_any_flipped_bit_is_damaged_and_removed(folder):
    contents = contents_of(1, 50)
    folder.write(key_of(1), "kv", contents)
    path = folder.place(key_of(1), "kv")
    written = path.read_bytes()
    for bit in range(8 * len(written)):
        changed = bytearray(written)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedError):
            folder.read(key_of(1), "kv", 50)
        assert not path.exists()
    path.write_bytes(written)
    assert (folder.read(key_of(1), "kv", 50) == contents).all()


@pytest.mark.parametrize("change", ["empty", "cut", "longer", "of another key", "says it is huge", "noise"])
def test_a_file_of_something_else_is_damaged(folder, change):
    folder.write(key_of(1), "kv", contents_of(1))
    folder.write(key_of(2), "kv", contents_of(2))
    path = folder.place(key_of(1), "kv")
    good = path.read_bytes()
    huge = good[:48] + (1 << 62).to_bytes(8, "little") + good[56:]
    others = folder.place(key_of(2), "kv").read_bytes()
    noise = contents_of(3, len(good)).tobytes()
    parts = {"empty": b"", "cut": good[:-1], "longer": good + b"x", "of another key": others, "noise": noise}
    path.write_bytes({**parts, "says it is huge": huge}[change])
    with pytest.raises(DamagedError):
        folder.read(key_of(1), "kv", 1000)
    assert folder.read(key_of(1), "kv", 1000) is None


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_read(folder, tmp_path, kind):
    path = folder.place(key_of(1), "kv")
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_bytes(b"x")
    else:
        path.mkdir()
    with pytest.raises((DamagedError, OSError)):
        folder.read(key_of(1), "kv", 1000)


def test_the_least_recently_used_go_first_and_others_files_stay(tmp_path):
    limit = 20 * 4096
    folder = Folder(tmp_path, limit)
    foreign = [tmp_path / "mine.txt", folder.path / "notes.kv", folder.path / "ab" / "readme.md"]
    folder.write(key_of(0), "kv", contents_of(0, 3000))
    foreign[2].parent.mkdir(exist_ok=True)
    for path in foreign:
        path.write_bytes(b"x" * 50000)
    long_ago = time.time() - 10**6
    for number in range(15):
        folder.write(key_of(number), "kv", contents_of(number, 3000))
        os.utime(folder.place(key_of(number), "kv"), (long_ago + number, long_ago + number))
    folder.read(key_of(0), "kv", 3000)  # used again
    for number in range(15, 30):
        folder.write(key_of(number), "kv", contents_of(number, 3000))
        assert folder.trim() <= limit
    there = [number for number in range(30) if folder.has(key_of(number), "kv", 3000)]
    assert there[0] == 0
    assert there[1:] == list(range(30 - len(there) + 1, 30))
    assert len(there) > 15
    assert all(path.exists() for path in foreign)


def test_of_one_text_the_last_blocks_go_first(tmp_path):
    folder = Folder(tmp_path, 20 * 4096)
    keys = [key_of(number) for number in range(25)]
    for depth, key in enumerate(keys):
        folder.write(key, "kv", contents_of(depth, 3000), depth)
    there = [number for number, key in enumerate(keys) if folder.has(key, "kv", 3000)]
    assert there[:15] == list(range(15))
    for key in keys:
        if folder.has(key, "kv", 3000):
            os.utime(folder.place(key, "kv"), (0, 0))
    folder.touch("kv", keys)
    times = [folder.place(key, "kv").stat().st_mtime for key in keys if folder.has(key, "kv", 3000)]
    assert times == sorted(times, reverse=True)
    assert times[0] > time.time() - 60


def test_others_files_count(tmp_path):
    one, two = (Folder(tmp_path, 20 * 4096) for _ in range(2))
    for number in range(0, 30, 2):
        one.write(key_of(number), "kv", contents_of(number, 3000))
        two.write(key_of(number + 1), "kv", contents_of(number + 1, 3000))
    assert len(list(one.path.rglob("*.kv"))) <= 22  # each may write a sixteenth before it counts again


def test_on_a_disk_that_is_full_older_files_make_room(tmp_path, monkeypatch):
    folder, write = Folder(tmp_path, SIZE), Folder._write
    for number in range(20):
        folder.write(key_of(number), "kv", contents_of(number, 3000))
        os.utime(folder.place(key_of(number), "kv"), (number, number))

    def full(self, *args):
        if len(list(tmp_path.rglob("*.kv"))) >= 20:
            raise OSError(ENOSPC, "No space left on device")
        return write(self, *args)

    monkeypatch.setattr(Folder, "_write", full)
    for number in range(20, 30):
        assert folder.write(key_of(number), "kv", contents_of(number, 3000)) > 0
    there = [number for number in range(30) if folder.has(key_of(number), "kv", 3000)]
    assert 15 < len(there) <= 20
    assert there == list(range(30 - len(there), 30))


def test_what_is_larger_than_all_room_is_not_written(tmp_path):
    folder = Folder(tmp_path, 8192)
    folder.write(key_of(1), "kv", contents_of(1, 100))
    assert folder.write(key_of(2), "kv", contents_of(2, 9000)) == 0
    assert folder.has(key_of(1), "kv", 100)


def test_what_a_process_left_unfinished_is_removed_later(folder):
    left, fresh = folder.path / "unfinished" / "1-a", folder.path / "unfinished" / "2-b"
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (0, time.time() - ABANDONED - 1))
    folder.trim()
    assert not left.exists()
    assert fresh.exists()


def test_only_the_owner_may_read(tmp_path):
    folder = Folder(tmp_path / "own", SIZE)
    folder.write(key_of(1), "kv", contents_of(1))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder.given, *folder.given.rglob("*")] if path.is_dir()}
    assert modes == {0o700}
    assert stat.S_IMODE(folder.place(key_of(1), "kv").stat().st_mode) == 0o600


def test_a_folder_that_is_open_to_a_group_is_shared_with_it(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    folder = Folder(tmp_path / "shared", SIZE)
    folder.write(key_of(1), "kv", contents_of(1))
    path = folder.place(key_of(1), "kv")
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, folder.path)] == [0o660, 0o2770, 0o2770]


def test_a_folder_that_is_removed_is_made_again_but_not_the_one_that_was_given(folder):
    folder.write(key_of(1), "kv", contents_of(1))
    remove(folder.path)
    assert folder.read(key_of(1), "kv", 1000) is None
    folder.write(key_of(1), "kv", contents_of(1))
    assert folder.has(key_of(1), "kv", 1000)
    remove(folder.given)
    with pytest.raises(OSError, match="No such file"):
        folder.write(key_of(2), "kv", contents_of(2))
    assert not folder.given.exists()


def remove(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("name", ["a file", "inside a file", "/proc/nothing"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    path = {"a file": tmp_path / "file", "inside a file": tmp_path / "file" / "x"}.get(name, name)
    with pytest.raises(ConfigError, match=r"^prefix_cache_dir=.*can't be written"):
        Folder(path, SIZE)
    assert VERSION not in [one.name for one in tmp_path.iterdir()]
