"""When each token was said: a path through what the decoder looks at while it writes them.

Some heads of cross attention follow the sound. Their weights, normalised and smoothed, are an image of tokens by
positions, and the best monotonic path through it (dynamic time warping) gives each token's time. The recipe is that of
Whisper's own program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.text.tokenizer import Tokenizer

POSITIONS_PER_SECOND = 50
MEDIAN_WIDTH = 7  # positions
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")  # languages whose words are not told by spaces
CLINGS_TO_NEXT = "\"'“¿([{-"
CLINGS_TO_LAST = "\"'.。,，!！?？:：”)]}、"

Floats = NDArray[np.floating[Any]]


def token_starts(weights: Floats, num_positions: int) -> list[float]:
    """Seconds at which each row's token begins.

    `weights` are [heads, tokens, positions], each row a distribution over positions, of which only the first
    `num_positions` have sound.
    """
    image = weights[:, :, :num_positions].astype(np.float64)
    deviation = image.std(axis=1, keepdims=True)
    image = (image - image.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-12)
    rows, columns = warp(-smooth(image).mean(axis=0))
    starts: list[float] = (columns[np.diff(rows, prepend=-1) > 0] / POSITIONS_PER_SECOND).tolist()
    return starts


def smooth(image: Floats) -> Floats:
    """The median over MEDIAN_WIDTH positions, with the borders reflected."""
    half = MEDIAN_WIDTH // 2
    if image.shape[-1] <= half:
        return image
    padded = np.pad(image, ((0, 0), (0, 0), (half, half)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=-1)
    return np.asarray(np.median(windows, axis=-1))


def warp(cost: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest path from the first to the last cell of [rows, columns], by steps right, down, or both.

    Returns the rows and the columns that it goes through.
    """
    num_rows, num_columns = cost.shape
    total = np.full((num_rows + 1, num_columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(2, num_rows + num_columns + 1):  # cells of one do not depend on each other
        row = np.arange(max(1, diagonal - num_columns), min(num_rows, diagonal - 1) + 1)
        column = diagonal - row
        before = np.minimum(total[row - 1, column - 1], np.minimum(total[row - 1, column], total[row, column - 1]))
        total[row, column] = cost[row - 1, column - 1] + before
    at_row, at_column, path = num_rows, num_columns, []
    while at_row > 0 and at_column > 0:
        path.append((at_row - 1, at_column - 1))
        steps = ((at_row - 1, at_column - 1), (at_row - 1, at_column), (at_row, at_column - 1))
        at_row, at_column = min(steps, key=lambda step: total[step])
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def split_words(ids: Sequence[int], tokenizer: Tokenizer, language: str) -> Iterator[tuple[str, list[int]]]:
    """Words with the places of their tokens in `ids`; punctuation stays with the word that it belongs to."""
    words: list[tuple[str, list[int]]] = []
    for text, places in _characters(ids, tokenizer):
        begins = not words or text.startswith(" ") or (language in WITHOUT_SPACES)
        is_mark = text.strip() != "" and all(character in CLINGS_TO_LAST for character in text.strip())
        follows_opening = bool(words) and words[-1][0].strip() != "" and words[-1][0].strip()[-1] in CLINGS_TO_NEXT
        if begins and not (is_mark and words and not text.startswith(" ")):
            if follows_opening and words[-1][0].strip() in CLINGS_TO_NEXT:
                opening, before = words.pop()
                text, places = opening + text.lstrip(), before + places
            words.append((text, places))
        else:
            last, before = words.pop()
            words.append((last + text, before + places))
    yield from words


def _characters(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    """The text of tokens; those that are parts of one character are taken together."""
    held: list[int] = []
    for place in range(len(ids)):
        held.append(place)
        text = tokenizer.decode([ids[i] for i in held])
        if "\ufffd" not in text:
            yield text, held
            held = []
    if held:
        yield tokenizer.decode([ids[i] for i in held]), held
