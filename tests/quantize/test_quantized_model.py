"""Whole checkpoints: as transformers and compressed-tensors load them, and what is refused."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from checkpoints import save_checkpoint, save_tokenizer, transformers_logits
from harness import logits_of
from octavo import LLM
from octavo.errors import ConfigError, ModelLoadError, UnsupportedError
from octavo.quantize.formats import FORMATS, rounded
from octavo.quantize.model import Texts, quantize
from octavo.quantize.rounding import to_nearest
from octavo.text.tokenizer_files import read_tokenizer
from octavo.weights.safetensors import read_tensors
from speech.tiny_whisper import make_tiny_whisper

SIZES = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def make_model(path, text, **options):
    path.mkdir()
    model = save_checkpoint(path, **SIZES | options)
    save_tokenizer(path, text)
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory, inaugural_text):
    """A tiny model in bfloat16, and its text: for calibration, and for evaluation."""
    folder = tmp_path_factory.mktemp("quantize")
    model = make_model(folder / "model", inaugural_text, dtype=torch.bfloat16)
    text, other = folder / "text", folder / "other"
    text.write_text(inaugural_text[:5000])
    other.write_text(inaugural_text[5000:])
    return SimpleNamespace(path=folder / "model", model=model, text=text, other=other)


def load(out, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of both libraries
        return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, **options).eval()


@pytest.mark.parametrize("name", FORMATS)
def test_transformers_loads_the_values_that_were_meant(name, plain, tmp_path):
    quantize(plain.path, tmp_path / "out", FORMATS[name])
    format = FORMATS[name]
    loaded = load(tmp_path / "out", quantization_config=CompressedTensorsConfig(dequantize=True))
    for name, module in loaded.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = plain.model.get_submodule(name).weight.detach().numpy()
            if name != "lm_head":
                group = format.group or weight.shape[1]
                weight = to_nearest(format.numbers, weight, group, lambda scales: rounded(scales, "BF16")).values()
            np.testing.assert_allclose(module.weight.detach().numpy(), weight, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_transformers_computes_what_was_measured(name, plain, tmp_path):
    report = quantize(plain.path, tmp_path / "out", FORMATS[name], Texts(evaluation=[str(plain.other)]))
    tokens = read_tokenizer(plain.path).encode(plain.other.read_text())[:256]
    before, after = (
        torch.nn.functional.cross_entropy(
            torch.tensor(transformers_logits(model, tokens)[:-1]), torch.tensor(tokens[1:])
        )
        for model in (plain.model, load(tmp_path / "out"))
    )
    assert report.figures.before == pytest.approx(np.exp(before.item()), rel=1e-4)
    assert report.figures.after == pytest.approx(np.exp(after.item()), rel=0.02)
    assert abs(report.figures.after / report.figures.before - 1) > 1e-4


def test_the_directory_has_everything_that_a_model_needs(plain, tmp_path):
    (plain.path / "LICENSE").write_text("as you like")
    (plain.path / "pytorch_model.bin").write_text("the same weights once more")
    report = quantize(plain.path, tmp_path / "out", FORMATS["int4"])
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "LICENSE"}
    assert "pytorch_model.bin" not in names
    before, after = (json.loads((path / "config.json").read_text()) for path in (plain.path, tmp_path / "out"))
    assert after.pop("quantization_config")["ignore"] == ["lm_head", "model.embed_tokens"]
    assert after == before
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sum(tensor.nbytes for tensor in tensors.values()) == report.size_after < 0.7 * report.size_before
    original = read_tensors(plain.path / "model.safetensors")
    assert (
        tensors["model.norm.weight"].view(torch.uint8).numpy().tobytes() == original["model.norm.weight"].data.tobytes()
    )


def test_large_models_become_several_files(plain, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quantize(plain.path, whole, FORMATS["w8a16"])
    quantize(plain.path, parts, FORMATS["w8a16"], shard_bytes=40_000)
    files = sorted(parts.glob("*.safetensors"))
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert {index["weight_map"][name] for name in index["weight_map"]} == {file.name for file in files}
    with safe_open(whole / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(index["weight_map"])
        for name, shard in index["weight_map"].items():
            with safe_open(parts / shard, "pt") as part:
                assert torch.equal(part.get_tensor(name), file.get_tensor(name))
    options = {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    tokens = list(range(40))
    np.testing.assert_array_equal(*(transformers_logits(load(path, **options), tokens) for path in (whole, parts)))


@pytest.mark.parametrize("name", ["int4", "w8a16"])
def test_calibration_comes_nearer_to_the_model(name, plain, tmp_path):
    nearest = quantize(plain.path, tmp_path / "nearest", FORMATS[name], Texts(evaluation=[str(plain.other)]))
    calibrated = quantize(
        plain.path, tmp_path / "calibrated", FORMATS[name], Texts(str(plain.text), [str(plain.other)])
    )
    assert calibrated.figures.divergence < 0.9 * nearest.figures.divergence
    assert calibrated.figures.before == nearest.figures.before


def test_without_another_text_the_end_of_the_first_is_held_out(plain, tmp_path):
    report = quantize(plain.path, tmp_path / "out", FORMATS["int4"], Texts(str(plain.text)))
    tokens = read_tokenizer(plain.path).encode(plain.text.read_text())
    held_out = tokens[-(len(tokens) // 10) :]
    logits = torch.tensor(transformers_logits(plain.model, held_out)[:-1])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(held_out[1:]))
    assert report.figures.before == pytest.approx(np.exp(loss.item()), rel=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_octavo_reads_it_back(name, plain, tmp_path, inaugural_text):
    """Of a model in float32: transformers rounds values to the type of their scales, Octavo does not."""
    make_model(tmp_path / "model", inaugural_text)
    quantize(tmp_path / "model", tmp_path / "out", FORMATS[name], Texts(str(plain.text), [str(plain.other)]))
    executor = LLM(str(tmp_path / "out"), dtype="float32", executor="native").model.executor
    expected = load(tmp_path / "out", quantization_config=CompressedTensorsConfig(dequantize=True))
    tokens = list(range(2, 60))
    np.testing.assert_allclose(logits_of(executor, tokens), transformers_logits(expected, tokens), atol=1e-4)


@pytest.mark.parametrize("when", [0.0, 0.5, 1.0])
def test_an_interrupted_run_leaves_nothing(when, plain, tmp_path):
    def stop(done, total):
        if done >= when * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(plain.path, tmp_path / "out", FORMATS["int4"], progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_taken_and_one_with_files_is_not(plain, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    quantize(plain.path, out, FORMATS["int8"])
    with pytest.raises(ConfigError, match=r"OUT=.*out': is not empty"):
        quantize(plain.path, out, FORMATS["int8"])
    with pytest.raises(ConfigError, match="is a file"):
        quantize(plain.path, out / "config.json", FORMATS["int8"])
    with pytest.raises(ConfigError, match=r"no directory that can be written to"):
        quantize(plain.path, tmp_path / "nowhere" / "out", FORMATS["int8"])
    with pytest.raises(ConfigError, match=r"MODEL=.*is quantized already"):
        quantize(out, tmp_path / "again", FORMATS["int8"])


def test_what_can_not_be_quantized_is_named(plain, tmp_path, inaugural_text):
    odd = tmp_path / "odd"
    make_model(odd, inaugural_text, intermediate_size=80)
    with pytest.raises(
        ConfigError, match=r"group_size=32: does not divide the 80 columns of model\.layers\.0\.mlp\.down"
    ):
        quantize(odd, tmp_path / "out", FORMATS["int4"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no directory with safetensors"):
        quantize(tmp_path / "empty", tmp_path / "out", FORMATS["int4"])
    with pytest.raises(UnsupportedError, match="only models of text are written quantized; this one has an encoder"):
        quantize(make_tiny_whisper(tmp_path / "whisper"), tmp_path / "out", FORMATS["int8"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value, tmp_path, inaugural_text):
    make_model(tmp_path / "model", inaugural_text)
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = read_tensors(tmp_path / "model" / "model.safetensors")[name]
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    offset = content.index(tensor.data.tobytes())
    content[offset + 4 * 70 : offset + 4 * 71] = np.array([value], "<f4").tobytes()
    del tensor
    file.write_bytes(content)
    with pytest.raises(ModelLoadError, match=rf"{name}: is not finite at \[1, 6\]: {value}"):
        quantize(tmp_path / "model", tmp_path / "out", FORMATS["int4"])
    assert not (tmp_path / "out").exists()


def test_texts_that_are_too_short_are_refused_with_the_numbers(plain, tmp_path):
    short = tmp_path / "short"
    short.write_text("a few words")
    with pytest.raises(ConfigError, match=r"calibration=.*short': has \d+ tokens; at least 512 are needed"):
        quantize(plain.path, tmp_path / "out", FORMATS["int4"], Texts(str(short)))
    with pytest.raises(ConfigError, match=r"evaluate=.*nowhere': can't be read"):
        quantize(plain.path, tmp_path / "out", FORMATS["int4"], Texts(evaluation=[str(tmp_path / "nowhere")]))
    short.write_text("x")
    quantize(plain.path, tmp_path / "out", replace(FORMATS["w8a16"]), Texts(str(plain.text), calibration_tokens=64))
