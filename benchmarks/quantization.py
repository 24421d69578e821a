"""What each form of the weights costs in accuracy: perplexity, and mean KL divergence from the float32 model.

    python benchmarks/quantization.py TEXT… [--gguf FILE] [--model DIRECTORY] [--length 1024] [--kv-cache-dtype int8]

The float32 model is the directory if it is given, else the GGUF file, unpacked. The first `--length` tokens of each
text are read, and then 20 chats, with the answers that the first model of a table gives; figures are means over
tokens. With `--kv-cache-dtype`, each form of the weights is compared with itself instead: what its KV cache costs in
that type.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from octavo import LLM, SamplingParams
from octavo.errors import OctavoError
from octavo.executor.base import Step, Wanted

ROWS = 64  # of logits in a step
Variants = dict[str, dict[str, Any]]  # options of LLM by the variant's name
Figures = tuple[str, float, float, float, float]
QUESTIONS = [
    "Why is the sky blue?",
    "How do I boil an egg?",
    "Write a short poem about autumn.",
    "What is the capital of Australia?",
    "Explain how a bicycle stays upright.",
    "Give me three ideas for a birthday present.",
    "What does a database index do?",
    "Translate 'good morning' into French and German.",
    "Who was Marie Curie?",
    "Write a Python function that reverses a string.",
    "What is the difference between a virus and a bacterium?",
    "How many days are there in a leap year?",
    "Summarise the story of Romeo and Juliet in two sentences.",
    "What should I pack for a week in the mountains?",
    "Why do we have seasons?",
    "Write an e-mail that asks for a day off.",
    "What is 17 times 23?",
    "Name five animals that live in the ocean.",
    "How does a microwave oven heat food?",
    "Tell me a joke about computers.",
]


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
        for variants in tables:
            show("the texts", measure(variants, lambda llm: encoded(llm, texts, args.length), args.length))
            show(f"{len(QUESTIONS)} chats", measure(variants, lambda llm: chats(llm, args.length), args.length))
    except (OctavoError, OSError) as error:
        sys.exit(str(error))
    return 0


def show(what: str, table: Iterator[Figures]) -> None:
    print(f"| weights, {what} | perplexity | of the first's | mean KL | likeliest token is the same |")
    print("|---|---|---|---|---|")
    for name, perplexity, ratio, divergence, agreement in table:
        print(f"| {name} | {perplexity:.3f} | {ratio - 1:+.2%} | {divergence:.1e} | {agreement:.1%} |", flush=True)


def encoded(llm: LLM, texts: list[str], length: int) -> list[list[int]]:
    return [llm.model.tokenizer.encode(text)[:length] for text in texts]


def chats(llm: LLM, length: int) -> list[list[int]]:
    """Questions with the likeliest answers."""
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    outputs = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)
    return [[*output.prompt_token_ids, *output.outputs[0].token_ids][:length] for output in outputs]


def measure(variants: Variants, read: Callable[[LLM], list[list[int]]], length: int) -> Iterator[Figures]:
    """(name, perplexity, its ratio to the first's, mean KL divergence, share of equal choices) of each variant.

    `read` gives the sequences of tokens that all of them are measured with.
    """
    prompts: list[list[int]] = []
    expected: list[np.ndarray] = []
    for name, options in variants.items():
        llm = LLM(executor="native", max_model_len=length, max_num_seqs=ROWS, **options)
        prompts = prompts or read(llm)
        found = [logprobs(llm, tokens) for tokens in prompts]
        expected = expected or found
        reference, losses = loss(expected, prompts), loss(found, prompts)
        pairs = list(zip(expected, found, strict=True))
        divergence = np.concatenate([(np.exp(e) * (e - f)).sum(-1) for e, f in pairs]).mean()
        agreement = np.concatenate([e.argmax(-1) == f.argmax(-1) for e, f in pairs]).mean()
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


def loss(logprobs: list[np.ndarray], prompts: list[list[int]]) -> float:
    """The mean of -log p of all tokens but the first of each sequence."""
    pairs = zip(logprobs, prompts, strict=True)
    return float(-np.concatenate([found[np.arange(len(tokens) - 1), tokens[1:]] for found, tokens in pairs]).mean())


if __name__ == "__main__":
    sys.exit(main())
