"""What each form of the weights costs in accuracy: perplexity, and mean KL divergence from the float32 model.

    python benchmarks/quantization.py TEXT… [--gguf FILE] [--model DIRECTORY] [--length 1024] [--kv-cache-dtype int8]

The float32 model is the directory if it is given, else the GGUF file, unpacked. The first `--length` tokens of each
text are read; figures are means over them. With `--kv-cache-dtype`, each form of the weights is compared with itself
instead: what its KV cache costs in that type.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from octavo import LLM
from octavo.errors import OctavoError
from octavo.executor.base import Step, Wanted

ROWS = 64  # of logits in a step
Variants = dict[str, dict[str, Any]]  # options of LLM by the variant's name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--gguf", metavar="FILE", help="a GGUF file; without it and --model, that of the default model")
    parser.add_argument("--model", metavar="DIRECTORY", help="the same model in bfloat16")
    parser.add_argument("--kv-cache-dtype", metavar="TYPE", help="the type of the KV cache to measure, as int8")
    parser.add_argument("--length", type=int, default=1024, metavar="N")
    args = parser.parse_args()
    forms: Variants = {"GGUF, as it is stored": {"model": args.gguf}} if args.gguf or not args.model else {}
    if args.model:
        forms["bfloat16"] = {"model": args.model}
        forms |= {name: {"model": args.model, "quantization": name} for name in ("int8", "int4", "fp8")}
    tables: list[Variants] = [{"float32": {"model": args.model or args.gguf, "dtype": "float32"}} | forms]
    if cache := args.kv_cache_dtype:
        tables = [
            {form: said, f"KV cache in {cache}": {**said, "kv_cache_dtype": cache}} for form, said in forms.items()
        ]
    try:
        texts = [path.read_text(encoding="utf-8") for path in args.texts]
        table = [row for variants in tables for row in measure(variants, texts, args.length)]
    except (OctavoError, OSError) as error:
        sys.exit(str(error))
    print("| weights | perplexity | of the first's | mean KL | likeliest token is the same |\n|---|---|---|---|---|")
    for name, perplexity, ratio, divergence, agreement in table:
        print(f"| {name} | {perplexity:.3f} | {ratio - 1:+.2%} | {divergence:.1e} | {agreement:.1%} |")
    return 0


def measure(variants: Variants, texts: list[str], length: int) -> Iterator[tuple[str, float, float, float, float]]:
    """(name, perplexity, its ratio to the first's, mean KL divergence, share of equal choices) of each variant."""
    expected: list[np.ndarray] = []
    for name, options in variants.items():
        llm = LLM(executor="native", max_model_len=length, max_num_seqs=ROWS, **options)
        prompts = [llm.model.tokenizer.encode(text)[:length] for text in texts]
        found = [logprobs(llm, tokens) for tokens in prompts]
        expected = expected or found
        reference = np.mean([loss(*pair) for pair in zip(expected, prompts, strict=True)])
        pairs = list(zip(expected, found, strict=True))
        losses = np.mean([loss(*pair) for pair in zip(found, prompts, strict=True)])
        divergence = np.mean([(np.exp(e) * (e - f)).sum(-1).mean() for e, f in pairs])
        agreement = np.mean([(e.argmax(-1) == f.argmax(-1)).mean() for e, f in pairs])
        yield name, float(np.exp(losses)), float(np.exp(losses - reference)), float(divergence), float(agreement)


def logprobs(llm: LLM, tokens: list[int]) -> np.ndarray:
    """Of every token of the vocabulary after each of `tokens`: float64 [tokens, vocabulary]."""
    executor, found = llm.model.executor, []
    blocks = np.arange(-(-len(tokens) // executor.sizes.block_size), dtype=np.int32)[None]
    for start in range(0, len(tokens), ROWS):
        part = np.array(tokens[start : start + ROWS], np.int32)
        places = {"starts": np.array([start], np.int32), "counts": np.array([len(part)], np.int32)}
        rows = Wanted(logits=np.arange(len(part), dtype=np.int32))
        logits = executor.run(Step((0,), part, block_tables=blocks, wanted=rows, **places)).logits.astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        found.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return np.concatenate(found)


def loss(logprobs: np.ndarray, tokens: list[int]) -> float:
    return float(-logprobs[np.arange(len(tokens) - 1), tokens[1:]].mean())


if __name__ == "__main__":
    sys.exit(main())
