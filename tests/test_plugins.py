"""Plugins: the example of docs/plugins.md on tiny checkpoints, which plugins are loaded, and what registers a model."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import edit_config, save_checkpoint, save_tokenizer
from octavo import LLM, ConfigError, ModelRegistry, SamplingParams, UnsupportedError, plugins
from octavo.errors import UnknownArchitectureError
from octavo.models import open_model
from octavo.models.llama import Llama
from octavo.models.registry import ADDED, declaration, declarations
from octavo.server.errors import HttpError
from octavo.server.protocol.completions import CompletionRequest

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"
PROMPTS = [[5, 9, 200, 31], [7, 8]]
SCRIPT = """
import json, sys
from octavo import LLM, SamplingParams
path, options, params, prompts = json.loads(sys.argv[1])
llm = LLM(path, dtype="float32", max_model_len=64, max_num_seqs=4, **options)
outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], SamplingParams(**params), use_tqdm=False)
chosen = lambda one: [entry[token].logprob for token, entry in zip(one.token_ids, one.logprobs or [])]
print(json.dumps([[one.outputs[0].token_ids, chosen(one.outputs[0])] for one in outputs]))
"""
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
EXECUTORS = ["native", "torch"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder as installers leave it: the package, and beside it what its pyproject.toml says of it."""
    target = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(EXAMPLE / "octavo_example", target / "octavo_example")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"]["octavo.plugins"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[octavo.plugins]", *points, ""]))
    return target


def run(target, *arguments, **variables):
    environment = os.environ | {"PYTHONPATH": str(target), "CUDA_VISIBLE_DEVICES": ""} | variables
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)


def generated(target, path, params, **options):
    """Tokens and log-probabilities of each prompt."""
    done = run(target, "-c", SCRIPT, json.dumps([str(path), options, params, PROMPTS]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected(path):
    llm = LLM(str(path), dtype="float32", max_model_len=64, max_num_seqs=4)
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    return [one.outputs[0].token_ids for one in llm.generate(prompts, SamplingParams(**GREEDY), use_tqdm=False)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, inaugural_text):
    path = tmp_path_factory.mktemp("llama")
    save_checkpoint(path, tie_word_embeddings=False)
    save_tokenizer(path, inaugural_text, vocab_size=300)
    return path


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_architecture_of_a_plugin_runs(installed, checkpoint, tmp_path, executor):
    calm, same = (shutil.copytree(checkpoint, tmp_path / name) for name in ("calm", "same"))
    edit_config(calm, architectures=["CalmLlamaForCausalLM"], branch_scale=0.5)
    tensors = load_file(same / "model.safetensors")
    halves = {name: tensors[name] / 2 for name in tensors if "o_proj" in name or "down_proj" in name}
    save_file(tensors | halves, same / "model.safetensors")
    found = generated(installed, calm, GREEDY, executor=executor)
    assert [tokens for tokens, _ in found] == expected(same) != expected(checkpoint)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_rule_of_a_plugin_shapes_what_asks_for_it(installed, checkpoint, executor):
    params = GREEDY | {"logprobs": 0}
    plain = generated(installed, checkpoint, params, executor=executor)
    ruled = generated(installed, checkpoint, params | {"extra_args": {"no_repeat": 5}}, executor=executor)
    assert [tokens for tokens, _ in plain] == expected(checkpoint)
    for (before, raw), (after, logprobs) in zip(plain, ruled, strict=True):
        assert any(token in before[max(0, i - 5) : i] for i, token in enumerate(before)), "nothing to ban"
        assert not any(token in after[max(0, i - 5) : i] for i, token in enumerate(after))
        same = next(i for i, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)
        np.testing.assert_allclose(logprobs[:same], raw[:same], atol=1e-4)
        assert logprobs[same] < raw[same]  # of the model, before the rule


def test_both_executors_apply_a_rule_of_a_plugin_alike_with_others_beside_it(installed, checkpoint):
    params = GREEDY | {"logprobs": 3, "extra_args": {"no_repeat": 2}, "presence_penalty": 0.3, "min_tokens": 4}
    native, torch = (generated(installed, checkpoint, params, executor=executor) for executor in EXECUTORS)
    for (tokens, logprobs), (others, their_logprobs) in zip(native, torch, strict=True):
        assert tokens == others
        np.testing.assert_allclose(logprobs, their_logprobs, atol=1e-3)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_weight_format_of_a_plugin_is_read(installed, checkpoint, tmp_path, executor):
    coded, same = (shutil.copytree(checkpoint, tmp_path / name) for name in ("coded", "same"))
    tensors = load_file(checkpoint / "model.safetensors")
    stored, values = dict(tensors), dict(tensors)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scales = np.abs(tensors[name]).max(1) / 127
        codes = np.round(tensors[name] / scales[:, None]).astype(np.int8)
        values[name] = codes * scales[:, None].astype(np.float32)
        del stored[name]
        stored |= {name.replace(".weight", ".weight_codes"): codes, name.replace(".weight", ".weight_scale"): scales}
    save_file(stored, coded / "model.safetensors")
    save_file(values, same / "model.safetensors")
    edit_config(coded, quantization_config={"quant_method": "row_int8"})
    found = generated(installed, coded, GREEDY, executor=executor, quantization="row_int8")
    assert [tokens for tokens, _ in found] == expected(same)


def test_the_command_lists_what_a_plugin_adds(installed):
    found = {row["architecture"]: row for row in json.loads(run(installed, "-m", "octavo", "models", "--json").stdout)}
    assert found["CalmLlamaForCausalLM"]["declared_by"] == "octavo_example.model:CalmLlama"
    assert found["CalmLlamaForCausalLM"]["models"] == "Llamas whose branches count for less."
    without = run(installed, "-m", "octavo", "models", OCTAVO_PLUGINS="")
    assert "CalmLlama" not in without.stdout


def test_without_the_plugin_what_asks_for_it_is_refused(checkpoint, tmp_path):
    params = SamplingParams(extra_args={"no_repeat": 5})
    with pytest.raises(UnsupportedError, match=r"extra_args=.*: must name what a plugin's rule reads: there is none"):
        LLM(str(checkpoint), max_model_len=32).generate("hi", params, use_tqdm=False)
    calm = shutil.copytree(checkpoint, tmp_path / "calm")
    edit_config(calm, architectures=["CalmLlamaForCausalLM"])
    with pytest.raises(UnknownArchitectureError, match=r"CalmLlamaForCausalLM.*is not known here"):
        LLM(str(calm))


def test_a_server_takes_what_rules_of_plugins_read(checkpoint, monkeypatch):
    body = CompletionRequest(prompt="hi", vllm_xargs={"no_repeat": 5})
    model = LLM(str(checkpoint), max_model_len=32).model
    with pytest.raises(HttpError, match="vllm_xargs: no plugin reads 'no_repeat'"):
        body.params(model)
    monkeypatch.setattr("octavo.sampling_params.known_extra_args", {"no_repeat"})
    monkeypatch.setattr("octavo.server.protocol.common.known_extra_args", {"no_repeat"})
    assert body.params(model).extra_args == {"no_repeat": 5}


CALLS = []


def good():
    CALLS.append("good")


def bad():
    raise RuntimeError("no such thing")


@pytest.fixture
def offered(monkeypatch):
    """Entry points of functions here, and a loader that has loaded nothing yet."""
    values = {"good": "good", "bad": "bad", "gone": "nowhere"}
    points = [EntryPoint(name, f"{__name__}:{value}", plugins.GROUP) for name, value in values.items()]
    monkeypatch.setattr(plugins, "_entry_points", lambda: points)
    monkeypatch.delenv("OCTAVO_PLUGINS", raising=False)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    CALLS.clear()
    return plugins.load_plugins.__wrapped__


def test_all_plugins_are_loaded_and_those_that_fail_are_named(offered, caplog):
    assert offered() == ("good",)
    assert CALLS == ["good"]
    assert [line.partition(": ")[0] for line in caplog.messages] == [
        f"the plugin bad of {__name__}:bad failed",
        f"the plugin gone of {__name__}:nowhere failed",
    ]
    assert "RuntimeError: no such thing; it is left out" in caplog.messages[0]


@pytest.mark.parametrize(
    ("variables", "loaded"),
    [
        ({"OCTAVO_PLUGINS": ""}, ()),
        ({"VLLM_PLUGINS": ""}, ()),
        ({"OCTAVO_PLUGINS": "good"}, ("good",)),
        ({"VLLM_PLUGINS": "good, another_of_vllm"}, ("good",)),
        ({"OCTAVO_PLUGINS": "", "VLLM_PLUGINS": "good"}, ()),
    ],
)
def test_the_environment_says_which(offered, monkeypatch, caplog, variables, loaded):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert offered() == loaded
    assert caplog.messages == []


@pytest.mark.parametrize(("names", "reason"), [("bad", "RuntimeError: no such thing"), ("goof", "did you mean good?")])
def test_a_plugin_that_is_asked_for_by_name_must_be_there_and_work(offered, monkeypatch, names, reason):
    monkeypatch.setenv("OCTAVO_PLUGINS", names)
    with pytest.raises(ConfigError, match=f"OCTAVO_PLUGINS='{names}': .*{reason}"):
        offered()


@pytest.fixture
def empty(monkeypatch):
    """A registry to which tests may add."""
    known = dict(ADDED)
    yield
    ADDED.clear()
    ADDED.update(known)


@pytest.mark.usefixtures("empty")
def test_a_class_or_its_name_is_registered():
    ModelRegistry.register_model("OneForCausalLM", Llama)
    ModelRegistry.register_model("TwoForCausalLM", "octavo.models.llama:Llama")
    for name in ("OneForCausalLM", "TwoForCausalLM"):
        assert declaration({"architectures": [name]}, "config.json") is Llama
    assert {"OneForCausalLM", "TwoForCausalLM", "LlamaForCausalLM"} <= set(ModelRegistry.get_supported_archs())
    assert declarations()[Llama][-2:] == ("OneForCausalLM", "TwoForCausalLM")


@pytest.mark.usefixtures("empty")
def test_a_name_is_imported_only_when_a_checkpoint_wants_it(checkpoint, caplog):
    ModelRegistry.register_model("MissingForCausalLM", "no_such_package.model:Missing")
    assert open_model(checkpoint).config["architectures"] == ["LlamaForCausalLM"]
    assert caplog.messages == []
    with pytest.raises(ConfigError, match="MissingForCausalLM is registered as this, which can't be imported: Module"):
        declaration({"architectures": ["MissingForCausalLM"]}, "config.json")
    assert len(declarations()) > 40
    assert "no_such_package.model:Missing" in caplog.text


@pytest.mark.usefixtures("empty")
def test_an_architecture_that_is_declared_anew_is_said(caplog):
    ModelRegistry.register_model("GemmaForCausalLM", Llama)
    assert "the architecture GemmaForCausalLM is declared anew" in caplog.text
    assert declaration({"architectures": ["GemmaForCausalLM"]}, "config.json") is Llama


@pytest.mark.parametrize("model", ["octavo.models.llama", "llama.Llama", ":Llama", "a b:Llama", int, "builtins:int"])
@pytest.mark.usefixtures("empty")
def test_what_declares_no_model_is_refused(model):
    def use():
        ModelRegistry.register_model("OneForCausalLM", model)
        declaration({"architectures": ["OneForCausalLM"]}, "config.json")

    with pytest.raises(ConfigError, match=r"model_cls=.*(must be written as|declares no model: OneForCausalLM needs)"):
        use()
