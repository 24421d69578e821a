"""`octavo rerank [MODEL] --query Q FILE`: a file's documents, sorted by how well they answer a query."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence

from octavo.cli.flag import positive
from octavo.cli.inputs import text_engine_options
from octavo.cli.options import MODEL_HELP, add_engine_flags, add_flags, options_of, report_notes, take_model
from octavo.cli.parser import Parser, UsageError
from octavo.cli.texts import (
    BAD_TEXT,
    DEFAULT_RERANKER,
    TRUNCATE,
    batches,
    complain,
    counted,
    documents_of,
    read_lines,
    report,
    since_command,
)

DESCRIPTION = (
    "Sorts documents by how well they answer a query, the best first, and prints each as a line of JSON: index, score, "
    "text. FILE has a document on each line: a text, or a JSON object with a `text`, whose other fields are kept; - is "
    f"stdin. Without MODEL it is {DEFAULT_RERANKER}."
)


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    if not 1 <= len(args.words) <= 2:
        raise UsageError(f"octavo rerank takes [MODEL] FILE, got {len(args.words)} arguments")
    take_model(args, args.words[0] if len(args.words) == 2 else None)
    documents = documents_of(read_lines(args.words[-1]))
    options = text_engine_options(args)

    from octavo.pooling_params import PoolingParams

    params = PoolingParams(**options_of(args, [TRUNCATE]))
    report_notes()

    from octavo.engine.prompts import prompt_for
    from octavo.llm import LLM

    llm = LLM(**{"model": DEFAULT_RERANKER, "task": "score", **options})
    prompts = prompt_for(llm.model, "query"), prompt_for(llm.model, "document")
    begin, first, num_tokens = time.monotonic(), None, 0
    scores: list[float] = []
    for start, batch in batches(documents, "document"):
        texts = [document["text"] for document in batch]
        outputs = llm.score(args.query, texts, pooling_params=params, prompt_names=prompts, use_tqdm=False)
        first = first or since_command()
        for place, output in enumerate(outputs, start):
            scores.append(output.outputs.score)
            num_tokens += len(output.prompt_token_ids)
            if output.error is not None:
                complain("document", place, output.error)
    places = sorted((place for place, score in enumerate(scores) if math.isfinite(score)), key=lambda i: -scores[i])
    for place in places[: args.top_n]:
        print(json.dumps({"index": place, "score": scores[place], **documents[place]}, ensure_ascii=False))
    report(counted(len(documents), "document"), num_tokens, time.monotonic() - begin, first)
    return BAD_TEXT if len(places) < len(documents) else 0


def _parser() -> Parser:
    parser = Parser("octavo rerank", "--query Q [flags] [MODEL] FILE", DESCRIPTION)
    parser.add_argument("words", nargs="*", default=[], metavar="[MODEL] FILE", help=MODEL_HELP)
    group = add_flags(parser, "documents", [TRUNCATE])
    group.add_argument("--query", metavar="Q", required=True, help="what documents are to answer")
    group.add_argument("--top-n", type=positive, metavar="N", default=None, help="only the N best")
    add_engine_flags(parser)
    return parser
