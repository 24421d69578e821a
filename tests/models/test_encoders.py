"""Hidden states of tiny random checkpoints of every family of encoders, beside transformers' on the same weights."""

import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from checkpoints import edit_config
from encoders import ENCODERS, rows_of
from families import save_gguf
from harness import Line, error, make_native, make_torch, random_tokens, run
from octavo.models import declaration, load_declaration, open_model
from octavo.models.base import kind_of
from octavo.weights.bind import bind
from reference import reference_logits

WITH_GGUF = {name: family for name, family in ENCODERS.items() if family.gguf}
HEADLESS = ("EuroBERT for masked tokens", "Nomic for masked tokens", "Jina v3 for masked tokens")  # here
FOR_MASKED = {name: one for name, one in ENCODERS.items() if "masked" in name and name not in HEADLESS}
TEXTS = [[6 + token for token in random_tokens(count, vocab=295, seed=count)] for count in (96, 1, 128, 17, 33)]


def opened(path):
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path)
    graph = model.build()
    return graph, bind(graph.weights, checkpoint, model.ignored)


def rows_in_one_step(executor, texts):
    """The hidden states of each text, all of which are in one step."""
    lines = [Line(text, [10 * i, *range(10 * i + 1, 10 * i + 10)]) for i, text in enumerate(texts)]
    return run(executor, [line.chunk(len(text)) for line, text in zip(lines, texts, strict=True)])


@pytest.mark.parametrize("family", ENCODERS.values(), ids=ENCODERS)
def test_rows_are_transformers_s_whatever_runs_the_graph(tmp_path, family):
    model = family.save(tmp_path)
    expected = [rows_of(model, text) for text in TEXTS]
    graph, tensors = opened(tmp_path)
    assert graph.output == "hidden_states"
    assert kind_of(graph).split(",")[0] == "encoder" == declaration(open_model(tmp_path).config, tmp_path).kind
    assert graph.layers == {}
    assert error(reference_logits(graph, tensors, TEXTS[0]), expected[0]) < 1e-4
    for make in (make_native, make_torch):
        found = rows_in_one_step(make(graph, tensors, max_tokens=512), TEXTS)
        for text_rows, own in zip(found, expected, strict=True):
            assert error(text_rows, own) < 1e-4


def test_integers_that_older_checkpoints_have_are_no_weights(tmp_path):
    ENCODERS["BERT"].save(tmp_path)
    graph, tensors = opened(tmp_path)
    expected = rows_in_one_step(make_native(graph, tensors, max_tokens=512), TEXTS)
    stored = load_file(tmp_path / "model.safetensors")
    positions = np.arange(140)[None]
    save_file({**stored, "embeddings.position_ids": positions}, tmp_path / "model.safetensors", {"format": "pt"})
    graph, tensors = opened(tmp_path)
    found = rows_in_one_step(make_native(graph, tensors, max_tokens=512), TEXTS)
    assert all(np.array_equal(*rows) for rows in zip(found, expected, strict=True))


@pytest.mark.parametrize("family", WITH_GGUF.values(), ids=WITH_GGUF)
def test_a_gguf_file_is_the_checkpoint_that_it_was_made_from(tmp_path, family):
    model = family.save(tmp_path)
    save_gguf(family, model, tmp_path, tmp_path / "m.gguf")
    graph, tensors = opened(tmp_path / "m.gguf")
    found = rows_in_one_step(make_native(graph, tensors, max_tokens=512), TEXTS)
    for text, rows in zip(TEXTS, found, strict=True):
        assert error(rows, rows_of(model, text)) < 1e-4


@pytest.mark.parametrize("family", FOR_MASKED.values(), ids=FOR_MASKED)
def test_logits_of_masked_tokens_are_transformers_s(tmp_path, family):
    model = family.save(tmp_path)
    with torch.no_grad():
        expected = [model(torch.tensor([text])).logits[0].numpy() for text in TEXTS]
    checkpoint = open_model(tmp_path)
    declared = load_declaration(checkpoint.config, tmp_path)
    graph = declared.build_masked()
    tensors = bind(graph.weights, checkpoint, declared.ignored)
    assert graph.output == "logits"
    assert error(reference_logits(graph, tensors, TEXTS[0]), expected[0]) < 1e-4
    for make in (make_native, make_torch):
        found = rows_in_one_step(make(graph, tensors, max_tokens=512), TEXTS)
        for text_rows, own in zip(found, expected, strict=True):
            assert error(text_rows, own) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ENCODERS.values(), ids=ENCODERS)
def test_a_text_s_rows_are_the_same_bits_alone_and_beside_others(tmp_path, family, dtype, threads):
    family.save(tmp_path)
    graph, tensors = opened(tmp_path)
    native = make_native(graph, tensors, dtype, max_tokens=512)
    threads(2)
    together = rows_in_one_step(native, TEXTS)
    threads(1)
    for text, rows in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(rows_in_one_step(native, [text])[0], rows)


def checked(path, model):
    """The rows of the checkpoint on both executors are the model's."""
    graph, tensors = opened(path)
    for make in (make_native, make_torch):
        for text, rows in zip(TEXTS, rows_in_one_step(make(graph, tensors, max_tokens=512), TEXTS), strict=True):
            assert error(rows, rows_of(model, text)) < 1e-4


def test_a_bidirectional_llama_is_eurobert_by_another_name(tmp_path):
    model = ENCODERS["EuroBERT"].save(tmp_path)
    edit_config(tmp_path, architectures=["LlamaBidirectionalModel"], model_type="llama_bidirec", pooling="avg")
    assert load_declaration(open_model(tmp_path).config, tmp_path).pooling == "mean"
    checked(tmp_path, model)


FLASH = {  # by the names of transformers
    "embeddings.LayerNorm": "emb_ln", "encoder.layer.": "encoder.layers.", "attention.output.dense": "mixer.out_proj",
    "attention.output.LayerNorm": "norm1", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    "output.LayerNorm": "norm2",
}  # fmt: skip


def test_xlm_roberta_may_have_the_names_of_flash_attention(tmp_path):
    model = ENCODERS["XLM-RoBERTa"].save(tmp_path)
    file, found = tmp_path / "model.safetensors", {}
    for name, x in load_file(file).items():
        for theirs, flash in FLASH.items():
            name = name.replace(theirs, flash)
        found[name] = x
    for name in [name for name in found if ".attention.self.query." in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("attention.self.query", "mixer.Wqkv")] = np.concatenate(parts)
    save_file(found, file)
    edit_config(tmp_path, use_flash_attn=True, position_embedding_type="absolute")
    checked(tmp_path, model)


def test_gte_s_ntk_stretches_its_base_and_divides_its_frequencies(tmp_path):
    model = ENCODERS["GTE"].save(tmp_path)
    factor, width = 8.0, 12
    base = 10000.0 * factor
    model.rotary_emb.inv_freq = base ** -(torch.arange(0, width, 2) / width) / factor ** (2 / width)
    scaling = {"type": "ntk", "factor": factor}
    edit_config(tmp_path, rope_parameters=None, rope_theta=10000.0, rope_scaling=scaling)
    checked(tmp_path, model)


def test_norms_may_have_the_names_of_tensorflow(tmp_path):
    model = ENCODERS["BERT"].save(tmp_path)
    file, names = tmp_path / "model.safetensors", {"weight": "gamma", "bias": "beta"}
    tensors = load_file(file)
    save_file(
        {re.sub(r"(?<=LayerNorm.)\w+", lambda found: names[found[0]], name): x for name, x in tensors.items()}, file
    )
    native = make_native(*opened(tmp_path))
    assert error(rows_in_one_step(native, TEXTS[:1])[0], rows_of(model, TEXTS[0])) < 1e-4
