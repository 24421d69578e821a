"""What structured output costs, and whether any text of a random model breaks its schema.

    python benchmarks/structured.py [PART ...] [--model MODEL] [--rounds 5] [--texts 2000] [--schemas 200]

Parts are overhead (16 sequences with a schema beside 16 without, in turn; ratios are medians over rounds), compile (a
schema of 500 properties), hostile (one schema that takes too long, beside 8 streams of a server) and random (texts of a
tiny random model, temperatures 0 to 2, validated); all of them by default. Ends with code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from serving import Report, serving

from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.errors import OctavoError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # has the tiny model and the random schemas

SEQUENCES, TOKENS, STREAMS = 16, 128, 8
TEXT = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "text": {"type": "string", "minLength": 1000}},
    "required": ["title", "text"],
    "additionalProperties": False,
}
SLOW = {"type": "integer", "multipleOf": 9973, "allOf": [{"multipleOf": 9967}]}


def main() -> int:
    args = _parser().parse_args()
    report = Report()
    for part in args.parts or PARTS:
        PARTS[part](args, report)
    return int(report.missed)


def overhead(args: argparse.Namespace, report: Report) -> None:
    llm = LLM(args.model, max_model_len=1024, max_num_seqs=SEQUENCES)
    prompts = [f"Article {i} of the encyclopedia:" for i in range(SEQUENCES)]

    def rate(structure: StructuredOutputsParams | None) -> float:
        params = [
            SamplingParams(temperature=1, seed=i, max_tokens=TOKENS, ignore_eos=True, structured_outputs=structure)
            for i in range(SEQUENCES)
        ]
        began = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs) / (time.perf_counter() - began)

    asked = StructuredOutputsParams(json=TEXT)
    for structure in (None, asked):  # memory is touched and the schema compiled
        rate(structure)
    ratios = [rate(asked) / rate(None) for _ in range(args.rounds)]
    report.add(f"{SEQUENCES} sequences with a schema beside without", median(ratios), "x", 0.95, at_most=False)


def compiling(args: argparse.Namespace, report: Report) -> None:
    llm = LLM(args.model, max_model_len=1024)

    def seconds(count: int) -> float:
        names = [f"field_{count}_{i}" for i in range(count)]
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
        asked = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema), max_tokens=1)
        began = time.perf_counter()
        llm.model.with_grammar(llm.model.reader.read("a"), asked)
        return time.perf_counter() - began

    report.add("the first schema, and what it needs", seconds(1), "s", 5)
    report.add("a schema of 500 properties", seconds(500), "s", 1)


def hostile(args: argparse.Namespace, report: Report) -> None:
    with serving(args.model) as server:
        alone = _gaps(server.url)
        began = time.perf_counter()
        answer: list[float] = []
        asking = threading.Thread(target=lambda: answer.append(_ask(server.url, SLOW) - began))
        asking.start()
        beside = _gaps(server.url)
        asking.join()
    report.add("a schema that takes too long: seconds to its 400", answer[0], "s", 5)
    worst, usual = (_percentile(gaps, 0.99) for gaps in (beside, alone))
    report.add(f"{STREAMS} streams beside it: p99 between tokens, alone is 1", worst / usual, "x", 2)


def random_texts(args: argparse.Namespace, report: Report) -> None:
    import jsonschema

    from cli.conftest import make_tiny_llama
    from structured.schemas import random_schema

    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(str(make_tiny_llama(Path(folder) / "tiny")), dtype="float32", max_num_seqs=64)
    schemas = [random_schema(1000 + seed) for seed in range(args.schemas)]
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    counts = {"stop": 0, "length": 0, "error": 0, "invalid": 0}
    params = [
        SamplingParams(
            temperature=(0, 0.5, 1, 1.5, 2)[i % 5],
            seed=i,
            max_tokens=300,
            structured_outputs=StructuredOutputsParams(json=schemas[i % len(schemas)]),
        )
        for i in range(args.texts)
    ]
    for i, output in enumerate(llm.generate(["a"] * args.texts, params, use_tqdm=False)):
        (completion,) = output.outputs
        counts[completion.finish_reason or "error"] += 1
        if completion.finish_reason == "stop":
            try:
                validator = jsonschema.Draft202012Validator(schemas[i % len(schemas)], format_checker=checker)
                validator.validate(json.loads(completion.text))
            except (ValueError, jsonschema.ValidationError) as error:
                counts["invalid"] += 1
                print(f"text {i}: {completion.text!r:.200}: {error!s:.200}")
        elif isinstance(output.error, OctavoError):
            print(f"text {i}: {output.error}")
    print(f"{args.texts} texts: {counts}")
    report.add("texts that break their schemas, and errors", counts["invalid"] + counts["error"], "", 0)


def _gaps(url: str) -> list[float]:
    """Seconds between the tokens of streams, of all of them."""
    found: list[float] = []

    def follow(seed: int) -> None:
        times = list(_times(url, seed))
        found.extend(later - earlier for earlier, later in pairwise(times))

    threads = [threading.Thread(target=follow, args=(seed,)) for seed in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _times(url: str, seed: int) -> Iterator[float]:
    body = {"prompt": "Once", "max_tokens": 512, "ignore_eos": True, "stream": True, "seed": seed, "temperature": 1}
    with urllib.request.urlopen(_request(url, "/v1/completions", body), timeout=600) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                yield time.perf_counter()


def _ask(url: str, schema: dict[str, Any]) -> float:
    """When a schema's 400 came."""
    time.sleep(1)
    status = 200
    try:
        urllib.request.urlopen(_request(url, "/v1/completions", {"prompt": "a", "guided_json": schema})).close()
    except urllib.error.HTTPError as error:
        status = error.code
    if status != 400:
        sys.exit(f"the schema got status {status}")
    return time.perf_counter() - 1


def _request(url: str, path: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"content-type": "application/json"})


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


PARTS = {"overhead": overhead, "compile": compiling, "hostile": hostile, "random": random_texts}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--schemas", type=int, default=200)
    return parser


if __name__ == "__main__":
    sys.exit(main())
