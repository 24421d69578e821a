"""Plans of models on the Hub are those of the same files here, though nothing but headers is read."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from fake_hub import running_hub

import weights.quantizers as q
from checkpoints import save_checkpoint, save_gguf
from cli.conftest import make_tiny_llama
from octavo.errors import ModelLoadError
from octavo.plan.remote import write_gguf

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
GROUPS = {"group_0": {"targets": ["Linear"], "weights": {**INT4, "symmetric": True}, "format": "pack-quantized"}}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": GROUPS}


def quantized(path, config, writer):
    save_checkpoint(path, hidden_size=64, intermediate_size=192, num_attention_heads=4)
    q.quantize(path, config, writer)


MODELS = {
    "safetensors": lambda path: make_tiny_llama(path),
    "shards": lambda path: save_checkpoint(path, shard="40KB"),
    "gptq": lambda path: quantized(path, {"quant_method": "gptq"}, q.gptq(order="mixed")),
    "compressed-tensors": lambda path: quantized(path, COMPRESSED, q.compressed("pack-quantized", **INT4)),
    "bitsandbytes": lambda path: quantized(path, {"quant_method": "bitsandbytes"}, q.bitsandbytes("nf4")),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with running_hub(root) as hub:
        yield hub


def plan(hub, tmp_path, *arguments):
    """`octavo plan` in a process of its own that asks the hub, with an empty cache."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OCTAVO_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "OCTAVO_CACHE": str(tmp_path / "cache")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "octavo", "plan", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def sizes(done):
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kept = ("label", "weights", "workspace", "kv_per_token", "asked_kv_cache")
    return {**found["about"], "model": ""}, [{name: row[name] for name in kept} for row in found["others"]]


@pytest.mark.parametrize("kind", MODELS)
def test_the_plan_of_headers_is_that_of_the_files(kind, hub, tmp_path):
    folder = hub.root / "org" / kind
    MODELS[kind](folder)
    assert sizes(plan(hub, tmp_path, f"org/{kind}")) == sizes(plan(hub, tmp_path, str(folder)))
    assert not (tmp_path / "home" / "hub").exists() or not [*(tmp_path / "home" / "hub").glob("models--*")]


def test_what_an_interrupted_fetch_left_is_planned_from_headers(hub, tmp_path, monkeypatch):
    folder = hub.root / "org" / "cut"
    save_checkpoint(folder, shard="40KB")
    cached = tmp_path / "home" / "hub" / "models--org--cut"
    snapshot = cached / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    min(snapshot.glob("*.safetensors")).unlink()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    assert sizes(plan(hub, tmp_path, "org/cut")) == sizes(plan(hub, tmp_path, str(folder)))
    monkeypatch.setattr(hub, "url", "http://127.0.0.1:9")  # nobody listens there
    error = error_of(plan(hub, tmp_path, "org/cut"))
    assert "model-00001" in error
    assert "can't be reached" not in error


def test_a_gguf_file_that_ends_early_is_one_error(tmp_path):
    with pytest.raises(ModelLoadError, match="header: ends after 4 of 100 bytes"):
        write_gguf(tmp_path / "x.gguf", "x.gguf", 100, lambda name, first, size: b"GGUF"[first : first + size])


def test_one_gguf_file_is_planned_by_its_quantization_or_its_name(hub, tmp_path):
    folder = hub.root / "org" / "gguf"
    folder.mkdir(parents=True)
    save_gguf(folder / "m-Q4_0.gguf", "Q4_0")
    save_gguf(folder / "m-Q8_0.gguf", "Q8_0")
    wanted = sizes(plan(hub, tmp_path, str(folder / "m-Q4_0.gguf")))
    assert sizes(plan(hub, tmp_path, "org/gguf:Q4_0")) == wanted
    assert sizes(plan(hub, tmp_path, "org/gguf/m-Q4_0.gguf")) == wanted
    done = plan(hub, tmp_path, "org/gguf:Q5_K")
    assert done.returncode == 2
    assert done.stderr == "octavo: org/gguf has no file of Q5_K\n"


def test_no_more_than_headers_is_fetched(hub, tmp_path):
    """Of a file whose header is short, one piece; whether the server knows ranges or not."""
    folder = hub.root / "org" / "large"
    make_tiny_llama(folder, hidden_size=512, intermediate_size=4096, num_hidden_layers=4)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 20 << 20
    hub.served = 0
    done = plan(hub, tmp_path, "org/large")
    assert done.returncode == 0, done.stderr
    assert hub.served < (1 << 20) + 10_000
    assert json.loads(done.stdout)["origin"].startswith("1 MiB of headers from the Hub; ")
    hub.knows_ranges = False
    try:
        again = plan(hub, tmp_path, "org/large")
    finally:
        hub.knows_ranges = True
    assert sizes(again) == sizes(done)


def test_names_that_lead_out_of_a_folder_are_never_written(hub, tmp_path, monkeypatch):
    make_tiny_llama(hub.root / "org" / "outside")
    evil = tmp_path / "evil.json"
    monkeypatch.setattr(hub, "more_names", [f"../../../../../../../..{evil}", str(evil), "../evil.json"])
    assert sizes(plan(hub, tmp_path, "org/outside"))
    assert not evil.exists()


def error_of(done):
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_model_that_does_not_exist_has_the_nearest_name(hub, tmp_path):
    make_tiny_llama(hub.root / "org" / "smol-model")
    error = error_of(plan(hub, tmp_path, "org/smol-modle"))
    assert "org/smol-modle does not exist on the Hub, or is private" in error
    assert error.endswith("; did you mean org/smol-model?\n")


def test_a_gated_model_says_what_to_accept(hub, tmp_path):
    make_tiny_llama(hub.root / "org" / "gated")
    hub.gated.add("org/gated")
    assert "org/gated asks for its licence to be accepted on its page" in error_of(plan(hub, tmp_path, "org/gated"))


def test_a_file_that_is_no_checkpoint_is_named(hub, tmp_path):
    folder = make_tiny_llama(hub.root / "org" / "broken")
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    assert "model.safetensors: header length" in error_of(plan(hub, tmp_path, "org/broken"))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "config.json").write_text("{}")
    assert "org/broken has no safetensors" in error_of(plan(hub, tmp_path, "org/broken"))


def test_without_a_network_it_says_what_is_here(hub, tmp_path, monkeypatch):
    (tmp_path / "cache" / "pypi--some-model").mkdir(parents=True)
    monkeypatch.setattr(hub, "url", "http://127.0.0.1:9")  # nobody listens there
    error = error_of(plan(hub, tmp_path, "org/safetensors"))
    assert "org/safetensors: the Hub can't be reached" in error
    assert "cached here: pypi:some-model; octavo plan --config config.json needs no network" in error
    error = error_of(plan(hub, tmp_path, "pypi:other-model"))
    assert "pypi:other-model is not in the cache, and a package has no header to read alone" in error
