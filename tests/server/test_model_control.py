"""Models that come and go, without HTTP: who is loaded, who has to go, who waits, by a clock that stands still."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from cli.conftest import make_tiny_llama
from octavo.errors import ConfigError, MemoryPlanError, ModelLoadError, OctavoError
from octavo.server import model_room
from octavo.server.errors import DeadlineError, HttpError, UnavailableError
from octavo.server.model_control import ModelControl
from octavo.server.model_folder import ModelFolder
from octavo.server.model_state import RETRY_SECONDS, ModelState, Status
from octavo.server.models import ModelRegistry
from octavo.server.options import ModelSpec, ServerConfig

SECONDS = 600.0
NAMES = ("a", "b", "c")
OPTIONS = {"device": "cpu", "executor": "native", "max_num_seqs": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    for name in NAMES:
        make_tiny_llama(path / name)
    return path


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class House:
    """Models of a folder, `room` of which fit at once."""

    def __init__(self, folder, room, *, pin=(), ttl=None, specs=()):
        config = ServerConfig(models_dir=str(folder), model_ttl=ttl, pin=pin, shutdown_timeout=0.05)
        self.models = ModelRegistry(specs, config, OPTIONS)
        if room is not None:
            size = self.models.find("a").inspect().size
            config = replace(config, model_memory=int((room + 0.5) * size))
            self.models = ModelRegistry(specs, config, OPTIONS)
        self.clock = Clock()
        self.control = ModelControl(self.models, config, self.clock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.models.close()

    async def use(self, name, seconds=SECONDS):
        """The instance, with its user."""
        self.clock.now += 1
        return await self.control.acquire(self.models.find(name), seconds)

    async def ask(self, *names):
        for name in names:
            (await self.use(name)).release()

    @property
    def ready(self):
        return "".join(model.id for model in self.models if model.is_ready)

    def status(self, name):
        return self.models.find(name).status


def test_what_was_used_least_recently_goes_and_only_as_many_as_needed(folder):
    with House(folder, 2) as house:

        async def main():
            await house.ask("a", "b")
            assert house.ready == "ab"
            await house.ask("a", "c")
            assert house.ready == "ac"
            await house.ask("b")
            assert house.ready == "bc"

        asyncio.run(main())
        assert house.models.find("a").metrics.unloads == {"room": 1}
        assert house.models.find("c").metrics.unloads == {}


def test_a_pinned_model_stays_and_was_loaded_at_the_start(folder):
    with House(folder, 2, pin=("a",)) as house:
        assert [model.id for model in house.models if model.at_start] == ["a"]
        house.models.load_all()

        async def main():
            await house.ask("b", "c", "b", "c")
            assert house.ready == "ac"

        asyncio.run(main())


def test_requests_that_come_together_load_a_model_once(folder):
    with House(folder, 2) as house:

        async def main():
            instances = await asyncio.gather(*(house.use("a") for _ in range(20)))
            assert len(set(instances)) == 1
            assert instances[0].num_users == 20

        asyncio.run(main())
        assert house.models.find("a").metrics.loads == {"ready": 1}


def test_who_leaves_while_a_model_is_loaded_does_not_end_it_for_others(folder):
    with House(folder, 2) as house:

        async def main():
            waiting = [asyncio.ensure_future(house.use("a")) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.gather(*waiting[1:])
            assert house.ready == "a"

        asyncio.run(main())


def test_an_idle_model_is_unloaded_when_its_time_is_over(folder):
    with House(folder, 3, ttl=60.0, pin=("c",)) as house:
        house.models.load_all()

        async def main():
            await house.ask("a")
            user = await house.use("b")
            house.clock.now += 58
            await house.control.expire()
            assert house.ready == "abc"
            house.clock.now += 2
            await house.control.expire()
            assert house.ready == "bc"  # one has a user, one is pinned
            user.release()
            await house.control.expire()
            assert house.ready == "bc"
            house.clock.now += 60
            await house.control.expire()
            assert house.ready == "c"

        asyncio.run(main())


def test_a_model_of_the_config_has_a_time_of_its_own(folder):
    spec = ModelSpec(options={**OPTIONS, "model": str(folder / "a")}, names=("short",), on_demand=True, ttl=5.0)
    with House(folder, None, ttl=60.0, specs=[spec]) as house:

        async def main():
            await house.ask("short", "b")
            house.clock.now += 6
            await house.control.expire()
            assert house.ready == "b"

        asyncio.run(main())


def test_keep_alive_holds_until_the_model_is_unloaded(folder):
    with House(folder, 3) as house:
        model = house.models.find("a")

        async def main():
            await house.ask("a")
            house.control.keep(model, -1.0)
            assert model.pinned
            house.clock.now += 1e6
            await house.control.expire()
            house.control.keep(model, 5.0)
            assert not model.pinned
            house.clock.now += 6
            await house.control.expire()
            assert (house.ready, model.ttl) == ("", None)

        asyncio.run(main())


def test_a_request_waits_for_room_until_others_are_done(folder):
    with House(folder, 1) as house:

        async def main():
            user = await house.use("a")
            waiting = asyncio.ensure_future(house.use("b"))
            while "no room for b" not in house.models.find("b").phase:
                await asyncio.sleep(0)
            assert house.ready == "a"
            user.release()
            await waiting
            assert house.ready == "b"

        asyncio.run(main())


def test_without_room_until_its_deadline_a_request_is_told_the_numbers_and_who_has_it(folder):
    with House(folder, 1) as house:

        async def main():
            await house.use("a")
            with pytest.raises(UnavailableError, match=r"takes \d+ MiB of \d+ MiB: a \d+ MiB \(1 requests\)") as caught:
                await house.use("b", 0.2)
            assert caught.value.code == "no_room_for_model"
            while house.control._tasks:
                await asyncio.sleep(0)
            assert house.status("b") is Status.UNLOADED  # nobody waits any more
            assert house.ready == "a"

        asyncio.run(main())


def test_who_waits_for_long_has_the_others_take_nothing_new(folder, monkeypatch):
    monkeypatch.setattr(model_room, "PATIENCE", 0.0)
    with House(folder, 1) as house:

        async def main():
            user = await house.use("a")
            first = asyncio.ensure_future(house.use("b"))
            while house.ready:
                await asyncio.sleep(0)
            second = asyncio.ensure_future(house.use("a"))  # waits behind b
            await asyncio.sleep(0)
            user.release()
            (await first).release()
            (await second).release()
            assert house.ready == "a"

        asyncio.run(main())
        assert house.models.find("b").metrics.loads == {"ready": 1}


def test_a_model_that_can_never_fit_is_refused_at_once(folder):
    config = ServerConfig(models_dir=str(folder), model_memory=50 << 20)
    models = ModelRegistry([], config, OPTIONS)

    async def main():
        control = ModelControl(models, config)
        for _ in range(2):
            with pytest.raises(HttpError, match=r"does not fit: weights .* but 50 MiB may be used") as caught:
                await control.acquire(models.find("a"), SECONDS)
            assert caught.value.code == "model_does_not_fit"

    asyncio.run(main())


def test_models_of_the_start_that_do_not_fit_together_end_it(folder):
    size = ModelRegistry([], ServerConfig(models_dir=str(folder)), OPTIONS).find("a").inspect().size
    specs = [ModelSpec(options={**OPTIONS, "model": str(folder / name)}, names=(name,)) for name in "ab"]
    models = ModelRegistry(specs, ServerConfig(model_memory=int(size * 1.5)))
    with pytest.raises(MemoryPlanError, match="b does not fit beside the others"):
        models.load_all()
    models.close()


def test_a_cache_takes_at_most_its_part_of_the_budget(folder):
    spec = ModelSpec(options={**OPTIONS, "model": str(folder / "a"), "max_num_seqs": 4000}, names=("wide",))
    models = ModelRegistry([spec], ServerConfig(model_memory=1 << 30))
    plan = models.find("wide").inspect().plan
    assert 0.9 * 2**28 < plan.kv_cache <= 2**28
    said = ModelSpec(options={**spec.options, "gpu_memory_utilization": 0.75}, names=("wide",))
    plan = ModelRegistry([said], ServerConfig(model_memory=1 << 30)).find("wide").inspect().plan
    assert plan.kv_cache > 2**28
    assert plan.total <= 0.75 * 2**30


def test_all_who_wait_are_told_why_loading_failed_and_the_next_tries_again(folder, tmp_path):
    broken = make_tiny_llama(tmp_path / "models" / "a")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:100])
    with House(tmp_path / "models", None) as house:

        async def main():
            failed = await asyncio.gather(*(house.use("a") for _ in range(5)), return_exceptions=True)
            assert {type(error) for error in failed} == {UnavailableError}
            assert {error.code for error in failed} == {"model_failed"}
            assert "model.safetensors" in str(failed[0])
            (broken / "model.safetensors").write_bytes(weights)
            with pytest.raises(UnavailableError):
                await house.use("a")  # too soon
            assert house.models.find("a").metrics.loads["failed"] == 1
            house.clock.now += RETRY_SECONDS
            await house.ask("a")
            assert house.ready == "a"

        asyncio.run(main())


def test_unloading_lets_requests_finish_and_ends_those_that_do_not(folder):
    with House(folder, 2) as house:
        told = []

        async def main():
            user = await house.use("a")
            unloading = asyncio.ensure_future(house.control.unload(house.models.find("a")))
            await asyncio.sleep(0.01)
            assert not unloading.done()
            following = asyncio.ensure_future(house.use("a"))  # waits, and loads it again
            user.release()
            await unloading
            again = await following
            assert again is not user
            again.active.add(lambda error: (told.append(error.code), again.release()))
            await house.control.unload(house.models.find("a"), force=True)
            with pytest.raises(UnavailableError, match="was unloaded while it answered"):
                _ = again.engine

        asyncio.run(main())
        assert told == ["model_unloaded"]
        assert house.ready == ""


@pytest.mark.parametrize("level", [1, 2])
def test_a_request_wakes_a_model_that_sleeps(folder, level):
    with House(folder, 2) as house:
        model = house.models.find("a")

        async def main():
            await house.ask("a")
            held = model.held
            await house.control.sleep(model, level)
            assert (model.status, model.state.sleep_level, model.is_ready) == (Status.SLEEPING, level, False)
            assert model.held == (model.llm.model.plan.weights if level == 1 else 0)
            await house.ask("a")
            assert (model.status, model.state.sleep_level, model.held) == (Status.READY, 0, held)

        asyncio.run(main())
        assert model.metrics.loads["ready"] == level


def test_who_is_not_loaded_can_not_be_put_to_sleep(folder):
    with House(folder, 2) as house, pytest.raises(HttpError, match="a is not loaded"):
        asyncio.run(house.control.sleep(house.models.find("a")))


def test_a_model_that_wakes_needs_room_for_its_cache_alone(folder):
    with House(folder, 1) as house:
        model = house.models.find("a")

        async def main():
            await house.ask("a")
            await house.control.sleep(model)
            plan = model.llm.model.plan
            model.instance.held = plan.total * 9 // 10  # as if its weights were nearly all of it
            await house.use("a", 5.0)
            assert model.held == plan.total

        asyncio.run(main())


def test_a_sleeping_model_waits_for_room_to_wake(folder):
    with House(folder, 1) as house:

        async def main():
            await house.ask("a")
            await house.control.sleep(house.models.find("a"))
            await house.ask("b")
            user = await house.use("b")
            with pytest.raises(UnavailableError, match="no room for a"):
                await house.use("a", 0.1)
            user.release()
            await house.ask("a")
            assert house.ready == "a"

        asyncio.run(main())


def test_a_reload_has_the_old_instance_finish_its_requests(folder):
    with House(folder, 3) as house:
        model = house.models.find("a")

        async def main():
            old = await house.use("a")
            await house.control.reload(model)
            new = await house.use("a")
            assert new is not old
            assert old.engine is not new.engine
            assert model.retired == [old]
            old.release()
            while model.retired:
                await asyncio.sleep(0)
            assert model.is_ready

        asyncio.run(main())


def test_a_reload_without_room_for_both_lets_requests_finish_first(folder):
    with House(folder, 1) as house:
        model = house.models.find("a")

        async def main():
            old = await house.use("a")
            reloading = asyncio.ensure_future(house.control.reload(model))
            while model.is_ready:
                await asyncio.sleep(0)
            old.release()
            await reloading
            assert model.is_ready
            assert model.instance is not old

        asyncio.run(main())


@pytest.mark.parametrize("room", [1, 3])
def test_a_reload_of_files_that_can_not_be_read_keeps_the_old_instance(tmp_path, room):
    path = make_tiny_llama(tmp_path / "a")
    with House(tmp_path, room) as house:

        async def main():
            await house.ask("a")
            config = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps(config | {"hidden_size": 7}))
            with pytest.raises(ModelLoadError):
                await house.control.reload(house.models.find("a"))
            await house.ask("a")
            assert (house.ready, house.models.find("a").metrics.loads) == ("a", {"ready": 1, "failed": 1})

        asyncio.run(main())


def test_counts_of_a_model_outlive_its_engines(folder):
    with House(folder, 2) as house:
        model = house.models.find("a")

        async def main():
            for expected in (3, 6):
                instance = await house.use("a")
                async for _ in instance.engine.generate("abc"):
                    pass
                instance.release()
                await house.control.unload(model)
                assert model.stats().prefix_queries == expected

        asyncio.run(main())


def gated(function, gate):
    """The function, which waits for a threading.Event first."""

    def wait(*arguments):
        gate.wait(60)
        return function(*arguments)

    return wait


def test_the_room_of_a_model_is_free_when_it_has_given_it_back(folder, monkeypatch):
    with House(folder, 1) as house:
        model, gate = house.models.find("a"), threading.Event()

        async def main():
            await house.ask("a")
            held = model.held
            monkeypatch.setattr(model.instance, "close", gated(model.instance.close, gate))
            unloading = asyncio.ensure_future(house.control.unload(model))
            while model.instance is not None:
                await asyncio.sleep(0)
            assert model.held == held
            loading = asyncio.ensure_future(house.use("b"))
            while not house.control._room.is_wanted_by(house.models.find("b")):
                await asyncio.sleep(0)
            gate.set()
            await unloading
            assert model.held == 0
            (await loading).release()

        asyncio.run(main())


def test_a_sleeper_that_others_want_the_room_of_does_not_have_them_wait_for_it(folder, monkeypatch):
    with House(folder, 2) as house:
        a, b, c = (house.models.find(name) for name in NAMES)
        gate, room = threading.Event(), house.control._room

        async def main():
            await house.ask("b", "c")
            await house.control.sleep(c)
            monkeypatch.setattr(b.instance, "close", gated(b.instance.close, gate))
            making = asyncio.ensure_future(room.make(a, house.models.budget.total(a.config)))
            while not b.closing:
                await asyncio.sleep(0)
            waking = asyncio.ensure_future(house.ask("c"))
            while not c.lock.locked():
                await asyncio.sleep(0)
            gate.set()
            await asyncio.wait_for(making, 60)
            assert room.free(a) == 0
            a.reserved = 0
            room.tell()
            await asyncio.wait_for(waking, 60)

        asyncio.run(main())


def test_doors_that_were_closed_for_clients_who_gave_up_open_again(folder, monkeypatch):
    monkeypatch.setattr(model_room, "PATIENCE", 0.0)
    with House(folder, 1) as house:

        async def main():
            user = await house.use("a")
            with pytest.raises(UnavailableError, match="no room for b"):
                await house.use("b", 0.1)
            while house.control._tasks:
                await asyncio.sleep(0)
            assert (house.ready, house.models.find("a").phase) == ("a", "ready")
            assert await house.use("a") is user

        asyncio.run(main())


def test_a_look_at_headers_disturbs_no_request(folder, monkeypatch):
    with House(folder, 1) as house:
        model, gate = house.models.find("a"), threading.Event()
        model.prospect = None
        headers, looks = model.inspect, []

        def inspect():
            looks.append(1)
            if len(looks) > 1:
                return headers()
            gate.wait(60)
            raise OctavoError("half of them is written")

        monkeypatch.setattr(model, "inspect", inspect)

        async def main():
            looking = asyncio.ensure_future(house.control.refresh())
            while not looks:
                await asyncio.sleep(0)
            loading = asyncio.ensure_future(house.use("a"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(looks) == 1
            gate.set()
            await looking
            (await loading).release()
            assert house.status("a") is Status.READY

        asyncio.run(main())


def test_unloading_frees_what_a_reload_has_left_to_its_requests(folder):
    with House(folder, 3) as house:
        model = house.models.find("a")

        async def main():
            old = await house.use("a")
            old.active.add(lambda _: old.release())
            await house.control.reload(model)
            await house.control.unload(model, force=True)
            assert (model.held, model.retired, old.llm) == (0, [], None)

        asyncio.run(main())
        assert model.metrics.unloads.total() == 2


def test_a_moment_without_memory_is_not_the_request_s_mistake(folder, monkeypatch):
    with House(folder, 1) as house:

        def make(prospect):
            raise MemoryPlanError("others have it")

        monkeypatch.setattr(house.models.find("a"), "make", make)
        with pytest.raises(UnavailableError, match="others have it") as caught:
            asyncio.run(house.control.acquire(house.models.find("a"), SECONDS))
        assert caught.value.code == "model_failed"


# -- the folder --------------------------------------------------------------------------------------------------------


def test_what_is_in_a_folder_of_models(tmp_path):
    for name in ("plain", "org/inner", ".hidden", "late.part", "no-config", "empty", "org/deep/er"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("plain", "org/inner", ".hidden", "late.part", "org/deep/er"):
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "no-config" / "model.safetensors").write_bytes(b"")
    for name in ("small.Q4_K_M.gguf", "half.gguf.part", "org/other.gguf", "readme.md"):
        (tmp_path / name).write_bytes(b"")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("{}")
    (tmp_path / "linked").symlink_to(elsewhere)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    found = ModelFolder(str(tmp_path)).scan()
    assert set(found) == {"plain", "org/inner", "no-config", "small.Q4_K_M", "org/other", "linked"}


def test_a_folder_is_looked_into_again_only_where_it_changed(tmp_path, monkeypatch):
    folder = ModelFolder(str(tmp_path))
    make_tiny_llama(tmp_path / "org" / "a")
    assert set(folder.scan()) == {"org/a"}
    monkeypatch.setattr(ModelFolder, "_look_into", lambda *_: pytest.fail("nothing has changed"))
    assert set(folder.scan()) == {"org/a"}
    monkeypatch.undo()
    make_tiny_llama(tmp_path / "org" / "b")
    assert set(folder.scan()) == {"org/a", "org/b"}


def test_models_appear_and_disappear_and_one_that_is_loaded_stays(tmp_path):
    for name in ("a", "b"):
        make_tiny_llama(tmp_path / name)
    with House(tmp_path, 3) as house:

        async def main():
            await house.ask("a")
            for name in ("a", "b"):
                (tmp_path / name).rename(tmp_path / f".{name}")
            make_tiny_llama(tmp_path / "c")
            assert (await house.control.find("c")).id == "c"
            await house.control.refresh()
            assert [model.id for model in house.models] == ["a", "c"]
            await house.ask("a")
            await house.control.unload(house.models.find("a"))
            await house.control.refresh()
            assert [model.id for model in house.models] == ["c"]

        asyncio.run(main())


def test_headers_say_what_an_unloaded_model_can_do(tmp_path):
    make_tiny_llama(tmp_path / "a")
    make_tiny_llama(tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text('{"architectures": ["NobodyForCausalLM"]}')
    with House(tmp_path, 1) as house:
        asyncio.run(house.control.refresh())
        assert house.models.find("a").skills == {"text"}
        assert house.models.find("a").max_model_len == 512
        assert house.status("broken") is Status.FAILED
        assert house.models.find(None, "text").id == "a"  # the only one that can
        with pytest.raises(HttpError, match="can't embed"):
            house.models.find("a", "embed")
        make_tiny_llama(tmp_path / "broken")  # mended
        house.clock.now += RETRY_SECONDS
        asyncio.run(house.control.refresh())
        assert house.status("broken") is Status.UNLOADED


def test_an_empty_folder_is_no_mistake_but_an_unknown_pin_is(tmp_path):
    with House(tmp_path, None) as house, pytest.raises(HttpError, match="No model that is served can answer text"):
        house.models.find(None, "text")
    with pytest.raises(ConfigError, match="pin='nobody': no model has this name"):
        ModelRegistry([], ServerConfig(models_dir=str(tmp_path), pin=("nobody",)), OPTIONS)


def test_a_name_that_was_given_to_another_model_stays_its(folder):
    spec = ModelSpec(options={**OPTIONS, "model": str(folder / "b")}, names=("a",), on_demand=True)
    with House(folder, None, specs=[spec]) as house:
        assert house.models.find("a").config.model == str(folder / "b")
        assert len(house.models) == 3


# -- states ------------------------------------------------------------------------------------------------------------


def test_states_have_their_ways():
    state = ModelState("m")
    with pytest.raises(AssertionError):
        state.become(Status.READY)
    state.become(Status.LOADING)
    state.fail(OctavoError("no"), 5.0)
    assert (state.status, str(state.failure), state.retry_at) == (Status.FAILED, "no", 5.0 + RETRY_SECONDS)
    state.become(Status.LOADING)
    assert state.failure is None
    state.become(Status.READY)
    state.sleep(2)
    assert (state.phase, state.sleep_level) == ("sleeping", 2)


def test_a_deadline_while_a_model_is_being_read(folder, monkeypatch):
    with House(folder, None) as house:
        model = house.models.find("a")
        gate = asyncio.Event()

        async def main():
            async def wait(*_):
                await gate.wait()

            monkeypatch.setattr(house.control, "_inspect", wait)
            with pytest.raises(DeadlineError, match=r"a was not loaded within 0\.05 s: reading headers"):
                await house.control.acquire(model, 0.05)
            gate.set()
            await house.ask("a")

        asyncio.run(main())
