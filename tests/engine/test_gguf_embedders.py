"""GGUF files that embed, through the whole engine: beside transformers on the weights that they were made from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from encoders import ENCODERS, rows_of, without_offset, word_pieces
from families import FAMILIES, save_gguf
from octavo import LLM
from octavo.errors import ModelLoadError, RequestError

TEXTS = ["the cat sat on the mat", "dog", "river bank money bank"]
POOLED = {1: lambda rows: rows.mean(0), 2: lambda rows: rows[0], 3: lambda rows: rows[-1]}


def make(path, name="BERT", pooling=1, kind="F32", added=None, **sizes):
    """A file of an encoder, and its model as transformers has it."""
    family = ENCODERS[name]
    sizes = {**family.sizes, **sizes}
    family = replace(family, sizes=sizes, keys={**family.keys, "pooling_type": pooling})
    if width := sizes.get("intermediate_size"):
        family.keys["feed_forward_length"] = width
    model = family.save(path)
    save_gguf(family, model, path, path / "m.gguf", kind, word_pieces(), added)
    return model


def vectors(llm, texts=TEXTS):
    return np.array([output.outputs.embedding for output in llm.embed(texts, use_tqdm=False)])


def unit(x):
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("pooling", POOLED)
def test_rows_are_pooled_as_the_file_says(tmp_path, pooling, executor):
    model = make(tmp_path, pooling=pooling)
    llm = LLM(str(tmp_path / "m.gguf"), dtype="float32", executor=executor)
    ids = [llm.model.tokenizer.encode(text) for text in TEXTS]
    assert ids[1] == [2, 7, 3]
    np.testing.assert_allclose(vectors(llm), [unit(POOLED[pooling](rows_of(model, text))) for text in ids], atol=1e-4)
    with pytest.raises(RequestError, match="embeds texts"):
        llm.generate("dog", use_tqdm=False)


def test_matrices_behind_the_pooling_are_computed(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((64, 48), np.float32), rng.standard_normal((20, 64), np.float32)
    model = make(tmp_path, "EmbeddingGemma", added={"dense_2.weight": first, "dense_3.weight": second})
    llm = LLM(str(tmp_path / "m.gguf"), dtype="float32")
    for text, found in zip(TEXTS, vectors(llm), strict=True):
        rows = rows_of(model, llm.model.tokenizer.encode(text))
        np.testing.assert_allclose(found, unit(second @ (first @ rows.mean(0))), atol=1e-4)


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "Nomic"])
@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 2e-2), ("Q8_0", 3e-2), ("Q4_0", 0.5)])
def test_quantized_files_give_vectors_close_to_those_of_the_model(tmp_path, name, kind, tolerance):
    model = make(tmp_path, name, kind=kind, hidden_size=64, intermediate_size=96)
    llm = LLM(str(tmp_path / "m.gguf"))
    expected = [unit(rows_of(model, llm.model.tokenizer.encode(text)).mean(0)) for text in TEXTS]
    found = vectors(llm)
    assert 0 < np.linalg.norm(found - expected, axis=1).max() < tolerance
    np.testing.assert_array_equal(np.concatenate([vectors(llm, [text]) for text in TEXTS]), found)


def test_a_decoder_embeds_where_its_file_says_how(tmp_path):
    family = FAMILIES["Qwen3"]
    family = replace(family, keys={**family.keys, "pooling_type": 3})
    model = family.save(tmp_path)
    save_gguf(family, model, tmp_path, tmp_path / "m.gguf", tokenizer=word_pieces())
    llm = LLM(str(tmp_path / "m.gguf"), dtype="float32")
    expected = [unit(rows_of(model, llm.model.tokenizer.encode(text))[-1]) for text in TEXTS]
    np.testing.assert_allclose(vectors(llm), expected, atol=1e-4)
    assert len(LLM(str(tmp_path / "m.gguf"), task="generate").generate("dog", use_tqdm=False)) == 1


def test_what_a_file_says_of_pooling_and_does_not_mean_here_is_refused(tmp_path):
    make(tmp_path, pooling=7)
    with pytest.raises(ModelLoadError, match=r"bert.pooling_type: 7 is not supported, only \{0: 'tokens', 1: 'mean'"):
        LLM(str(tmp_path / "m.gguf"))
    make(tmp_path, "EmbeddingGemma", added={"dense_2.weight": np.zeros((64, 40), np.float32)})
    with pytest.raises(ModelLoadError, match="takes 40 columns, but what is before it has 48"):
        LLM(str(tmp_path / "m.gguf"))


RERANKERS = {
    "RoBERTa": (replace(ENCODERS["RoBERTa"], convert=without_offset), {}),
    "ModernBERT": (ENCODERS["ModernBERT"], {"classifier.weight": "classifier.out_proj.weight"}),
}


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers_score_pairs(tmp_path, name):
    family, names = RERANKERS[name]

    def convert(name, values, config):
        name = names.get(name, name.replace("classifier.bias", "classifier.out_proj.bias"))
        return {name: values} if name.startswith(("classifier", "head.")) else family.convert(name, values, config)

    ends = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    sizes = {**family.sizes, **ends, "num_labels": 1}
    keys = {**family.keys, "pooling_type": 4, "classifier.output_labels": ["LABEL_0"]}
    reranker = replace(family, sizes=sizes, suffix="ForSequenceClassification", keys=keys, convert=convert)
    model = reranker.save(tmp_path)
    save_gguf(reranker, model, tmp_path, tmp_path / "m.gguf", tokenizer=word_pieces())
    llm = LLM(str(tmp_path / "m.gguf"), dtype="float32")
    for second, found in zip(TEXTS[1:], llm.score(TEXTS[0], TEXTS[1:], use_tqdm=False), strict=True):
        ids, _ = llm.model.tokenizer.encode_pair(TEXTS[0], second)
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits.sigmoid().item()
        assert abs(found.outputs.score - expected) < 1e-4
    assert llm.classify(TEXTS[0], use_tqdm=False)[0].outputs.num_classes == 1


def test_qwen3_s_reranker_asks_in_the_words_of_its_file(tmp_path):
    family = FAMILIES["Qwen3"]
    family = replace(family, keys={**family.keys, "pooling_type": 4, "classifier.output_labels": ["yes", "no"]})
    model = family.save(tmp_path)
    rows = np.random.default_rng(0).standard_normal((2, model.config.hidden_size), np.float32)
    template = {"tokenizer.chat_template.rerank": "the queen : {query} of {document} where"}
    added = {"cls.output.weight": rows}
    save_gguf(family, model, tmp_path, tmp_path / "m.gguf", tokenizer=word_pieces() | template, added=added)
    llm = LLM(str(tmp_path / "m.gguf"), dtype="float32")
    for second, found in zip(TEXTS[1:], llm.score(TEXTS[0], TEXTS[1:], use_tqdm=False), strict=True):
        asked = f"the queen : {TEXTS[0]} of {second} where"
        yes, no = rows @ rows_of(model, llm.model.tokenizer.encode(asked, False))[-1]
        assert abs(found.outputs.score - 1 / (1 + np.exp(no - yes))) < 1e-4
        assert len(found.prompt_token_ids) == len(asked.split())
