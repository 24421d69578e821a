"""Times of tokens, and words made of tokens."""

import itertools

import numpy as np
import pytest

from octavo.speech.alignment import MEDIAN_WIDTH, smooth, split_words, token_starts, warp
from octavo.speech.reading import without_pauses
from octavo.speech.result import Word


def cheapest(cost):
    """The cost of the best path, by trying all of them."""
    last = (cost.shape[0] - 1, cost.shape[1] - 1)

    def paths(cell):
        if cell == last:
            yield cost[cell]
            return
        for down, right in ((0, 1), (1, 0), (1, 1)):
            following = (cell[0] + down, cell[1] + right)
            if following[0] <= last[0] and following[1] <= last[1]:
                for rest in paths(following):
                    yield cost[cell] + rest

    return min(paths((0, 0)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (3, 4), (4, 5), (5, 3)])
def test_the_path_is_the_cheapest_of_all(shape):
    cost = np.random.default_rng(sum(shape)).standard_normal(shape)
    rows, columns = warp(cost)
    assert (rows[0], columns[0]) == (0, 0)
    assert (rows[-1], columns[-1]) == (shape[0] - 1, shape[1] - 1)
    steps = set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[rows, columns].sum() == pytest.approx(cheapest(cost))


def test_smoothing_takes_the_median_of_neighbours():
    image = np.random.default_rng(0).standard_normal((2, 3, 20))
    half = MEDIAN_WIDTH // 2
    assert smooth(image)[1, 2, 10] == np.median(image[1, 2, 10 - half : 10 + half + 1])
    assert smooth(image[..., :2]) is not None


def test_tokens_start_where_heads_begin_to_look():
    borders, num_positions = [0, 20, 50, 75, 100], 100
    weights = np.full((2, 4, 150), 1e-3, np.float32)
    for row, (begin, end) in enumerate(itertools.pairwise(borders)):
        weights[:, row, begin:end] = 1.0
    weights /= weights.sum(-1, keepdims=True)
    assert token_starts(weights, num_positions) == pytest.approx([0.0, 0.4, 1.0, 1.5], abs=0.05)


class Pieces:
    """A tokenizer whose tokens are these bytes."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def decode(self, ids):
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")


def words_of(*pieces, language="en"):
    found = list(split_words(range(len(pieces)), Pieces(*pieces), language))
    assert [place for _, places in found for place in places] == list(range(len(pieces)))
    return [word for word, _ in found]


def test_a_word_begins_with_a_space():
    assert words_of(b" The", b" st", b"ale", b" smell") == [" The", " stale", " smell"]


def test_punctuation_clings_to_its_word():
    assert words_of(b" old", b",", b" be", b"er", b".") == [" old,", " beer."]
    assert words_of(b" he", b" said", b' "', b"no", b'"') == [" he", " said", ' "no"']


def test_parts_of_a_character_are_one_piece():
    assert words_of(b" caf", b"\xc3", b"\xa9", b" au") == [" café", " au"]


def test_without_spaces_every_piece_is_a_word():
    pieces = "今日", "は", "。"
    assert words_of(*(piece.encode() for piece in pieces), language="ja") == ["今日", "は。"]


def test_a_pause_is_no_part_of_a_word():
    words = [Word("The", 0.4, 1.7, 1.0), Word("stale", 1.7, 2.0, 1.0), Word("smell.", 2.0, 4.0, 1.0)]
    first, _, last = without_pauses(words)
    assert (first.start, first.end) == (0.4, 1.7), "the median is long: nothing is cut"
    words = [Word("The", 0.4, 1.7, 1.0), *(Word("x", i / 5, i / 5 + 0.2, 1.0) for i in range(9, 13))]
    words.append(Word("end.", 2.6, 4.0, 1.0))
    first, *_, last = without_pauses(words)
    assert (first.start, first.end) == (1.3, 1.7)
    assert (last.start, last.end) == (2.6, 3.0)
