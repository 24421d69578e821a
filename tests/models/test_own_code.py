"""Checkpoints that bring Python: it never runs, whoever asks for it; what it would have loaded is refused by name."""

import json
import sys

import pytest

from checkpoints import edit_config, save_checkpoint, save_tokenizer
from octavo import LLM, ModelLoadError, ModelRegistry, SamplingParams
from octavo.errors import UnknownArchitectureError
from octavo.models.llama import Llama
from octavo.models.registry import ADDED

CODE = "import pathlib\npathlib.Path(__file__).with_name('it_ran').touch()\n"
MODEL = {"AutoConfig": "own_code.FancyConfig", "AutoModelForCausalLM": "own_code.FancyForCausalLM"}
TRUST = pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}, {"model_impl": "transformers"}], ids=str)


@pytest.fixture
def checkpoint(tmp_path, inaugural_text):
    """A Llama that says it is run by code beside it."""
    save_checkpoint(tmp_path)
    save_tokenizer(tmp_path, inaugural_text, vocab_size=300)
    (tmp_path / "own_code.py").write_text(CODE)
    edit_config(tmp_path, auto_map=MODEL)
    yield tmp_path
    assert not (tmp_path / "it_ran").exists()
    assert not [name for name in sys.modules if "own_code" in name and "test" not in name]


@TRUST
def test_an_architecture_that_its_own_code_declares_is_refused_by_name(checkpoint, options):
    edit_config(checkpoint, architectures=["FancyForCausalLM"])
    reason = r"FancyForCausalLM.*(own code, own_code.FancyForCausalLM, is never run|no causal language model)"
    with pytest.raises((UnknownArchitectureError, ValueError), match=reason):
        LLM(str(checkpoint), **options)


@TRUST
def test_a_declaration_runs_what_brings_code_too(checkpoint, options):
    llm = LLM(str(checkpoint), max_model_len=32, **options)
    (output,) = llm.generate([5, 6, 7], SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 4


def test_so_does_a_plugin(checkpoint, monkeypatch):
    monkeypatch.setitem(ADDED, "FancyForCausalLM", Llama)
    edit_config(checkpoint, architectures=["FancyForCausalLM"])
    assert "FancyForCausalLM" in ModelRegistry.get_supported_archs()
    assert LLM(str(checkpoint), max_model_len=32, trust_remote_code=True).model.vocab_size == 301


def test_a_tokenizer_that_is_code_is_refused_by_name(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    config = {"auto_map": {"AutoTokenizer": ["own_code.FancyTokenizer", None]}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"tokenizer: .*; its own code, own_code.FancyTokenizer, is never"):
        LLM(str(checkpoint), trust_remote_code=True)


@pytest.mark.parametrize("auto_map", [None, 3, [], {}, {"AutoModelForCausalLM": 5}, {"AutoModelForCausalLM": [None]}])
def test_a_strange_auto_map_does_no_harm(checkpoint, auto_map):
    edit_config(checkpoint, architectures=["FancyForCausalLM"], auto_map=auto_map)
    with pytest.raises(UnknownArchitectureError, match="FancyForCausalLM") as caught:
        LLM(str(checkpoint))
    assert "own code" not in str(caught.value)
