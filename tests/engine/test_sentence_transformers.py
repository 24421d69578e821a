"""Folders of sentence-transformers: beside that library itself, where it is installed, and beside numpy."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from encoders import ENCODERS, rows_of, save_chain, save_words
from octavo import LLM, PoolingParams
from octavo.errors import ModelLoadError, ParameterError

TEXTS = ["the cat sat on the mat", "dog", "river bank money bank of the queen"]
PEER = pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="no sentence-transformers")
POOLING, DENSE = "sentence_transformer.modules.pooling.Pooling", "base.modules.dense.Dense"
SPLADE = "sparse_encoder.modules.splade_pooling.SpladePooling"


def values(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32) / shape[-1] ** 0.5


def dense(size, out, activation, **more):
    config = {"in_features": size, "out_features": out, "bias": True, "activation_function": activation, **more}
    return DENSE, config, {"linear.weight": values(out, size), "linear.bias": values(out)}


def pooling(*modes, **more):
    return POOLING, {"embedding_dimension": 48, "pooling_mode": list(modes), **more}, None


NORM = (
    "sentence_transformer.modules.layer_norm.LayerNorm",
    {"dimension": 96},
    {
        "norm.weight": values(96) + 1,
        "norm.bias": values(96),
    },
)
DROPOUT = "sentence_transformer.modules.dropout.Dropout", {"dropout": 0.2}, None
NORMALIZE = "base.modules.normalize.Normalize", {}, None
GELU = "torch.nn.modules.activation.GELU"
CHAINS = {
    "two poolings": [pooling("cls", "mean")],
    "all poolings": [
        pooling("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
        dense(288, 20, GELU),
        NORMALIZE,
    ],
    "norm and dropout": [pooling("max", "mean"), NORM, DROPOUT, dense(96, 20, "torch.nn.modules.activation.ReLU")],
    "without prompts": [pooling("mean", include_prompt=False), NORMALIZE],
    "the row behind the prompt": [pooling("cls", include_prompt=False)],
}


def make(path, family, *modules, about=None, **config):
    model = ENCODERS[family].save(path)
    save_words(path)
    save_chain(path, *modules, **config)
    if about:
        (path / "config_sentence_transformers.json").write_text(json.dumps(about))
    return model


def vectors(llm, texts=TEXTS, **options):
    return np.array([output.outputs.embedding for output in llm.embed(texts, use_tqdm=False, **options)])


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@PEER
@pytest.mark.parametrize("family", ["BERT", "Nomic"])
@pytest.mark.parametrize("modules", CHAINS.values(), ids=CHAINS)
def test_vectors_are_those_of_sentence_transformers(tmp_path, modules, family):
    from sentence_transformers import SentenceTransformer

    make(tmp_path, family, *modules, about={"prompts": {"query": "query : the", "other": ""}})
    peer, llm = SentenceTransformer(str(tmp_path), device="cpu"), LLM(str(tmp_path), dtype="float32")
    for name in (None, "query", "other"):
        close(vectors(llm, prompt_name=name), peer.encode(TEXTS, prompt_name=name))


@PEER
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_sparse_vectors_are_those_of_sentence_transformers(tmp_path, strategy, activation):
    from sentence_transformers import SparseEncoder

    said = {"pooling_strategy": strategy, "activation_function": activation, "embedding_dimension": 301}
    about = {"model_type": "SparseEncoder"}
    make(tmp_path, "BERT for masked tokens", (SPLADE, said, None), about=about, transformer_task="fill-mask")
    peer = SparseEncoder(str(tmp_path), device="cpu")
    expected = peer.encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    assert 0.2 < (expected == 0).mean() < 0.9
    close(vectors(LLM(str(tmp_path), dtype="float32")), expected)


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("family", ["BERT for masked tokens", "DistilBERT for masked tokens", "XLM-RoBERTa"])
def test_sparse_vectors_are_the_largest_logits_of_each_word(tmp_path, family, executor):
    model = make(tmp_path, family, (SPLADE, {"pooling_strategy": "max"}, None))
    llm = LLM(str(tmp_path), dtype="float32", executor=executor)
    for text, found in zip(TEXTS, vectors(llm), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([llm.model.tokenizer.encode(text)])).logits[0].numpy()
        close(found, np.log1p(np.maximum(logits, 0)).max(0))


def test_sparse_vectors_have_the_same_bits_alone_and_beside_others(tmp_path):
    make(tmp_path, "DistilBERT for masked tokens", (SPLADE, {}, None))
    llm = LLM(str(tmp_path))
    together = vectors(llm, TEXTS * 4)
    np.testing.assert_array_equal(np.concatenate([vectors(llm, [text]) for text in TEXTS]), together[:3])
    np.testing.assert_array_equal(np.tile(together[:3], (4, 1)), together)
    with pytest.raises(ParameterError, match="task must be one of embed"):
        llm.encode(TEXTS[0], pooling_task="token_embed")


def test_texts_become_lower_case_where_the_folder_says_so(tmp_path):
    make(tmp_path, "BERT", pooling("mean"), do_lower_case=True)
    tokenizer = LLM(str(tmp_path), dtype="float32").model.tokenizer
    assert tokenizer.encode("The CAT [SEP]") == tokenizer.encode("the cat [SEP]") == [2, 4, 6, 3, 3]


def test_rows_of_tokens_are_of_one_pooling_alone(tmp_path):
    model = make(tmp_path, "BERT", pooling("cls", "mean"))
    llm = LLM(str(tmp_path), dtype="float32")
    with pytest.raises(ParameterError, match="task must be one of embed"):
        llm.encode(TEXTS[0], PoolingParams(task="token_embed"))
    rows = rows_of(model, llm.model.tokenizer.encode(TEXTS[0]))
    close(vectors(llm)[0], np.concatenate([rows[0], rows.mean(0)]))


@pytest.mark.parametrize(
    ("modules", "complaint"),
    [
        ([(SPLADE, {"pooling_strategy": "mean"}, None)], "pooling_strategy: mean of relu is not known"),
        ([pooling("mean"), dense(48, 20, "torch.nn.Mish")], "activation_function: Mish is not known"),
        ([pooling("mean"), dense(48, 20, GELU, use_residual=True)], "use_residual: true is not supported"),
        ([pooling("mean"), (DENSE, {"in_features": 48, "out_features": 20}, None)], "model.safetensors"),
        ([pooling("mean"), NORM], "takes 96 columns, but what is before it has 48"),
        ([("a.WeightedLayerPooling", {}, None), pooling("mean")], "'WeightedLayerPooling' is not supported here"),
        ([(SPLADE, {}, None)], "cls.predictions.transform.dense.weight: is missing"),
    ],
)
def test_what_is_not_known_of_modules_is_refused(tmp_path, modules, complaint):
    make(tmp_path, "Nomic", *modules)
    with pytest.raises(ModelLoadError, match=complaint):
        LLM(str(tmp_path))


def test_splade_needs_a_family_whose_head_is_known(tmp_path):
    make(tmp_path, "CLIP", (SPLADE, {}, None))
    with pytest.raises(ModelLoadError, match="no head that guesses masked tokens"):
        LLM(str(tmp_path))


def test_pickles_of_modules_are_refused(tmp_path):
    make(tmp_path, "BERT", pooling("mean"), (DENSE, {"in_features": 48, "out_features": 20}, None))
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin: file: pickled PyTorch weights are refused"):
        LLM(str(tmp_path))
