"""The threads of the store: in order, bounded in memory, and never in the way."""

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from octavo.prefix_store import store as store_module
from octavo.prefix_store.folder import Folder
from octavo.prefix_store.store import PrefixStore

from .test_folder import contents_of, key_of


@pytest.fixture
def store(tmp_path):
    opened = PrefixStore(Folder(tmp_path, 1 << 30), b"model")
    yield opened
    opened.close()


def put(store, number, size=1000):
    store.write(key_of(number), "kv", lambda: contents_of(number, size), size)


def test_what_was_given_is_found_and_read(store):
    for number in (0, 1, 3):
        put(store, number)
    assert store.flush()
    assert store.find([key_of(number) for number in range(5)], 1000).result() == 2
    assert store.find([key_of(9)], 1000).result() == 0
    assert (store.read(key_of(3), "kv", 1000).result() == contents_of(3)).all()
    assert store.read(key_of(2), "kv", 1000).result() is None
    assert (store.stats.written_blocks, store.stats.read_bytes, store.stats.errors) == (3, 1000, 0)


def test_with_states_a_run_ends_at_the_last_that_is_there(store):
    for number in range(4):
        put(store, number)
    store.write(key_of(1), "state", lambda: contents_of(7, 50), 50)
    assert store.flush()
    keys = [key_of(number) for number in range(6)]
    assert store.find(keys, 1000, 50).result() == 2
    assert store.find(keys[2:], 1000, 50).result() == 0


def test_it_says_when_too_much_waits(store, monkeypatch):
    monkeypatch.setattr(store_module, "QUEUED_BYTES", 2000)
    go = threading.Event()

    def slow():
        go.wait()
        return contents_of(0)

    store.write(key_of(0), "kv", slow, 1000)
    assert store.has_room
    put(store, 1)
    assert not store.has_room
    go.set()
    assert store.flush()
    assert store.has_room


def test_an_unexpected_failure_ends_nothing(store, caplog):
    store.write(key_of(0), "kv", lambda: 1 / 0, 1000)
    put(store, 1)
    assert store.flush()
    assert store.stats.written_blocks == 1
    assert "the prefix cache on disk failed" in caplog.text


def test_damaged_files_are_counted_and_told_now_and_then(store, caplog):
    for number in range(3):
        put(store, number)
    assert store.flush()
    for number in range(3):
        store.folder.place(key_of(number), "kv").write_bytes(b"nothing")
        assert store.read(key_of(number), "kv", 1000).result() is None
    assert store.stats.damaged_files == 3
    assert caplog.text.count("is damaged and is not used") == 1


def test_a_read_that_fails_for_any_reason_is_a_miss(store, monkeypatch, caplog):
    def fail(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(Folder, "read", fail)
    assert store.read(key_of(0), "kv", 1000).result() is None
    assert store.stats.errors == 1
    monkeypatch.setattr(Folder, "has", fail)
    assert store.find([key_of(0)], 1000).result() == 0
    assert "the prefix cache on disk failed" in caplog.text


def test_what_is_used_again_is_noted_only_when_nothing_is_to_be_written(store, monkeypatch):
    touched, begun, go = [], threading.Event(), threading.Event()
    monkeypatch.setattr(Folder, "touch", lambda self, kind, keys, depth=0: touched.append(keys))

    def slow():
        begun.set()
        go.wait()
        return contents_of(0)

    store.write(key_of(0), "kv", slow, 1000)
    assert begun.wait(60)
    store.touch([key_of(1)])
    go.set()
    assert store.flush()
    store.touch([key_of(2)])
    assert store.flush()
    assert touched == [[key_of(2)]]


def test_a_process_ends_while_a_volume_hangs(tmp_path):
    script = (
        "import sys, threading\nfrom octavo.prefix_store.folder import Folder\n"
        "from octavo.prefix_store.store import PrefixStore\n"
        "begun = threading.Event()\n"
        "Folder.read = lambda *args: begun.set() or threading.Event().wait()\n"
        "store = PrefixStore(Folder(sys.argv[1], 1 << 30), b'model')\n"
        "store.read(bytes(32), 'kv', 1000)\nassert begun.wait(60)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)


def test_once_it_is_closed_there_is_nothing(store):
    put(store, 0)
    store.close()
    assert store.folder.has(key_of(0), "kv", 1000)  # what was given before is written
    put(store, 1)
    assert store.find([key_of(0)], 1000).result() == 0
    assert store.read(key_of(0), "kv", 1000).result() is None


def test_its_threads_end_with_it(tmp_path):
    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith("octavo-prefix")}

    before = threads()
    store = PrefixStore(Folder(tmp_path, 1 << 30), b"model")
    put(store, 0)
    assert store.read(key_of(5), "kv", 10).result() is None
    own = threads() - before
    assert len(own) == 2
    del store
    gc.collect()
    for thread in own:
        thread.join(10)
        assert not thread.is_alive()


def test_several_write_and_read_one_folder_at_once(tmp_path):
    """What is read is what was written under that key, whoever removes what meanwhile."""
    stores = [PrefixStore(Folder(tmp_path, 60 * 4096), b"model") for _ in range(3)]

    def work(store, seed):
        for number in np.random.default_rng(seed).integers(0, 40, 150).tolist():
            put(store, number, 3000)
            contents = store.read(key_of(number), "kv", 3000).result()
            found.append(contents is None or (contents == contents_of(number, 3000)).all())

    found = []
    workers = [threading.Thread(target=work, args=(store, i)) for i, store in enumerate(stores)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 450
    assert all(found)
    for store in stores:
        assert store.flush()
        assert (store.stats.errors, store.stats.damaged_files) == (0, 0)
        store.close()
