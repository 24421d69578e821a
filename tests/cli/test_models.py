"""`octavo models`: what is known, and whether and how one model would run."""

import json

import pytest

from checkpoints import save_gguf
from octavo import LLM
from octavo.cli.main import main
from octavo.models import declarations
from octavo.models.multimodal import ARCHITECTURES

from .conftest import make_tiny_llama


def test_every_architecture_is_in_a_line_of_its_own(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [name for model in declarations() for name in model.architectures]
    assert {line.split()[0] for line in lines[1:-3]} == {*names, *ARCHITECTURES}
    llama = next(line for line in lines if line.startswith("LlamaForCausalLM "))
    assert llama.split()[:4] == ["LlamaForCausalLM", "dense", "GGUF", "llama,"]
    assert lines[-2].startswith(f"{len(names) + len(ARCHITECTURES)} architectures.")


def test_the_list_as_json_says_what_each_is(capsys):
    assert main(["models", "--json"]) == 0
    found = {row["architecture"]: row for row in json.loads(capsys.readouterr().out)}
    whisper, xverse = found["WhisperForConditionalGeneration"], found["XverseForCausalLM"]
    assert (whisper["kind"], whisper["formats"]) == ("encoder-decoder", ["safetensors", "CTranslate2"])
    assert (xverse["kind"], xverse["gguf"]) == ("dense", ["llama", "internlm2", "xverse"])
    assert xverse["declared_by"] == "octavo.models.llama:Llama"


def test_a_line_is_no_longer_than_the_terminal_is_wide(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-2])) == 100
    assert any(line.endswith("…") for line in lines)


def test_a_model_is_foretold_as_it_is_loaded(tiny, capsys):
    assert main(["models", tiny, "--json", "--dtype", "float32", "--max-num-seqs", "4"]) == 0
    found, llm = json.loads(capsys.readouterr().out), LLM(tiny, dtype="float32", max_num_seqs=4)
    assert (found["runs"], found["architecture"], found["kind"]) == (True, "LlamaForCausalLM", "dense")
    assert (found["format"], [*found["stored"]], found["quantization"]) == ("safetensors", ["F32"], None)
    assert (found["executor"], found["device"], found["dtype"]) == ("native", "cpu", "float32")
    assert found["parameters"] == sum(weight.size for weight in llm.model.graph.weights)
    plan = llm.model.plan
    assert found["max_model_len"] == plan.max_model_len == 512
    memory = found["memory"]
    assert (memory["weights"], memory["kv_cache"]) == (plan.weights, plan.kv_cache)


def test_what_a_model_is_for_is_told(tiny, capsys):
    for options, does in (([], "generates"), (["--task", "embed"], "embeds")):
        assert main(["models", tiny, *options]) == 0
        assert f"LlamaForCausalLM (dense) {does} texts; declared by" in capsys.readouterr().out


def test_a_gguf_file_is_told_in_a_few_lines(tmp_path, capsys):
    save_gguf(tmp_path / "m.gguf", "Q4_0")
    assert main(["models", str(tmp_path / "m.gguf"), "--max-model-len", "64"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}/m.gguf runs."
    rows = {line[2:15].strip(): line[16:] for line in lines}
    assert [*rows] == ["architecture", "weights", "runs on", "context", "memory"]
    assert rows["weights"] == "GGUF, 0.8 MB: Q4_0 99 %; 1.34 M parameters"
    assert rows["context"] == "64 tokens; the model was trained on 128"


REASONS = {
    "vocab_size": (0, "vocab_size: must be an integer in 1..16777216, got 0"),
    "architectures": (["MambaForCausalLM"], "architectures: ['MambaForCausalLM'] is not known here"),
    "num_hidden_layers": (3, "is missing; it should have shape"),
}


@pytest.mark.parametrize("field", REASONS)
def test_a_model_that_would_not_run_has_a_reason_and_exit_code_2(field, tmp_path, capsys):
    value, reason = REASONS[field]
    model = make_tiny_llama(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {field: value}))
    assert main(["models", str(model)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
    assert main(["models", str(model), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["runs"]) == (str(model), False)
    assert reason in told["reason"]


def test_a_model_that_does_not_fit_has_the_arithmetic(tiny, capsys):
    assert main(["models", tiny, "--gpu-memory-utilization", "0.0001"]) == 2
    assert "the model does not fit: weights" in capsys.readouterr().err
