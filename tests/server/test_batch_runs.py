"""Runs of batches in this process, against an application and a disk that fail as they are told to."""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from octavo.errors import ConfigError
from octavo.server.batches import run, runner
from octavo.server.batches.entries import EntryFile, Reply, entry_of
from octavo.server.batches.folder import DataFolder
from octavo.server.batches.lines import Line
from octavo.server.batches.records import Batch
from octavo.server.batches.runner import BatchRunner
from octavo.server.batches.slots import Slots
from octavo.server.keys import Client, Keys
from octavo.server.upload import Upload

URL = "/v1/completions"


class Killed(BaseException):
    """What is raised where a killed process would have gone no further."""


class App:
    """Answers each line with its own name; `refuse` has the statuses that it gets before that."""

    def __init__(self):
        self.asked, self.states = Counter(), []
        self.refuse = {}

    async def __call__(self, scope, receive, send):
        name = json.loads((await receive())["body"])["name"]
        self.asked[name] += 1
        self.states.append(scope["state"])
        statuses = self.refuse.get(name, [])
        status = statuses.pop(0) if statuses else 200
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"7")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        content = {"name": name} if status == 200 else {"error": {"message": "no", "code": "why"}}
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


class Life:
    """A folder and a runner, as one process has them."""

    def __init__(self, path, app, concurrency=4, is_busy=lambda: False):
        self.folder = DataFolder(str(path), 1 << 20)
        self.runner = BatchRunner(self.folder, Keys([], Client("anyone")), is_busy, concurrency)
        self.app = app

    async def begin(self, *names, **fields):
        lines = [{"custom_id": name, "method": "POST", "url": URL, "body": {"name": name}} for name in names]
        upload = Upload(self.folder.uploads, "lines.jsonl")
        try:
            upload.add("\n".join(map(json.dumps, lines)).encode())
            await upload.store()
            file = await self.folder.store(upload, "", "batch", None)
        finally:
            upload.close()
        batch = Batch(
            **{"id": "batch_1", "owner": "", "created_at": 1, "expires_at": 1 << 40, "input_file_id": file.id},
            **{"endpoint": URL, "completion_window": "24h", **fields},
        )
        return await self.folder.add_batch(batch)

    async def finish(self):
        """Runs what there is, and returns the only batch."""
        self.runner.start(self.app)
        while self.runner._runs:
            await asyncio.sleep(0)
        (batch,) = self.folder.batches
        return batch

    def entries(self, batch):
        """(custom_id, code of the error) of all entries."""
        names = [name for name in (batch.output_file_id, batch.error_file_id) if name]
        lines = [line for name in names for line in self.folder.content(name).read_text().splitlines()]
        return [
            (entry["custom_id"], entry["error"] and entry["error"]["code"])
            for entry in map(json.loads, lines)
            if entry["error"] or entry["response"]["body"] == {"name": entry["custom_id"]}
        ]

    async def end(self):
        await self.runner.close()
        self.folder.close()


@pytest.fixture
def app():
    return App()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(run, "PAUSE", 0.001)
    monkeypatch.setattr(run, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(run, "DISK_PAUSE", 0.001)
    monkeypatch.setattr(runner, "CLOSE_SECONDS", 0)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


class Disk:
    """What is written, synced, named and removed, counted; from number `last` on it raises `error`."""

    def __init__(self, monkeypatch):
        self.number, self.last, self.error, self.times = 0, None, None, None
        for module, name in ((os, "fsync"), (os, "replace"), (os, "truncate"), (Path, "unlink"), (Path, "write_text")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def fail(self, last, error, times=None):
        self.number, self.last, self.error, self.times = 0, last, error, times

    def _counted(self, function):
        def call(*arguments, **options):
            self.number += 1
            if self.last is not None and self.number >= self.last and self.times != 0:
                self.times = None if self.times is None else self.times - 1
                raise self.error
            return function(*arguments, **options)

        return call


def lives(coroutine):
    return asyncio.run(coroutine)


NAMES = ("a", "b", "c")


def test_a_server_may_be_killed_at_any_step(tmp_path, app, disk):
    """Before each thing that is done to the disk, one after another, until a life gets to its end."""

    async def live(path, last):
        life = Life(path, app, concurrency=1)
        if not list(life.folder.batches):
            await life.begin(*NAMES)
        disk.fail(last, Killed())
        try:
            batch = await life.finish()
        except Killed:
            batch = None
        killed, life.runner._runs = disk.number >= last, {}
        disk.fail(None, None)
        await life.end()
        return None if killed else batch

    async def check(path):
        life = Life(path, app)
        batch = await life.finish()
        assert (batch.status, batch.total, batch.completed, batch.failed) == ("completed", 3, 3, 0)
        assert sorted(life.entries(batch)) == [(name, None) for name in NAMES]
        names = {path.name for path in (path / "files").iterdir()}
        kept = (batch.input_file_id, batch.output_file_id)
        assert names == {f"{name}.{kind}" for name in kept for kind in ("data", "json")}
        assert [path.name for path in (path / "batches").iterdir()] == [f"{batch.id}.json"]
        await life.end()

    last = 1
    while lives(live(tmp_path / str(last), last)) is None:
        lives(check(tmp_path / str(last)))
        last += 1
    assert last > 20
    path = tmp_path / "again"
    for last in range(1, 200):  # and one batch that is killed a little later each time
        if lives(live(path, last)) is not None:
            break
    lives(check(path))


@pytest.mark.parametrize("status", ["validating", "in_progress"])
def test_a_server_may_be_killed_while_it_cancels(tmp_path, app, disk, status):
    async def begin(path):
        life = Life(path, app)
        batch = await life.begin(*NAMES)
        if status == "in_progress":
            await life.folder.change(batch.id, ("validating",), status=status, total=3)
        with EntryFile(next(iter(life.folder.answers(batch).values())), "answers") as file:
            file.append(entry_of(Line(2, "b", URL, {}), Reply(200, {"name": "b"}, "7")))
        await life.runner.cancel(batch)
        await life.end()

    async def live(path, last):
        life = Life(path, app)
        disk.fail(last, Killed())
        try:
            batch = await life.finish()
        except Killed:
            batch = None
        killed, life.runner._runs = disk.number >= last, {}
        disk.fail(None, None)
        if not killed:
            assert (batch.status, batch.total, batch.completed, batch.failed) == ("cancelled", 3, 1, 2)
            assert sorted(life.entries(batch)) == [("a", "batch_cancelled"), ("b", None), ("c", "batch_cancelled")]
        await life.end()
        return killed

    for last in range(1, 100):
        path = tmp_path / str(last)
        lives(begin(path))
        if not lives(live(path, last)):
            break
        assert not lives(live(path, 1000))
    assert last > 10
    assert not app.asked


def test_a_batch_waits_while_the_disk_is_full(tmp_path, app, disk, caplog):
    async def live(path, first):
        life = Life(path, app)
        await life.begin(*NAMES)
        disk.fail(first, OSError(28, "No space left on device"), times=3)
        batch = await life.finish()
        disk.fail(None, None)
        assert (batch.status, batch.completed) == ("completed", 3)
        assert sorted(life.entries(batch)) == [(name, None) for name in NAMES]
        await life.end()

    for first in range(1, 30):
        lives(live(tmp_path / str(first), first))
    assert "batch_1 waits" in caplog.text
    assert max(app.asked.values()) == 29  # an answer is kept until it is written


def test_an_upload_to_a_full_disk_leaves_nothing(tmp_path, app, disk):
    async def live(path, first):
        life = Life(path, app)
        disk.fail(first, OSError(28, "No space left on device"), times=1)
        caught = None
        try:
            await life.begin(*NAMES)
        except Exception as error:
            caught = error
        is_whole = disk.number < first
        disk.fail(None, None)
        if caught is not None:
            assert (caught.status, caught.code) == (503, "storage_full")
            left = [path.name for path in path.rglob("*") if path.is_file() and path.parent.name != "temporary"]
            files = {file.id for file in life.folder.files}
            assert set(left) == {"lock", *(f"{name}.{kind}" for name in files for kind in ("data", "json"))}
            assert list(life.folder.batches) == []
        await life.end()
        return is_whole

    first = 1
    while not lives(live(tmp_path / str(first), first)):
        first += 1
    assert first > 10


@pytest.mark.parametrize(
    ("statuses", "asked", "error"),
    [
        ([503] * 9, 10, None),
        ([429] * 9, 10, None),
        ([500] * 3, 4, None),
        ([500] * 9, 4, "why"),
        ([504, 503, 500, 429], 5, None),
        ([400], 1, "why"),
        ([404], 1, "why"),
    ],
)
def test_what_may_go_better_later_is_asked_again(tmp_path, app, statuses, asked, error):
    async def live():
        app.refuse = {"b": list(statuses)}
        life = Life(tmp_path, app)
        await life.begin(*NAMES)
        batch = await life.finish()
        assert sorted(life.entries(batch)) == [("a", None), ("b", error), ("c", None)]
        await life.end()

    lives(live())
    assert app.asked == {"a": 1, "b": asked, "c": 1}
    assert all(state["is_background"] for state in app.states)


def test_lines_run_together_and_one_at_a_time_beside_others(tmp_path, app):
    most, running, is_busy = [0], [0], [False]

    class Slow(App):
        async def __call__(self, *arguments):
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0.002)
            await super().__call__(*arguments)
            running[0] -= 1

    async def live(path, busy):
        most[0], is_busy[0] = 0, busy
        life = Life(path, Slow(), concurrency=3, is_busy=lambda: is_busy[0])
        await life.begin(*map(str, range(12)))
        assert (await life.finish()).completed == 12
        await life.end()
        return most[0]

    assert lives(live(tmp_path / "alone", False)) == 3
    assert lives(live(tmp_path / "beside", True)) == 1


def test_batches_take_turns():
    async def live():
        slots, order = Slots(1, lambda: False), []

        async def take(name):
            for _ in range(3):
                assert await slots.take(asyncio.Event())
                order.append(name)
                await asyncio.sleep(0.001)
                slots.free()

        await asyncio.gather(take("a"), take("b"))
        return order

    assert lives(live()) == ["a", "b"] * 3


def test_a_line_that_nobody_waits_for_gets_no_slot():
    async def live():
        slots, gone = Slots(1, lambda: False), asyncio.Event()
        assert await slots.take(gone)
        gone.set()
        assert not await slots.take(gone)

    lives(live())


def test_the_limits_of_a_key_are_in_force_for_its_batches_by_themselves():
    client = Client("alice", 2, 100)
    twin = client.twin()
    client.admit()
    client.admit()
    twin.admit()
    twin.admit()
    for each in (client, twin):
        with pytest.raises(Exception, match="2 requests per minute"):
            each.admit()


def test_an_owner_is_a_key_and_not_its_place():
    keys = Keys([("one", Client("key-1")), ("two", Client("key-2"))], Client("anyone"))
    turned = Keys([("two", Client("key-1")), ("one", Client("key-2"))], Client("anyone"))
    owner = keys.identify(b"Bearer one").owner
    assert turned.find(owner) is turned.identify(b"Bearer one")
    assert keys.find("") is None
    assert Keys([], Client("anyone")).find(owner) is None
    assert "one" not in owner


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "data").write_text("x")
    with pytest.raises(ConfigError, match="data_dir"):
        DataFolder(str(tmp_path / "data"), 1)
