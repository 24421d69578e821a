"""Clients that people have, asking for embeddings and ranks: LangChain's, LlamaIndex's, Cohere's."""

import asyncio

import httpx
import numpy as np
import pytest

from .test_scoring import DOCUMENTS, QUERY, http, vectors  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@pytest.fixture
def own(http):  # noqa: F811
    """The vectors of DOCUMENTS, and of QUERY at the end."""
    return vectors(http, [*DOCUMENTS, QUERY])


@pytest.fixture
def connection():
    """What clients send requests with: they do not close their own."""
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture
def langchain(pooling_server, connection):
    library = pytest.importorskip("langchain_openai", exc_type=ImportError)
    options = {"model": "words", "base_url": f"{pooling_server.url}/v1", "api_key": "EMPTY", "max_retries": 0}
    return lambda **more: library.OpenAIEmbeddings(**{**options, "http_client": connection, **more})


def test_langchain_sends_texts(langchain, own):
    embeddings = langchain(check_embedding_ctx_length=False, chunk_size=3)
    np.testing.assert_allclose(embeddings.embed_documents(DOCUMENTS), own[:-1], atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(QUERY), own[-1], atol=1e-6)
    short = langchain(check_embedding_ctx_length=False, dimensions=16).embed_query(QUERY)
    np.testing.assert_allclose(short, own[-1, :16] / np.linalg.norm(own[-1, :16]), atol=1e-6)


def test_langchain_sends_token_ids(langchain, http, monkeypatch):  # noqa: F811
    """As it does unless told otherwise: of OpenAI's encoding, which is to be fetched; this one has bytes."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: encoding)
    texts = [text for text in DOCUMENTS if text]
    found = langchain().embed_documents(texts)
    np.testing.assert_allclose(found, vectors(http, [list(text.encode()) for text in texts]), atol=1e-6)


def test_langchain_sends_texts_asynchronously(langchain, own):
    async def embed():
        async with httpx.AsyncClient(trust_env=False) as client:
            embeddings = langchain(check_embedding_ctx_length=False, http_async_client=client)
            return await embeddings.aembed_documents(DOCUMENTS)

    np.testing.assert_allclose(asyncio.run(embed()), own[:-1], atol=1e-6)


def test_llama_index_embeds_texts_and_queries(pooling_server, connection, own):
    library = pytest.importorskip("llama_index.embeddings.openai_like", exc_type=ImportError)
    options = {"api_base": f"{pooling_server.url}/v1", "api_key": "EMPTY", "max_retries": 0, "http_client": connection}
    embeddings = library.OpenAILikeEmbedding(model_name="words", embed_batch_size=3, **options)
    np.testing.assert_allclose(embeddings.get_text_embedding_batch(DOCUMENTS), own[:-1], atol=1e-6)
    np.testing.assert_allclose(embeddings.get_query_embedding(QUERY), own[-1], atol=1e-6)


@pytest.mark.parametrize("kind", ["ClientV2", "Client"])
@pytest.mark.parametrize("model", ["words", "pairs"])
def test_cohere_ranks_documents(pooling_server, http, connection, kind, model):  # noqa: F811
    library = pytest.importorskip("cohere", exc_type=ImportError)
    client = getattr(library, kind)(api_key="EMPTY", base_url=pooling_server.url, httpx_client=connection)
    asked = {"model": model, "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    expected = http.post("/v2/rerank", json=asked).json()["results"]
    answer = client.rerank(**asked)
    assert [(one.index, one.relevance_score) for one in answer.results] == [
        (one["index"], one["relevance_score"]) for one in expected
    ]
    assert answer.meta.billed_units.search_units == 1
    assert answer.id.startswith("rerank-")
    with pytest.raises(library.BadRequestError, match="score pairs of texts"):
        client.rerank(**{**asked, "model": "chat"})
