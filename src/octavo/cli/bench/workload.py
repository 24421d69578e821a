"""What a load consists of: prompts and the lengths of their outputs, the same for the same seed."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.cli.parser import UsageError

# Ids that nearly every vocabulary has; the first ones are often control tokens.
TOKEN_IDS = range(256, 8192)
# Nearly every tokenizer has one token for each of these, with the space before it.
WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not"),
    *("but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were", "all"),
    *("she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "no", "more", "if", "out"),
    *("up", "said", "what", "its", "about", "than", "into", "them", "can", "only", "other", "time", "new", "some"),
)
CHARACTERS_PER_TOKEN = 4  # English text has about so many; lengths are estimated where there is no tokenizer
MAX_SHARED_LENGTH = 1024  # conversations with longer prompts or answers are passed over, as in vLLM


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: text, or a list of token ids, and how many tokens to ask for."""

    prompt: str | list[int]
    output_len: int


def random_samples(
    number: int, input_len: int, output_len: int, ratio: float, prefix_len: int, seed: int, as_ids: bool
) -> list[Sample]:
    """Random prompts that begin with the same `prefix_len` tokens; lengths are within a share `ratio` of those given.

    Prompts of text have about as many tokens as those of ids.
    """
    source = random.Random(seed)

    def length(middle: int) -> int:
        return max(1, source.randint(math.floor(middle * (1 - ratio)), math.ceil(middle * (1 + ratio))))

    def tokens(count: int) -> list[int]:
        return source.choices(TOKEN_IDS, k=count)

    prefix = tokens(prefix_len)
    samples = []
    for _ in range(number):
        ids = prefix + tokens(length(input_len))
        text = " ".join(WORDS[token % len(WORDS)] for token in ids)
        samples.append(Sample(ids if as_ids else text, length(output_len)))
    return samples


def file_samples(path: Path, number: int, output_len: int) -> list[Sample]:
    """Lines of a file, again and again up to `number`: JSON with `prompt` and perhaps `output_len`, or plain text."""
    samples = [_line_sample(line, output_len, path) for line in _read(path).splitlines() if line.strip()]
    return _repeat(samples, number, path)


def sharegpt_samples(path: Path, number: int, output_len: int | None, seed: int) -> list[Sample]:
    """First questions of ShareGPT's conversations in a random order; the answer's length is guessed from its text."""
    try:
        conversations = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--dataset-path {path}: is not JSON: {error}") from None
    samples = [sample for item in _list(conversations) if (sample := _conversation_sample(item, output_len))]
    random.Random(seed).shuffle(samples)
    return _repeat(samples, number, path)


def arrivals(number: int, rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """When requests are sent, in seconds from the beginning: `rate` per second on average.

    Intervals have a gamma distribution of shape `burstiness`: 1 is a Poisson process, less is burstier.
    """
    source, now = random.Random(seed), 0.0
    for _ in range(number):
        yield now
        if math.isfinite(rate):
            now += source.gammavariate(burstiness, 1 / (rate * burstiness))


def _line_sample(line: str, output_len: int, path: Path) -> Sample:
    try:
        value = json.loads(line)
    except ValueError:
        return Sample(line, output_len)
    if not isinstance(value, dict):
        return Sample(line, output_len)
    prompt, length = value.get("prompt"), value.get("output_len", value.get("output_tokens", output_len))
    if not isinstance(prompt, str) or not prompt or type(length) is not int or length < 1:
        raise UsageError(f"--dataset-path {path}: needs a text `prompt` and a number `output_len`: {line[:60]}")
    return Sample(prompt, length)


def _conversation_sample(item: Any, output_len: int | None) -> Sample | None:
    turns = _list(item.get("conversations") if isinstance(item, dict) else None)
    texts = [turn["value"] for turn in turns[:2] if isinstance(turn, dict) and isinstance(turn.get("value"), str)]
    if len(texts) < 2:
        return None
    lengths = [len(text) // CHARACTERS_PER_TOKEN for text in texts]
    if min(lengths) < 4 or max(lengths) > MAX_SHARED_LENGTH:
        return None
    return Sample(texts[0], output_len or lengths[1])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _read(path: Path) -> str:
    try:
        if path.is_char_device() or path.is_fifo():
            raise UsageError(f"--dataset-path {path}: can't be read: it is no regular file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--dataset-path {path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _repeat(samples: list[Sample], number: int, path: Path) -> list[Sample]:
    if not samples:
        raise UsageError(f"--dataset-path {path}: there is nothing in it that could be asked")
    return list(itertools.islice(itertools.cycle(samples), number))
