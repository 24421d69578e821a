"""Models with a vector for each token, and BGE-M3: beside sentence-transformers, where it is installed, and numpy."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from encoders import ENCODERS, rows_of, save_chain, save_words, word_pieces
from families import save_gguf
from octavo import LLM, PoolingParams
from octavo.errors import ModelLoadError, ParameterError

TEXTS = ["the cat sat on the mat", "dog", "river bank money : bank of the queen"]
PEER = pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="no sentence-transformers")
DENSE, OF_TOKENS = "base.modules.dense.Dense", {"module_input_name": "token_embeddings"}
IDENTITY = "torch.nn.modules.linear.Identity"
LINEAR = np.random.default_rng(0).standard_normal((16, 48), np.float32) / 7


def make(path, family="BERT", tensors=None, **config):
    """A checkpoint with more tensors, and other fields in its configuration."""
    model = ENCODERS[family].save(path)
    save_words(path)
    file = path / "model.safetensors"
    save_file(load_file(file) | (tensors or {}), file, {"format": "pt"})
    about = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(about))
    return model


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def encode(llm, texts=TEXTS, **options):
    return [output.outputs.data for output in llm.encode(texts, use_tqdm=False, **options)]


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("name", ["linear", "colbert_linear"])
def test_colbert_has_a_vector_of_each_token_and_scores_by_the_best_of_them(tmp_path, name, executor):
    model = make(tmp_path, tensors={f"{name}.weight": LINEAR}, architectures=["HF_ColBERT"], dim=16)
    llm = LLM(str(tmp_path), dtype="float32", executor=executor)
    expected = [unit(rows_of(model, llm.model.tokenizer.encode(text)) @ LINEAR.T) for text in TEXTS]
    for found, own in zip(encode(llm), expected, strict=True):
        close(found, own)
    scores = [output.outputs.score for output in llm.score(TEXTS[0], TEXTS[1:], use_tqdm=False)]
    close(np.array(scores), np.array([(expected[0] @ own.T).max(1).sum() for own in expected[1:]]))
    with pytest.raises(ParameterError, match="task must be one of token_embed: the model makes a vector of each token"):
        llm.embed(TEXTS)


def test_the_bits_of_tokens_are_those_of_their_text_alone(tmp_path):
    make(tmp_path, tensors={"linear.weight": LINEAR}, architectures=["HF_ColBERT"])
    llm = LLM(str(tmp_path))
    for alone, beside in zip((encode(llm, [text])[0] for text in TEXTS), encode(llm, TEXTS * 3), strict=False):
        np.testing.assert_array_equal(alone, beside)


def save_late(path, **about):
    chain = [
        (DENSE, {"in_features": 48, "out_features": 16, "bias": False, "activation_function": IDENTITY, **OF_TOKENS}),
        ("multi_vector_encoder.modules.MultiVectorMask", {"skiplist_words": [":", "of"]}),
        ("base.modules.normalize.Normalize", OF_TOKENS),
    ]
    tensors = [{"linear.weight": LINEAR}, None, None]
    save_chain(path, *((*module, own) for module, own in zip(chain, tensors, strict=True)))
    (path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "MultiVectorEncoder", **about}))


@PEER
def test_vectors_and_scores_are_those_of_sentence_transformers(tmp_path):
    from sentence_transformers import MultiVectorEncoder

    make(tmp_path)
    save_late(tmp_path, prompts={"query": "query : ", "document": "passage : "})
    peer, llm = MultiVectorEncoder(str(tmp_path), device="cpu"), LLM(str(tmp_path), dtype="float32")
    queries, documents = TEXTS[:1], TEXTS[1:]
    expected = peer.similarity(peer.encode_query(queries), peer.encode_document(documents))[0].numpy()
    query, *others = [f"query : {TEXTS[0]}", *(f"passage : {text}" for text in documents)]
    close(np.array([output.outputs.score for output in llm.score(query, others, use_tqdm=False)]), expected)
    close(encode(llm, [query])[0], peer.encode_query(queries)[0])


def test_what_pylate_puts_before_texts_is_a_token(tmp_path):
    make(tmp_path)
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    words["model"]["vocab"] |= {"[unused0]": 200, "[D] ": 201}
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    save_late(tmp_path, model_type="ColBERT", query_prefix="[unused0] ", document_prefix="[D] ")
    llm = LLM(str(tmp_path), dtype="float32")
    assert llm.model.pooler.prompts == {"query": "[unused0] ", "document": "[D] "}
    assert llm.model.tokenizer.encode(llm.model.pooler.prompted("cat", "query")) == [2, 200, 6, 3]
    assert llm.model.tokenizer.encode(llm.model.pooler.prompted("cat", "document")) == [2, 201, 6, 3]
    colon = llm.model.tokenizer.token_id(":")
    assert llm.model.pooler.skipped_ids == (colon,)  # the others are no tokens here


def bge_m3(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "colbert_linear.weight": rng.standard_normal((48, 48), np.float32) / 7,
        "colbert_linear.bias": rng.standard_normal(48, np.float32),
        "sparse_linear.weight": rng.standard_normal((1, 48), np.float32) / 7,
        "sparse_linear.bias": rng.standard_normal(1, np.float32),
    }


@pytest.mark.parametrize("is_pickled", [False, True], ids=["in safetensors", "in its own folder's files"])
def test_bge_m3_has_a_vector_of_the_text_and_of_tokens_and_their_weights(tmp_path, is_pickled):
    heads = bge_m3()
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    model = make(tmp_path, "XLM-RoBERTa", {} if is_pickled else heads, architectures=["XLMRobertaModel"], **ends)
    for name in ("colbert_linear", "sparse_linear") if is_pickled else ():
        parts = {part: torch.from_numpy(heads[f"{name}.{part}"]) for part in ("weight", "bias")}
        torch.save(parts, tmp_path / f"{name}.pt")
    llm = LLM(str(tmp_path), dtype="float32")
    for i, text in enumerate(TEXTS):
        rows = rows_of(model, llm.model.tokenizer.encode(text))
        vector, weights = unit(rows[0]), rows[1:-1] @ heads["sparse_linear.weight"].T + heads["sparse_linear.bias"]
        tokens = unit(rows[1:] @ heads["colbert_linear.weight"].T + heads["colbert_linear.bias"])
        close(np.array(llm.embed(text, use_tqdm=False)[0].outputs.embedding), vector)
        close(encode(llm, [text], pooling_task="token_embed")[0], tokens)
        close(encode(llm, [text], pooling_task="token_classify")[0], np.maximum(weights, 0))
        raw = PoolingParams(use_activation=False)
        close(encode(llm, [text], pooling_params=raw, pooling_task="token_classify")[0], weights)
        both = encode(llm, TEXTS, pooling_task="embed&token_classify")[i]
        close(both, np.concatenate([vector, np.maximum(weights[:, 0], 0)]))


@pytest.mark.parametrize(
    ("tensors", "architecture", "complaint"),
    [
        ({}, "BgeM3EmbeddingModel", r"colbert_linear.pt: file: is no file of tensors"),
        ({}, "HF_ColBERT", r"linear.weight: is missing; it should have 48 columns"),
        ({"linear.weight": LINEAR[:, :40].copy()}, "HF_ColBERT", r"linear.weight: has shape \(16, 40\)"),
        (bge_m3() | {"sparse_linear.weight": LINEAR}, "BgeM3EmbeddingModel", r"sparse_linear.weight: has shape"),
    ],
)
def test_linears_that_are_missing_or_misshapen_are_refused(tmp_path, tensors, architecture, complaint):
    make(tmp_path, "XLM-RoBERTa" if "Bge" in architecture else "BERT", tensors, architectures=[architecture])
    (tmp_path / "colbert_linear.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelLoadError, match=complaint):
        LLM(str(tmp_path))


def test_a_gguf_file_may_have_a_matrix_over_rows(tmp_path):
    family = ENCODERS["BERT"]
    model = family.save(tmp_path)
    save_gguf(family, model, tmp_path, tmp_path / "m.gguf", "F32", word_pieces(), {"dense_2.weight": LINEAR})
    llm = LLM(str(tmp_path / "m.gguf"), dtype="float32")
    for text, found in zip(TEXTS, encode(llm), strict=True):
        close(found, unit(rows_of(model, llm.model.tokenizer.encode(text)) @ LINEAR.T))
