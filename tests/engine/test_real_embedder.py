"""The default embedder, with its real weights: what it finds alike, and sentence-transformers' vectors of the same."""

import numpy as np
import pytest

from octavo import LLM, SamplingParams
from octavo.cli.texts import DEFAULT_EMBEDDER
from octavo.weights import resolve

QUERY = "Why is the sky blue?"
DOCUMENTS = [
    "The capital of France is Paris.",
    "Rayleigh scattering of sunlight gives the sky its colour.",
    "Grass is green because of chlorophyll.",
    "He deposited the cheque at his bank.",
]


@pytest.fixture(scope="module")
def folder():
    return resolve(DEFAULT_EMBEDDER, progress=False)


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {}, {"quantization": "int8"}], ids=str)
def test_the_document_that_answers_a_query_is_first(folder, options):
    scores = [output.outputs.score for output in LLM(str(folder), **options).score(QUERY, DOCUMENTS, use_tqdm=False)]
    assert max(scores) == scores[1] > 0.5
    assert sorted(scores)[-2] < 0.5


def test_lower_precision_changes_vectors_by_little(folder):
    texts = [QUERY, *DOCUMENTS, "Ünïcödé, 你好, 😀", "a" * 300]

    def vectors(**options):
        found = LLM(str(folder), **options).embed(texts, use_tqdm=False)
        return np.array([output.outputs.embedding for output in found])

    exact = vectors(dtype="float32")
    assert (exact * vectors(dtype="bfloat16")).sum(axis=1).min() > 0.999
    assert (exact * vectors(quantization="int8")).sum(axis=1).min() > 0.998  # "aaa…", others have 0.9995


def test_vectors_are_those_of_sentence_transformers(folder):
    library = pytest.importorskip("sentence_transformers")
    texts = [QUERY, *DOCUMENTS, "Ünïcödé, 你好, 😀"]
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    found = LLM(str(folder), dtype="float32").embed(texts, use_tqdm=False)
    assert np.abs(np.array([output.outputs.embedding for output in found]) - expected).max() < 1e-5


def test_it_is_refused_to_generate(folder):
    with pytest.raises(ValueError, match="embeds texts"):
        LLM(str(folder)).generate("hello", SamplingParams(), use_tqdm=False)
