"""The engine room: its numbers add up, it shows no text, and it disturbs nobody."""

import asyncio
import gc
import json
import signal
import threading
import weakref
from concurrent.futures import Future
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from cli.conftest import make_tiny_llama
from octavo.server.engine_room import EngineRoom, _Window
from octavo.server.protocol.engine_stats import EngineStatsAnswer
from speech.encoded import wav

from .conftest import SPEECH
from .running import until
from .test_faults import RUN_BROKEN

SECRET = "the treasure is below the old oak "
LONG = {"max_tokens": 1000, "ignore_eos": True, "temperature": 1, "seed": 1, "stream": True}


def look(client):
    told = client.get("/engine/stats")
    assert told.status_code == 200
    return EngineStatsAnswer.model_validate_json(told.content, strict=True)


def check_sums(model):
    """What a model's numbers must be together."""
    kv = model.kv
    assert kv.used + kv.cached + kv.free == kv.num_blocks
    cells = {}
    for count, owner in kv.blocks:
        cells[owner] = cells.get(owner, 0) + count
    assert sum(cells.values()) * kv.blocks_per_cell == kv.num_blocks
    assert cells.pop("free", 0) == kv.free
    assert cells.pop("cached", 0) == kv.cached
    shared = cells.pop("shared", 0)
    blocks = {request.n: request.blocks for request in model.requests if request.blocks}
    assert cells.keys() <= blocks.keys()
    assert all(cells.get(n, 0) <= count <= cells.get(n, 0) + shared for n, count in blocks.items())
    assert sum(blocks.values()) >= sum(cells.values()) + 2 * shared
    assert len(model.requests) + model.more_requests == model.running + model.waiting


def begin(server, body):
    """A stream that has its first event."""
    client = server.client()
    stream = client.send(client.build_request("POST", "/v1/completions", json={**LONG, **body}), stream=True)
    lines = stream.iter_lines()
    next(lines)
    return client, lines


def test_an_idle_engine_is_told_of_and_takes_no_step(http):
    before, after = look(http), look(http)
    (model,) = after.models
    assert (model.state, model.kind, model.skills, model.stale) == ("ready", "text", ["text"], False)
    assert model.requests == []
    assert model.step.count == before.models[0].step.count
    assert after.uptime > before.uptime > 0
    assert after.machine.memory_process > 0
    check_sums(model)


def test_requests_share_a_prefix_and_every_block_has_its_owner(server, http):
    streams = [begin(server, {"prompt": SECRET * 30 + str(i), "cache_salt": "room", "n": i + 1}) for i in range(3)]
    told = http.get("/engine/stats").text
    model = look(http).models[0]
    check_sums(model)
    assert "treasure" not in told
    assert "room" not in told
    assert [request.n for request in model.requests] == [1, 2, 3]
    assert [request.sequences for request in model.requests] == [1, 2, 3]
    assert {request.state for request in model.requests} == {"decode"}
    assert all(request.output_tokens > 0 and request.max_tokens == 1000 for request in model.requests)
    assert all(request.computed_tokens > request.prompt_tokens for request in model.requests)
    assert model.requests[0].cached_tokens == 0 < model.requests[1].cached_tokens
    assert "shared" in {owner for _, owner in model.kv.blocks}
    assert model.rates.output_tokens_per_s > 0
    assert model.step.last.sequences == 6
    mean = model.step.mean
    assert 0 < mean.plan + mean.commit + mean.land < mean.run
    streams.pop(1)[0].close()
    until(lambda: len(look(http).models[0].requests) == 2)
    assert [request.n for request in look(http).models[0].requests] == [1, 3]  # they keep their numbers
    for client, _ in streams:
        client.close()
    server.settle()
    model = look(http).models[0]
    assert model.kv.used == 0 < model.kv.cached
    check_sums(model)


def test_events_come_again_and_again_and_tell_of_new_requests(server, http):
    with http.stream("GET", "/engine/events?interval=0.05") as stream:
        lines = stream.iter_lines()
        assert [next(lines), next(lines)[:12]] == ["event: stats", 'data: {"time']
        begun = []
        for line in lines:
            if not line.startswith("data: "):
                continue
            told = EngineStatsAnswer.model_validate_json(line.removeprefix("data: "))
            if not begun:
                begun.append(begin(server, {"prompt": SECRET}))
            if told.models[0].requests:
                break
        check_sums(told.models[0])
    begun[0][0].close()
    server.settle()


@pytest.mark.parametrize("interval", ["0.04", "61", "-1", "0", "nan", "inf", "soon", "", "1&interval=2"])
def test_a_wrong_interval_is_refused(http, interval):
    answer = http.get(f"/engine/events?interval={interval}")
    assert answer.status_code == 400
    assert "interval" in answer.json()["error"]["message"] or "twice" in answer.json()["error"]["message"]


def test_a_model_of_each_kind_is_told_of(audio_server, pooling_server):
    with audio_server.client() as client:
        assert [(model.kind, model.kv is None) for model in look(client).models] == [("text", False), ("speech", False)]
    with pooling_server.client() as client:
        client.post("/v1/embeddings", json={"model": "words", "input": "and so"})
        found = {model.id: model for model in look(client).models}
    assert found["words"].kind == "embed"
    assert found["words"].kv is None
    assert found["words"].totals.requests > 0
    assert found["chat"].kind == "text"


def test_blocks_of_speech_have_their_owners_too(audio_server):
    tone = (9000 * np.sin(np.arange(16000 * 60) / 6)).astype(np.int16)
    seen = []
    with audio_server.client() as client, client.stream("GET", "/engine/events?interval=0.05") as stream:
        transcription = threading.Thread(target=transcribe, args=(audio_server, wav(tone)))
        transcription.start()
        for line in stream.iter_lines():
            if line.startswith("data: "):
                model = EngineStatsAnswer.model_validate_json(line.removeprefix("data: ")).models[1]
                check_sums(model)
                seen += [request.blocks for request in model.requests]
            if any(seen):
                break
        transcription.join()
    assert max(seen) * model.kv.block_size >= 1500  # positions of a window


def transcribe(server, audio):
    with server.client() as client:
        file = {"file": ("tone.wav", audio)}
        client.post("/v1/audio/transcriptions", data={"model": SPEECH}, files=file).raise_for_status()


class Engine:
    def __init__(self, view):
        self.driver = SimpleNamespace(view=view)


def test_all_who_ask_at_once_share_a_look():
    views = []

    def view():
        views.append(Future())
        return views[-1]

    model = SimpleNamespace(llm=Engine(view), config=SimpleNamespace(device="cpu"))
    window = _Window(model)
    window.show = lambda look: look[1]
    room = EngineRoom([])
    room._windows = lambda: [window]

    async def ask():
        looks = [asyncio.ensure_future(room.look()) for _ in range(10)]
        await asyncio.sleep(0)
        looks.pop().cancel()
        while not views and not looks[0].done():
            await asyncio.sleep(0)
        views[0].set_result(SimpleNamespace(num_blocks=1, requests=()))
        answers = await asyncio.gather(*looks)
        fresh = await room.look(60)
        return {*answers, fresh}

    assert len(asyncio.run(ask())) == len(views) == 1


def test_both_need_a_key_where_keys_are_set(start, tiny_model):
    server = start(tiny_model, "--api-key", "right")
    with server.client() as client:
        for path in ("/engine/stats", "/engine/events"):
            assert client.get(path).status_code == 401
        assert client.get("/engine/stats", headers={"authorization": "Bearer right"}).status_code == 200


def test_an_engine_that_hangs_is_shown_as_it_was(start, tiny_model, tmp_path):
    told = tmp_path / "told"
    told.write_text("ok")
    server = start(told, "serve", tiny_model, code=RUN_BROKEN)
    with server.client() as client:
        body = {"prompt": "Once", "max_tokens": 5}
        client.post("/v1/completions", json=body)
        before = look(client).models[0]
        told.write_text("hang")
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=body, timeout=0.5)
        after = look(client).models[0]
        assert after.stale
        assert not before.stale
        assert after.step.count == before.step.count > 0
        assert after.requests == []


def test_streams_end_at_once_when_the_server_shuts_down(start, tiny_model):
    server = start(tiny_model)
    ended = threading.Event()
    begun = threading.Barrier(2)

    def listen():
        with server.client() as client, client.stream("GET", "/engine/events?interval=60") as stream:
            lines = stream.iter_lines()
            next(lines)
            begun.wait()
            assert not [line for line in lines if line.startswith("event: error")]
        ended.set()

    listener = threading.Thread(target=listen)
    listener.start()
    begun.wait()
    assert server.stop(signal.SIGTERM) == 0
    listener.join()
    assert ended.is_set()


def test_listeners_who_leave_are_forgotten(server, http):
    files = server.num_files()
    for _ in range(20):
        with server.client() as client, client.stream("GET", "/engine/events") as stream:
            next(stream.iter_lines())
    until(lambda: server.num_files() <= files)
    assert json.loads(http.get("/load").text)["server_load"] == 0


def test_nothing_of_a_model_that_was_unloaded_is_held():
    seen = Future()
    seen.set_result("view")
    model = SimpleNamespace(llm=Engine(lambda: seen))
    window = _Window(model)
    assert asyncio.run(window.look()) == (model.llm, False)
    gone = weakref.ref(model.llm)
    model.llm = None
    gc.collect()
    assert gone() is None
    assert asyncio.run(window.look()) == (None, False)
    assert window._view is None


def test_models_that_are_not_loaded_or_sleep_are_told_of(start, tmp_path):
    for name in ("one", "two"):
        make_tiny_llama(tmp_path / name)
    server = start("--models-dir", tmp_path, "--pin", "two", "--max-num-seqs", "4")
    with server.client() as client:

        def states():
            return {model.id: (model.state, model.pinned, model.kv is None) for model in look(client).models}

        until(lambda: states() == {"one": ("unloaded", False, True), "two": ("ready", True, False)}, states)
        assert client.post("/v1/completions", json={"model": "one", "prompt": "a", "max_tokens": 2}).status_code == 200
        assert states()["one"] == ("ready", False, False)
        counted = look(client).models[0].totals
        assert client.post("/v1/models/one/sleep").status_code == 200
        assert states()["one"][0] == "sleeping"
        assert client.post("/v1/models/one/unload").status_code == 200
        assert states()["one"] == ("unloaded", False, True)
        assert look(client).models[0].totals == counted
        assert counted.requests == 1
