"""/score, /rerank and /pooling with a model that embeds, beside one that chats."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis import GenerationMode

from encoders import WORDS
from octavo import LLM

from .conftest import CLASSIFIERS
from .test_numbers import JSON, Bystanders, body_with, limits_of, numbers_in
from .test_schema import call, thinned

QUERY, DOCUMENTS = "where is the king", ["the cat sat on the mat", "king of queen", "money", "where is the queen"]
LONG = " ".join(WORDS * 8)
RERANK, SCORE = ("/rerank", "/v1/rerank", "/v2/rerank"), ("/score", "/v1/score")


@pytest.fixture
def http(pooling_server):
    with pooling_server.client() as client:
        yield client


def vectors(http, texts):
    answer = http.post("/v1/embeddings", json={"model": "words", "input": texts}).json()
    return np.array([entry["embedding"] for entry in answer["data"]])


@pytest.mark.parametrize("path", SCORE)
@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
def test_one_text_is_scored_with_each_of_several(http, path, names):
    first, second = names
    answer = http.post(path, json={"model": "words", first: QUERY, second: [*DOCUMENTS[:2], {"text": "money"}]}).json()
    scores = [entry["score"] for entry in answer["data"]]
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("score", i) for i in range(3)]
    np.testing.assert_allclose(scores, vectors(http, DOCUMENTS[:3]) @ vectors(http, QUERY)[0], atol=1e-6)
    lengths = [6, 8, 5, 3]
    assert answer["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}


def test_as_many_texts_are_scored_with_as_many(http):
    answer = http.post("/score", json={"model": "words", "text_1": DOCUMENTS, "text_2": DOCUMENTS[::-1]}).json()
    own = vectors(http, DOCUMENTS)
    np.testing.assert_allclose([entry["score"] for entry in answer["data"]], (own * own[::-1]).sum(1), atol=1e-6)
    assert answer["model"] == "words"


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": ["cat", ""]}, "input[1]"),
        ("/pooling", {"input": ["", "cat"]}, "input[0]"),
        ("/score", {"text_1": "cat", "text_2": ["cat", ""]}, "text_2[1]"),
        ("/rerank", {"query": "", "documents": ["cat"]}, "query"),
        ("/v2/rerank", {"query": "cat", "documents": ["cat", "dog", {"text": ""}]}, "documents[2]"),
    ],
)
def test_an_empty_text_is_refused_by_its_place(http, path, body, place):
    answer = http.post(path, json={"model": "words", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"{place} is empty; a text must have at least one character"


@pytest.mark.parametrize("path", RERANK)
def test_documents_are_sorted_with_the_prompts_of_queries_and_passages(http, path):
    body = {"model": "words", "query": QUERY, "documents": [DOCUMENTS[0], {"text": DOCUMENTS[1]}, *DOCUMENTS[2:]]}
    answer = http.post(path, json=body).json()
    own = vectors(http, [f"passage : {text}" for text in DOCUMENTS]) @ vectors(http, f"query : {QUERY}")[0]
    order = np.argsort(-own)
    assert [entry["index"] for entry in answer["results"]] == order.tolist()
    np.testing.assert_allclose([entry["relevance_score"] for entry in answer["results"]], own[order], atol=1e-6)
    assert answer["id"].startswith("rerank-")
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert answer["meta"]["tokens"]["input_tokens"] == answer["usage"]["total_tokens"]
    shown = [entry.get("document", {}).get("text") for entry in answer["results"]]
    assert shown == ([None] * 4 if path == "/v2/rerank" else [DOCUMENTS[i] for i in order])
    few = http.post(path, json={**body, "top_n": 2, "return_documents": path == "/v2/rerank"}).json()["results"]
    assert [entry["index"] for entry in few] == order[:2].tolist()
    assert ["document" in entry for entry in few] == [path == "/v2/rerank"] * 2
    assert len(http.post(path, json={**body, "top_n": 9}).json()["results"]) == 4


def test_queries_and_documents_are_cut_to_so_many_tokens_without_their_prompts(http):
    def scores(query, documents, **options):
        body = {"model": "words", "query": query, "documents": documents, **options}
        results = http.post("/v2/rerank", json=body).json()["results"]
        return {entry["index"]: entry["relevance_score"] for entry in results}

    short = [" ".join(text.split()[:2]) for text in DOCUMENTS]
    assert scores(QUERY, DOCUMENTS, max_tokens_per_doc=2) == scores(QUERY, short)
    assert scores(QUERY, DOCUMENTS, max_tokens_per_query=1) == scores("where", DOCUMENTS, max_tokens_per_doc=0)


@pytest.mark.parametrize(
    ("kind", "prompt"), [("search_query", "query : "), ("search_document", "passage : "), ("clustering", "")]
)
def test_kinds_of_texts_choose_prompts(http, kind, prompt):
    answer = http.post("/v1/embeddings", json={"model": "words", "input": QUERY, "input_type": kind}).json()
    assert answer["data"][0]["embedding"] == vectors(http, prompt + QUERY)[0].tolist()


@pytest.mark.parametrize("task", [None, "embed"])
def test_pooling_makes_vectors(http, task):
    body = {"model": "words", "input": DOCUMENTS, "task": task}
    found = http.post("/pooling", json=body).json()["data"]
    assert [(entry["object"], entry["index"]) for entry in found] == [("pooling", i) for i in range(4)]
    assert [entry["data"] for entry in found] == vectors(http, DOCUMENTS).tolist()


def test_pooling_makes_a_vector_of_each_token(http):
    body = {"model": "words", "input": DOCUMENTS[:2], "task": "token_embed"}
    found = [np.array(entry["data"], np.float32) for entry in http.post("/pooling", json=body).json()["data"]]
    assert [array.shape for array in found] == [(8, 48), (5, 48)]
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-5)
    coded = http.post("/pooling", json={**body, "encoding_format": "base64"}).json()["data"]
    for entry, array in zip(coded, found, strict=True):
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(entry["data"]), "<f4"), array.ravel())


REFUSED = [
    ("/score", {"text_1": "cat"}, "text_2", "text_2: this field is required"),
    ("/score", {}, "text_1", "text_1: this field is required"),
    ("/score", {"text_1": "cat", "text_2": "cat", "queries": "a"}, "queries", "queries: not beside text_1 and text_2"),
    ("/score", {"queries": "cat", "items": "a", "documents": "a"}, "items", "items: not beside queries and documents"),
    ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, None, "2 texts can't be compared with 3"),
    ("/score", {"text_1": "cat", "text_2": ["cat", 5]}, "text_2", "text_2[1]: must be"),
    ("/score", {"text_1": "cat", "text_2": []}, "text_2", "text_2: must have at least 1 entry"),
    (
        "/score",
        {"text_1": "cat", "text_2": ["cat", LONG]},
        None,
        "text_2[1]: This model's maximum context length is",
    ),
    ("/rerank", {"query": LONG, "documents": ["cat"]}, None, "query: This model's maximum context length is 140"),
    ("/rerank", {"query": "cat", "documents": ["cat", LONG * 90]}, None, "140 tokens, but documents[1] has"),
    ("/rerank", {"query": "cat", "documents": []}, "documents", "documents: must have at least 1 entry"),
    ("/rerank", {"query": "cat", "documents": ["cat"] * 10000}, "documents", "documents must be at most 50 texts"),
    ("/rerank", {"query": "cat", "documents": ["a", {"text": 5}]}, "documents.text", "documents[1].text: must be a"),
    ("/rerank", {"query": "cat", "documents": ["a", {"url": "x"}]}, "documents.url", "documents[1].url is not known"),
    ("/rerank", {"query": "cat", "documents": ["a"], "top_n": -1}, "top_n", "top_n: must be at least 0"),
    ("/rerank", {"query": "cat", "documents": ["a"], "rank_fields": ["x"]}, "rank_fields", "rank_fields is not"),
    ("/rerank", {"documents": ["a"]}, "query", "query: this field is required"),
    ("/v1/embeddings", {"input": "cat", "input_type": "image"}, "input_type", "input_type: must be"),
    ("/pooling", {"input": "cat", "task": "plugin"}, "task", "task must be one of"),
    ("/pooling", {"input": ["cat", LONG]}, None, "input[1]: This model's maximum context length is 140 tokens"),
    ("/pooling", {"input": "cat", "dimensions": 49}, "dimensions", "dimensions must be"),
]


@pytest.mark.parametrize(("path", "body", "param", "reason"), REFUSED, ids=[str(one)[:60] for one in REFUSED])
def test_what_is_wrong_is_said(http, path, body, param, reason):
    answer = http.post(path, json={"model": "words", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert reason in error["message"]
    assert error["param"] == param


def test_long_texts_are_cut_where_that_is_asked(http):
    body = {"model": "words", "query": "cat", "documents": [LONG * 90, "cat"], "truncate_prompt_tokens": -1}
    assert http.post("/rerank", json=body).json()["usage"]["total_tokens"] == 5 + 140 + 5
    body = {"model": "words", "query": "cat", "documents": [LONG * 90, "cat"], "truncate_prompt_tokens": 10}
    assert http.post("/rerank", json=body).json()["usage"]["total_tokens"] == 5 + 10 + 5


def test_a_model_that_can_not_says_which_can(http):
    for path, body in (("/score", {"text_1": "a", "text_2": "b"}), ("/rerank", {"query": "a", "documents": ["b"]})):
        for model in ("chat", "labels"):
            error = http.post(path, json={"model": model, **body}).json()["error"]
            reason = f"The model '{model}' can't score pairs of texts. Served models that can: words, pairs"
            assert error["message"] == reason
    error = http.post("/classify", json={"model": "words", "input": "a"}).json()["error"]
    assert error["message"] == "The model 'words' can't classify texts. Served models that can: labels, pairs"
    assert http.post("/pooling", json={"model": "words", "input": "a", "task": "classify"}).json()["error"] == error
    error = http.post("/v1/embeddings", json={"model": "pairs", "input": "a"}).json()["error"]
    assert error["message"] == "The model 'pairs' can't embed texts. Served models that can: words"
    error = http.post("/score", json={"text_1": "a", "text_2": "b"}).json()["error"]
    assert error["message"] == "several models are served: say which in 'model': words, pairs"


def offline(folder, name):
    return LLM(str(folder / name), dtype="float32")


def test_pairs_are_scored_by_a_model_that_reads_both(http, pooling_folder):
    found = offline(pooling_folder, "pairs").score(QUERY, DOCUMENTS, use_tqdm=False)
    own = [one.outputs.score for one in found]
    answer = http.post("/score", json={"model": "pairs", "text_1": QUERY, "text_2": DOCUMENTS}).json()
    assert [entry["score"] for entry in answer["data"]] == own
    assert answer["usage"]["total_tokens"] == sum(len(one.prompt_token_ids) for one in found)
    ranks = http.post("/rerank", json={"model": "pairs", "query": QUERY, "documents": DOCUMENTS}).json()["results"]
    assert [entry["index"] for entry in ranks] == sorted(range(4), key=lambda i: -own[i])
    raw = {"model": "pairs", "text_1": QUERY, "text_2": DOCUMENTS, "use_activation": False}
    raw_scores = np.array([entry["score"] for entry in http.post("/score", json=raw).json()["data"]])
    np.testing.assert_allclose(1 / (1 + np.exp(-raw_scores)), own, atol=1e-6)
    error = http.post("/rerank", json={"model": "pairs", "query": LONG, "documents": ["a", "b"]}).json()["error"]
    assert "This model's maximum context length is 140 tokens" in error["message"]


def test_classes_have_names_and_probabilities(http, pooling_folder):
    found = offline(pooling_folder, "labels").classify(DOCUMENTS, use_tqdm=False)
    answer = http.post("/classify", json={"model": "labels", "input": DOCUMENTS}).json()
    for i, (entry, own) in enumerate(zip(answer["data"], found, strict=True)):
        assert entry["probs"] == own.outputs.probs
        label = CLASSIFIERS["labels"][int(np.argmax(own.outputs.probs))]
        assert (entry["index"], entry["num_classes"], entry["label"]) == (i, 3, label)
    assert answer["usage"]["total_tokens"] == 8 + 5 + 3 + 6
    assert answer["id"].startswith("classify-")
    pooled = http.post("/pooling", json={"model": "labels", "input": DOCUMENTS}).json()["data"]
    assert [entry["data"] for entry in pooled] == [entry["probs"] for entry in answer["data"]]
    raw = http.post("/classify", json={"model": "labels", "input": DOCUMENTS, "use_activation": False}).json()["data"]
    exps = np.exp([entry["probs"] for entry in raw])
    np.testing.assert_allclose(exps / exps.sum(1, keepdims=True), [one.outputs.probs for one in found], atol=1e-6)


MODELS = {
    "/v1/embeddings": "words",
    "/pooling": "words",
    "/classify": "labels",
    "/score": "pairs",
    "/v2/rerank": "words",
}


@pytest.mark.parametrize("path", MODELS)
def test_numbers_at_their_limits_are_no_5xx_and_disturb_nobody(pooling_server, path):
    cls, base = JSON[path]
    schema = cls.model_json_schema()
    with Bystanders(pooling_server, "chat"), pooling_server.client() as client:
        for field, limits in numbers_in(schema, schema.get("$defs", {})):
            for number in limits_of(limits):
                body = body_with({**base, "model": MODELS[path]}, field, number)
                answer = client.post(path, content=body, headers={"content-type": "application/json"})
                assert answer.status_code < 500, (body, answer.text)
                assert answer.status_code == 200 or answer.json()["error"]["message"], body


@pytest.mark.parametrize("path", MODELS)
def test_no_answer_is_a_5xx_or_undeclared(pooling_server, path):
    schema = schemathesis.openapi.from_url(f"{pooling_server.url}/openapi.json")
    cases = strategies.one_of(*(schema[path]["POST"].as_strategy(generation_mode=mode) for mode in GenerationMode))

    @given(cases, strategies.integers(0, 4), strategies.randoms())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case, most, random):
        if isinstance(case.body, dict):
            case.body = thinned(case.body, most, random)
            if "model" in case.body:
                case.body["model"] = MODELS[path]
        call(pooling_server, case)

    check()


def test_arrays_of_many_numbers_are_written_as_few_are(http):
    body = {"model": "words", "input": ["the cat"] * 50, "task": "token_embed"}
    answer = http.post("/pooling", json=body)
    (one,) = http.post("/pooling", json={**body, "input": "the cat"}).json()["data"]
    assert answer.headers["content-type"] == "application/json"
    assert [entry["data"] for entry in json.loads(answer.content)["data"]] == [one["data"]] * 50


def test_many_texts_of_many_clients_are_no_queue_that_is_full(pooling_server):
    """Of requests that generate, 800 at once would be too many: 8 run, and 256 may wait."""

    def ask(_):
        with pooling_server.client() as client:
            return client.post("/v1/embeddings", json={"model": "words", "input": DOCUMENTS[:2] * 25}).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(32))) == {200}
