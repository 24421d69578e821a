"""`octavo bench embed --url URL`: the load on a server's /v1/embeddings."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from octavo.cli.bench.figures import Json, make_document, statistics
from octavo.cli.bench.texts import texts_of, workload
from octavo.cli.bench.workload import TOKEN_IDS, WORDS
from octavo.cli.remote import api_key
from octavo.client.api import EMBEDDINGS, ApiClient, ApiError
from octavo.client.framing import ConnectionFailed

SECONDS = 600.0  # the longest that a request may take


class Answered(NamedTuple):
    """A request: its time in seconds, its texts and their tokens as the server counts them, and what went wrong."""

    seconds: float
    num_texts: int
    num_tokens: int
    error: str | None


def bench_server(args: argparse.Namespace, lines: list[str] | None) -> Json:
    """The document of the benchmark. Raises ApiError or ConnectionFailed where the server refuses a first request."""
    return asyncio.run(_bench(args, lines))


async def _bench(args: argparse.Namespace, lines: list[str] | None) -> Json:
    client = ApiClient(args.url, api_key(args))
    try:
        model = getattr(args, "model", None) or (await client.models())[0]["id"]
        many, alone = texts_of(args, lines, TOKEN_IDS)
        is_words = lines is None and not await _takes_ids(client, model, alone[0])
        if is_words:
            print("octavo: the server takes no token ids: texts are words, of about as many tokens", file=sys.stderr)
            many, alone = ([_words(ids) for ids in some] for some in (many, alone))
        single = [await _ask(client, model, [text]) for text in alone][args.warmup :]
        begin = time.perf_counter()
        answered = await _ask_all(client, model, many, args.batch_size, args.max_concurrency)
        seconds = time.perf_counter() - begin
    finally:
        client.close()
    good = [one for one in answered if one.error is None]
    texts, tokens = sum(one.num_texts for one in good), sum(one.num_tokens for one in good)
    results = {
        "texts": texts,
        "tokens": tokens,
        "seconds": seconds,
        "completed": len(good),
        "failed": dict(sorted(Counter(one.error for one in [*single, *answered] if one.error is not None).items())),
        "texts_per_second": texts / seconds,
        "tokens_per_second": tokens / seconds,
        "request_s": statistics(sorted(one.seconds for one in good)),
        "latency_s": statistics(sorted(one.seconds for one in single if one.error is None)),
    }
    sent = "text" if is_words or lines is not None else "token ids"
    asked = {**workload(args), "texts_as": sent, "batch_size": args.batch_size, "max_concurrency": args.max_concurrency}
    return make_document(
        "embed", url=f"{client.address}{EMBEDDINGS}", model={"name": model}, workload=asked, results=results
    )


async def _takes_ids(client: ApiClient, model: str, ids: list[int]) -> bool:
    """Raises ApiError where the server takes text neither."""
    try:
        await client.call("POST", EMBEDDINGS, {"model": model, "input": [ids]})
    except ApiError as error:
        if error.status not in (400, 422, 500):
            raise
        await client.call("POST", EMBEDDINGS, {"model": model, "input": [_words(ids)]})
        return False
    return True


async def _ask_all(
    client: ApiClient, model: str, texts: Sequence[Any], batch_size: int, concurrency: int
) -> list[Answered]:
    gate = asyncio.Semaphore(concurrency)

    async def one(batch: Sequence[Any]) -> Answered:
        async with gate:
            return await _ask(client, model, batch)

    batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
    return await asyncio.gather(*map(one, batches))


async def _ask(client: ApiClient, model: str, texts: Sequence[Any]) -> Answered:
    """Vectors come as base64, as OpenAI's client asks for them."""
    begin, error, tokens = time.perf_counter(), None, 0
    try:
        async with asyncio.timeout(SECONDS):
            body = {"model": model, "input": list(texts), "encoding_format": "base64"}
            tokens = (await client.call("POST", EMBEDDINGS, body)).get("usage", {}).get("prompt_tokens", 0)
    except ApiError as refusal:
        error = str(refusal.status)
    except ConnectionFailed:
        error = "connection"
    except TimeoutError:
        error = "timeout"
    return Answered(time.perf_counter() - begin, len(texts), tokens, error)


def _words(ids: Sequence[int]) -> str:
    return " ".join(WORDS[token % len(WORDS)] for token in ids)
