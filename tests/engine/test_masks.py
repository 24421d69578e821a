"""Masks are begun where a step has landed, and a step takes those if none of its own is missing."""

from octavo.engine.masks import MaskThreads


class Counting:
    """A constraint that allows one token, and counts how often it is asked."""

    def __init__(self, token):
        self.token, self.asked = token, 0

    def fill(self, row):
        self.asked += 1
        row[self.token >> 5] |= 1 << (self.token & 31)


def allowed(masks, constraint):
    row = masks.result()[masks.rows[constraint]]
    return [token for token in range(32 * len(row)) if int(row[token >> 5]) >> (token & 31) & 1]


def test_prepared_masks_are_taken_in_whatever_order_they_are_asked_for():
    threads, (a, b, c) = MaskThreads(100), map(Counting, (3, 40, 99))
    threads.prepare([a, b, c])
    masks = threads.begin([c, a])
    assert [allowed(masks, each) for each in (a, c)] == [[3], [99]]
    assert [each.asked for each in (a, b, c)] == [1, 1, 1]


def test_masks_are_made_anew_where_one_was_not_prepared_or_the_text_went_on():
    threads, (a, b) = MaskThreads(100), map(Counting, (3, 40))
    threads.prepare([a])
    masks = threads.begin([a, b])
    assert [allowed(masks, each) for each in (a, b)] == [[3], [40]]
    a.token = 7
    threads.prepare([a])
    assert allowed(threads.begin([a]), a) == [7]
    threads.prepare([])
    assert threads.begin([]) is None
    assert allowed(threads.begin([a]), a) == [7]
