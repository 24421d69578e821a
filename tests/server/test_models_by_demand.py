"""Models by demand over HTTP: loaded, unloaded, put to sleep and reloaded beside what others ask for."""

import json
import re
import signal
import threading
from pathlib import Path

import pytest

from cli.conftest import make_tiny_llama
from octavo.cli.serve import _parser, read_arguments
from octavo.errors import OctavoError

from .running import post, until

ONE = {"environment": {"OCTAVO_NUM_THREADS": "1"}}
SHORT = {"prompt": "Once", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
LONG = {**SHORT, "max_tokens": 200, "stream": True, "logprobs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    for name in ("a", "org/b"):
        make_tiny_llama(path / name)
    return path


def card(client, name):
    return client.get(f"/v1/models/{name}").json()


def told(client, model):
    """The tokens of a long stream with their log-probabilities, and its last line; tokens may come together."""
    with client.stream("POST", "/v1/completions", json={**LONG, "model": model}) as answer:
        assert answer.status_code == 200
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    found = [json.loads(line)["choices"][0]["logprobs"] for line in lines if line.startswith('{"id"')]
    pairs = [zip(each["tokens"], each["token_logprobs"], strict=True) for each in found if each]
    return [pair for each in pairs for pair in each], lines[-1]


def test_requests_load_models_of_a_folder_and_the_list_tells_their_status(start, folder):
    server = start("--models-dir", folder, "--model-memory", "2GiB", **ONE)
    with server.client() as client:
        assert {each["id"]: each["status"] for each in client.get("/v1/models").json()["data"]} == {
            "a": "unloaded",
            "org/b": "unloaded",
        }
        assert client.get("/readyz").status_code == 200
        for name in ("a", "org/b"):
            assert client.post("/v1/completions", json={**SHORT, "model": name}).status_code == 200
            found = card(client, name)
            assert (found["status"], found["pinned"], found["max_model_len"]) == ("ready", False, 512)
            assert "text" in found["skills"]
            assert found["last_used"]
            assert found["memory"] > 100 << 20
        assert client.post("/tokenize", json={"model": "b", "prompt": "x"}).json()["count"]
        make_tiny_llama(folder / "late")
        assert client.post("/v1/completions", json={**SHORT, "model": "late"}).status_code == 200
        missing = client.post("/v1/completions", json={**SHORT, "model": "nobody"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        began = client.post("/v1/models/a/unload").json()
        assert (began["status"], began["memory"]) == ("unloaded", 0)
        assert client.post("/v1/models/a/load", json={"wait": False}).status_code == 202
        assert client.post("/v1/models/a/load").json()["status"] == "ready"
        assert client.post("/v1/models/a/load", json={"wat": 1}).status_code == 400
        assert client.post("/v1/models/nobody/load").status_code == 404


def test_what_others_stream_has_the_same_bits_while_a_model_comes_and_goes(start, folder):
    server = start("--models-dir", folder, "--model-memory", "2GiB", **ONE)
    found = []
    with server.client() as client, server.client() as other:
        expected = told(client, "a")
        client.post("/v1/completions", json={**SHORT, "model": "org/b"})
        streams = [threading.Thread(target=lambda: found.append(told(other, "a"))) for _ in range(3)]
        for stream in streams:
            stream.start()
        for verb in ("reload", "sleep", "wake", "unload", "load", "reload"):
            assert client.post(f"/v1/models/org/b/{verb}").status_code == 200
        assert client.post("/v1/models/a/reload").json()["status"] == "ready"  # and what it answers goes on
        for stream in streams:
            stream.join()
        assert found == [expected] * 3
        assert told(client, "a") == expected


@pytest.mark.parametrize("force", [False, True])
def test_a_model_that_is_unloaded_while_it_answers(start, folder, force):
    server = start("--models-dir", folder, "--model-memory", "2GiB", "--request-timeout", "60", **ONE)
    with server.client() as client, server.client() as other:
        expected = told(client, "a")
        with client.stream("POST", "/v1/completions", json={**LONG, "model": "a"}) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            assert other.post("/v1/models/a/unload", json={"force": force}).json()["status"] == "unloaded"
            rest = [line for line in (first, *lines) if line.startswith("data: ")]
        if not force:
            assert rest[-1] == "data: [DONE]"
        elif rest[-1] != "data: [DONE]":  # unless it was done before
            assert json.loads(rest[-1][6:])["error"]["code"] == "model_unloaded"
        assert told(client, "a") == expected  # which loads it again


def test_who_leaves_does_not_end_the_loading_that_others_wait_for(start, folder):
    server = start("--models-dir", folder, "--model-memory", "2GiB", **ONE)
    with server.client() as client:
        with server.connect() as connection:
            body = json.dumps({**SHORT, "model": "a"})
            connection.sendall(post("/v1/completions", body.encode()))
        assert client.post("/v1/completions", json={**SHORT, "model": "a"}).status_code == 200
        server.settle()


def test_a_model_that_does_not_fit_beside_others_waits_until_its_deadline(start, folder):
    server = start("--models-dir", folder, "--model-memory", "150MiB", "--pin", "a", **ONE)
    with server.client(headers={"x-request-timeout": "2"}) as client:
        assert card(client, "a")["status"] == "ready"
        refused = client.post("/v1/completions", json={**SHORT, "model": "org/b"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_room_for_model")
        message = refused.json()["error"]["message"]
        assert re.search(r"org/b, which takes \d+ MiB of 150 MiB: a \d+ MiB \(pinned\); waited 2 s", message)
        assert client.post("/v1/models/a/unload").status_code == 200  # who is asked to may
        assert client.post("/v1/completions", json={**SHORT, "model": "org/b"}).status_code == 200


def test_the_queue_of_a_model_has_its_limits_while_it_is_not_loaded(start, folder):
    server = start(
        "--models-dir", folder, "--model-memory", "150MiB", "--pin", "a", "--max-queued-requests", "1", **ONE
    )
    asked = {**SHORT, "model": "org/b"}
    found = []
    with server.client(headers={"x-request-timeout": "3"}) as client, server.client() as other:
        first = threading.Thread(target=lambda: found.append(client.post("/v1/completions", json=asked)))
        first.start()
        until(lambda: "no room" in card(other, "org/b")["phase"], server.read_log)
        assert other.post("/v1/completions", json=asked).json()["error"]["code"] == "queue_full"
        first.join()
        assert found[0].json()["error"]["code"] == "no_room_for_model"


def resident(server):
    """Bytes of anonymous memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10


def test_memory_is_given_back_to_the_system(start, real_model):
    server = start(real_model, "--served-model-name", "m", "--max-model-len", "2048", **ONE)
    with server.client() as client:
        seen = []
        for _ in range(3):
            asked = {"model": "m", "prompt": "Hello " * 300, "max_tokens": 2}
            assert client.post("/v1/completions", json=asked).status_code == 200
            awake = resident(server)
            assert client.post("/sleep").status_code == 200
            assert client.get("/is_sleeping").json() == {"is_sleeping": True}
            asleep = resident(server)
            assert asleep < awake - (4 << 20)  # the cache of 300 tokens has 6 MiB
            assert client.post("/wake_up").status_code == 200
            assert client.get("/is_sleeping").json() == {"is_sleeping": False}
            client.post("/v1/models/m/unload")
            seen.append(resident(server))
            assert seen[-1] < asleep - (64 << 20)  # its weights have 92 MiB
        assert seen[-1] < seen[0] + (40 << 20)


def test_a_server_ends_while_it_loads_a_model(start, real_model):
    server = start("--models-dir", real_model.parent, "--shutdown-timeout", "0", **ONE)
    with server.client() as client:
        (name,) = [each["id"] for each in client.get("/v1/models").json()["data"]][:1]
        assert client.post(f"/v1/models/{name}/load", json={"wait": False}).status_code == 202
    assert server.stop(signal.SIGTERM) == 0


def test_models_are_not_controlled_without_a_key_or_where_that_is_off(start, folder):
    server = start("--models-dir", folder, "--api-key", "k", "--no-model-control", **ONE)
    with server.client() as client:
        assert client.post("/v1/models/a/load").status_code == 401
        refused = client.post("/v1/models/a/load", headers={"authorization": "Bearer k"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_control_off")
        assert client.post("/sleep", headers={"authorization": "Bearer k"}).status_code == 403


def test_pages_of_others_can_not_unload_a_model_behind_a_user_s_back(start, folder):
    server = start("--models-dir", folder, **ONE)
    with server.client(headers={"origin": "http://evil.example"}) as client:
        assert client.post("/v1/models/a/unload").status_code == 415
        assert client.post("/sleep").status_code == 415


def test_keep_alive_of_ollama_s_api_unloads_and_pins(start, folder):
    server = start("--models-dir", folder, "--model-memory", "2GiB", **ONE)

    def loaded(client):
        return {each["name"]: each["expires_at"] for each in client.get("/api/ps").json()["models"]}

    with server.client() as client:
        assert {each["name"] for each in client.get("/api/tags").json()["models"]} >= {"a", "org/b"}
        ask = {"model": "a", "prompt": "Once", "stream": False, "raw": True, "options": {"num_predict": 2}}
        assert client.post("/api/generate", json=ask).status_code == 200
        assert loaded(client)["a"].startswith("9999")
        assert client.post("/api/generate", json={**ask, "keep_alive": "1h30m"}).status_code == 200
        assert not loaded(client)["a"].startswith("9999")
        client.post("/api/generate", json={**ask, "keep_alive": -1})
        assert card(client, "a")["pinned"]
        done = client.post("/api/generate", json={"model": "a", "keep_alive": 0, "stream": False}).json()
        assert done["done_reason"] == "unload"
        assert loaded(client) == {}
        client.post("/api/generate", json={**ask, "keep_alive": 0})
        until(lambda: loaded(client) == {}, server.read_log)
        assert client.post("/api/generate", json={**ask, "keep_alive": "soon"}).status_code == 400


def test_an_empty_folder_is_served_and_says_so(start, tmp_path):
    (tmp_path / "models").mkdir()
    server = start("--models-dir", tmp_path / "models", **ONE)
    assert "no model yet" in server.read_log()
    with server.client() as client:
        assert client.get("/v1/models").json()["data"] == []
        assert client.post("/v1/completions", json=SHORT).json()["error"]["code"] == "model_not_suitable"
        make_tiny_llama(tmp_path / "models" / "first")
        client.get("/v1/models")
        assert client.post("/v1/completions", json=SHORT).status_code == 200  # the only one


# -- options -----------------------------------------------------------------------------------------------------------


def read(*arguments):
    return read_arguments(_parser("octavo serve").parse(list(map(str, arguments))))


def test_keys_of_a_config_say_when_a_model_is_loaded_and_unloaded(tmp_path):
    file = tmp_path / "serve.yaml"
    models = [{"model": "x"}, {"model": "y", "load": "on-demand", "ttl": 60}, {"model": "z", "pin": True}]
    top = {"models-dir": str(tmp_path), "model-memory": "24GiB", "model-ttl": 600, "pin": ["one", "two"]}
    file.write_text(json.dumps({**top, "models": models}))
    config, specs = read("--config", file)
    assert [(spec.on_demand, spec.ttl, spec.pin) for spec in specs] == [
        (False, None, False),
        (True, 60, False),
        (False, None, True),
    ]
    assert (config.model_memory, config.model_ttl, config.pin) == (24 << 30, 600, ("one", "two"))
    assert config.models_dir == str(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("load", "later"), ("pin", "yes"), ("ttl", 0), ("ttl", "long")])
def test_a_wrong_key_of_a_config_is_named(tmp_path, key, value):
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"models": [{"model": "x", key: value}]}))
    with pytest.raises(OctavoError, match=f"{key} must be"):
        read("--config", file)


def test_models_of_a_folder_are_beside_those_that_are_named(tmp_path):
    assert read("--models-dir", tmp_path)[1] == []
    assert [spec.options["model"] for spec in read("--models-dir", tmp_path, "x", "y")[1]] == ["x", "y"]
    with pytest.raises(OctavoError, match="is no folder"):
        read("--models-dir", tmp_path / "missing")


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 << 30), ("1.5GB", 1_500_000_000), ("512MiB", 512 << 20)])
def test_sizes_of_memory(text, size):
    assert read("--model-memory", text, "x")[0].model_memory == size
