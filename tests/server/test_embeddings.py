"""/v1/embeddings, asked by OpenAI's own client: a model that embeds and one that chats in one process."""

import base64

import numpy as np
import openai
import pytest

from encoders import WORDS, rows_of

TEXTS = ["the cat sat on the mat", "dog", " ".join(WORDS * 4)]
PATH = "/v1/embeddings"


@pytest.fixture
def openai_client(pooling_server):
    with openai.OpenAI(base_url=f"{pooling_server.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


@pytest.fixture
def http(pooling_server):
    with pooling_server.client() as client:
        yield client


def expected(model, http, texts):
    """Means of rows, as long as 1."""
    found = []
    for text in texts:
        ids = http.post("/tokenize", json={"model": "words", "prompt": text}).json()["tokens"]
        mean = rows_of(model, ids).mean(0)
        found.append(mean / np.linalg.norm(mean))
    return np.array(found)


def test_texts_become_vectors_in_their_order(openai_client, http, words_model):
    """The client asks for base64 itself, and reads it."""
    answer = openai_client.embeddings.create(model="words", input=TEXTS)
    assert (answer.object, answer.model, [one.index for one in answer.data]) == ("list", "words", [0, 1, 2])
    own = expected(words_model, http, TEXTS)
    np.testing.assert_allclose([one.embedding for one in answer.data], own, atol=1e-4)
    floats = openai_client.embeddings.create(model="words", input=TEXTS, encoding_format="float")
    assert [one.embedding for one in floats.data] == [one.embedding for one in answer.data]
    lengths = [8, 3, len(WORDS) * 4 + 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(lengths)


def test_token_ids_are_texts_too(openai_client, http):
    ids = [http.post("/tokenize", json={"model": "words", "prompt": text}).json()["tokens"] for text in TEXTS]
    of_texts = openai_client.embeddings.create(model="words", input=TEXTS).data
    assert openai_client.embeddings.create(model="words", input=ids).data == of_texts
    assert openai_client.embeddings.create(model="words", input=ids[1]).data[0].embedding == of_texts[1].embedding


def test_dimensions_prompts_and_base64(openai_client, http):
    (whole,) = openai_client.embeddings.create(model="words", input="query : cat").data
    asked = {"model": "words", "input": "cat", "prompt_name": "query", "encoding_format": "base64"}
    found = http.post(PATH, json=asked).json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(found), "<f4"), np.float32(whole.embedding))
    (short,) = openai_client.embeddings.create(model="words", input="query : cat", dimensions=16).data
    first = np.array(whole.embedding[:16])
    np.testing.assert_allclose(short.embedding, first / np.linalg.norm(first), atol=1e-6)


LONG = " ".join(WORDS * 8)
REFUSED = [
    ({"input": []}, "input", "missing_field|invalid_value|invalid_type"),
    ({"input": [[]]}, "input", ""),
    ({"input": ["a", 1]}, "input", ""),
    ({"input": ["cat", LONG]}, None, "context_length_exceeded"),
    ({"input": [[5], [5, 9999]]}, None, ""),
    ({"input": ["a"] * 51}, "input", ""),
    ({"input": "cat", "dimensions": 17}, "dimensions", ""),
    ({"input": "cat", "dimensions": 0}, "dimensions", ""),
    ({"input": "cat", "prompt_name": "document"}, "prompt_name", ""),
    ({"input": "cat", "encoding_format": "int8"}, "encoding_format", ""),
    ({"input": "cat", "messages": []}, "messages", "unsupported_parameter"),
    ({"input": "cat", "truncate_prompt_tokens": 1000}, None, "context_length_exceeded"),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED, ids=[str(body)[:40] for body, *_ in REFUSED])
def test_what_is_wrong_is_said(http, body, param, code):
    answer = http.post(PATH, json={"model": "words", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"] or "").startswith(param or "")
    assert not code or error["code"] in code.split("|")


def test_a_wrong_text_is_named_by_its_place_and_a_long_one_is_cut_where_that_is_asked(http):
    error = http.post(PATH, json={"model": "words", "input": ["cat", LONG]}).json()["error"]
    assert error["message"].startswith(
        "input[1]: This model's maximum context length is 140 tokens, but the prompt has"
    )
    error = http.post(PATH, json={"model": "words", "input": ["cat", LONG * 100]}).json()["error"]
    assert "maximum context length is 140 tokens, but input[1] has" in error["message"]
    asked = {"model": "words", "input": ["cat", LONG * 100], "truncate_prompt_tokens": -1}
    answer = http.post(PATH, json=asked).json()
    assert answer["usage"]["prompt_tokens"] == 3 + 140


def test_each_model_does_what_it_can(http, openai_client):
    wrong = http.post(PATH, json={"model": "chat", "input": "cat"}).json()["error"]
    assert wrong["message"] == "The model 'chat' can't embed texts. Served models that can: words"
    wrong = http.post("/v1/completions", json={"model": "words", "prompt": "cat"}).json()["error"]
    assert wrong["message"] == "The model 'words' can't answer text. Served models that can: chat"
    assert openai_client.embeddings.create(model="", input="cat").model == "words"  # the only one that can
    assert http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 3}).json()["model"] == "chat"


def test_vectors_are_the_same_bits_beside_streams_of_chats(http, openai_client):
    alone = [openai_client.embeddings.create(model="words", input=text).data[0].embedding for text in TEXTS]
    body = {"model": "chat", "prompt": ["a b c"] * 4, "max_tokens": 60, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        found = openai_client.embeddings.create(model="words", input=TEXTS * 8)
        assert [one.embedding for one in found.data] == alone * 8
        assert list(lines)[-2] == "data: [DONE]"
    counts = http.get("/metrics").text
    assert 'model_name="words"' in counts
