from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from octavo.graph.cache import BlockGroup
from octavo.request import CacheScope, Sequence, Source
from octavo.scheduler import blocks as blocks_module
from octavo.scheduler.blocks import BlockManager

from .model import check_ownership


def manager(num_blocks: int, block_size: int, *, window: int | None = None, **options: Any) -> BlockManager:
    return BlockManager([BlockGroup(0, num_blocks, window)], block_size, **options)


def new(tokens: list[int]) -> Sequence:
    return Sequence(0, list(tokens), len(tokens))


def num_free(blocks: BlockManager) -> int:
    return blocks.pools[0].num_free


def fill(blocks: BlockManager, tokens: list[int], salt: str = "") -> Sequence:
    """A sequence whose tokens have all been computed, without a look into the prefix cache."""
    sequence = new(tokens)
    assert blocks.reserve(sequence, len(tokens)) == []
    blocks.commit(sequence, len(tokens), CacheScope(salt))
    return sequence


def match(blocks: BlockManager, tokens: list[int], salt: str = "") -> int:
    sequence = new(tokens)
    num_cached = blocks.match_prefix(sequence, len(tokens), CacheScope(salt))
    assert num_cached == sequence.num_computed == len(sequence.blocks) * blocks.block_size
    blocks.release(sequence)
    return num_cached


def test_a_block_is_free_again_when_its_last_owner_leaves() -> None:
    blocks = manager(4, 2)
    parent, child = fill(blocks, [1, 2, 3]), new([1, 2, 3])
    blocks.fork(parent, child)
    assert num_free(blocks) == 2
    blocks.release(parent)
    assert num_free(blocks) == 2
    blocks.release(child)
    assert num_free(blocks) == 4


def test_usage_is_the_share_of_blocks_with_owners() -> None:
    blocks = manager(4, 2)
    sequence = fill(blocks, [1, 2, 3])
    assert blocks.usage == 0.5
    blocks.release(sequence)
    assert blocks.usage == 0


def test_the_block_freed_last_is_used_first() -> None:
    blocks = manager(8, 2, enable_prefix_caching=False)
    sequences = [fill(blocks, [1, 2]) for _ in range(3)]
    freed = sequences[1].blocks
    blocks.release(sequences[1])
    assert fill(blocks, [3]).blocks == freed


def test_blocks_are_reserved_only_for_positions_that_lack_them() -> None:
    blocks = manager(8, 4)
    sequence = new([0] * 9)
    for num_tokens, num_blocks in [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (2, 3)]:
        assert blocks.reserve(sequence, num_tokens) == []
        assert len(sequence.blocks) == num_blocks


def test_a_reservation_that_does_not_fit_changes_nothing() -> None:
    blocks = manager(4, 2)
    parent, child = fill(blocks, [1, 2, 3]), new([1, 2, 3])
    blocks.fork(parent, child)
    before = child.blocks.copy()
    assert blocks.reserve(child, 7) is None  # one copy and two new blocks
    assert child.blocks == before
    check_ownership(blocks, [parent, child])
    assert blocks.reserve(child, 6) is not None


def test_the_first_to_write_into_a_shared_block_gets_a_copy_and_the_last_keeps_it() -> None:
    blocks = manager(8, 4)
    parent, child = fill(blocks, [1, 2, 3]), new([1, 2, 3])
    blocks.fork(parent, child)
    shared = parent.blocks[0]
    copies = blocks.reserve(child, 4)
    assert copies == [(shared, child.blocks[0])]
    assert child.blocks[0] != shared
    assert blocks.reserve(parent, 4) == []
    assert parent.blocks == [shared]
    check_ownership(blocks, [parent, child])


def test_shared_blocks_that_are_full_stay_shared() -> None:
    blocks = manager(8, 2)
    parent, child = fill(blocks, [1, 2, 3, 4]), new([1, 2, 3, 4])
    blocks.fork(parent, child)
    assert blocks.reserve(parent, 5) == []
    assert blocks.reserve(child, 5) == []
    assert parent.blocks[:2] == child.blocks[:2]
    assert parent.blocks[2] != child.blocks[2]


def test_a_cached_block_is_never_written_to() -> None:
    blocks = manager(8, 2)
    sequence = fill(blocks, [1, 2, 3, 4])
    cached = sequence.blocks[1]
    sequence.num_computed = 3  # the last token is taken back, to be computed again
    assert blocks.reserve(sequence, 4) == [(cached, sequence.blocks[1])]
    assert match(blocks, [1, 2, 3, 4, 5]) == 4


def test_a_source_handed_out_again_in_the_same_step_is_read_before_it_is_overwritten() -> None:
    blocks = manager(4, 2)
    first = fill(blocks, [1, 2])
    first.num_computed = 1
    parent, child = fill(blocks, [3]), new([3])
    blocks.fork(parent, child)
    fill(blocks, [4])
    memory = {first.blocks[0]: "first", parent.blocks[0]: "parent"}
    source = first.blocks[0]
    copies = blocks.reserve(first, 2)
    second = blocks.reserve(child, 2)
    assert copies is not None
    assert second is not None
    assert child.blocks == [source]  # it was the only one left
    for origin, target in copies + second:
        memory[target] = memory[origin]
    assert memory[first.blocks[0]] == "first"
    assert memory[child.blocks[0]] == memory[parent.blocks[0]] == "parent"


def test_a_prefix_is_found_up_to_the_first_block_that_differs() -> None:
    blocks = manager(16, 2)
    fill(blocks, [1, 2, 3, 4, 5, 6])
    assert match(blocks, [1, 2, 3, 4, 5, 6, 7]) == 6
    assert match(blocks, [1, 2, 3, 4, 5, 7, 7]) == 4
    assert match(blocks, [1, 2, 0, 4, 5, 6, 7]) == 2
    assert match(blocks, [0, 2, 3, 4, 5, 6, 7]) == 0
    assert match(blocks, [3, 4, 5]) == 0  # a block counts with all that comes before it


def test_the_last_token_is_never_taken_from_the_cache() -> None:
    blocks = manager(16, 2)
    fill(blocks, [1, 2, 3, 4])
    assert match(blocks, [1, 2, 3, 4]) == 2
    assert match(blocks, [1, 2]) == 0
    assert match(blocks, [1]) == 0


def test_only_computed_tokens_are_cached() -> None:
    blocks = manager(16, 2)
    sequence = new([1, 2, 3, 4])
    blocks.reserve(sequence, 4)
    assert match(blocks, [1, 2, 3, 4, 5]) == 0
    blocks.commit(sequence, 3, CacheScope())
    assert match(blocks, [1, 2, 3, 4, 5]) == 2
    blocks.commit(sequence, 1, CacheScope())
    assert match(blocks, [1, 2, 3, 4, 5]) == 4


def test_a_prefix_outlives_its_owners_until_it_is_evicted() -> None:
    blocks = manager(4, 2)
    blocks.release(fill(blocks, [1, 2, 3]))
    assert num_free(blocks) == 4
    assert match(blocks, [1, 2, 3]) == 2
    blocks.release(fill(blocks, [5, 6, 7, 8, 9, 10, 11]))
    assert match(blocks, [1, 2, 3]) == 0


def test_cached_blocks_are_evicted_last_and_the_least_recently_used_first() -> None:
    blocks = manager(6, 2)
    for token in (1, 2, 3):
        blocks.release(fill(blocks, [token] * 2))
    assert match(blocks, [1, 1, 1]) == 2  # used again
    sequence = new([0] * 12)
    blocks.reserve(sequence, 6)
    assert [match(blocks, [token] * 3) for token in (2, 3, 1)] == [2, 2, 2]
    blocks.reserve(sequence, 8)
    assert [match(blocks, [token] * 3) for token in (3, 1, 2)] == [2, 2, 0]
    blocks.reserve(sequence, 10)
    assert [match(blocks, [token] * 3) for token in (1, 2, 3)] == [2, 0, 0]


def test_the_end_of_a_prefix_is_evicted_before_its_beginning() -> None:
    blocks = manager(3, 2)
    blocks.release(fill(blocks, [1, 2, 3, 4, 5, 6]))
    blocks.reserve(new([0]), 1)
    assert match(blocks, [1, 2, 3, 4, 5, 6, 7]) == 4


def test_a_matched_block_can_not_be_evicted() -> None:
    blocks = manager(2, 2)
    blocks.release(fill(blocks, [1, 2]))
    sequence = new([1, 2, 3])
    assert blocks.match_prefix(sequence, 3, CacheScope()) == 2
    assert num_free(blocks) == 1
    assert blocks.reserve(new([0] * 4), 4) is None
    check_ownership(blocks, [sequence])


def test_the_first_of_two_equal_blocks_stays_in_the_cache() -> None:
    blocks = manager(8, 2)
    first, second = fill(blocks, [1, 2]), fill(blocks, [1, 2])
    later = new([1, 2, 3])
    blocks.match_prefix(later, 3, CacheScope())
    assert later.blocks == first.blocks != second.blocks
    blocks.release(second)
    check_ownership(blocks, [first, later])


def test_prefixes_are_shared_only_within_a_salt() -> None:
    blocks = manager(8, 2)
    fill(blocks, [1, 2], salt="one tenant")
    assert match(blocks, [1, 2, 3], salt="one tenant") == 2
    assert match(blocks, [1, 2, 3], salt="another") == 0
    assert match(blocks, [1, 2, 3]) == 0


def test_a_salt_may_be_any_text() -> None:
    blocks = manager(8, 2)
    fill(blocks, [1, 2], salt="\ud800")
    assert match(blocks, [1, 2, 3], salt="\ud800") == 2


def test_a_salt_does_not_pass_for_a_source() -> None:
    source = CacheScope("", b"s" * 32)
    assert source.digest != CacheScope("s" * 32).digest
    assert CacheScope("a", source.source).digest != source.digest


def test_sources_are_told_apart_by_everything_that_is_encoded_and_by_nothing_else() -> None:
    features = np.arange(6, dtype=np.float32)
    source = Source(features.reshape(2, 3), 4).digest
    assert source == Source(features.reshape(3, 2).T.copy().T.reshape(2, 3), 4).digest
    others = [(features.reshape(3, 2), 4), (features.reshape(2, 3), 5), (features.reshape(2, 3) + 1, 4)]
    assert source not in [Source(values, positions).digest for values, positions in others]


def test_digests_follow_from_root_key_scope_and_tokens_alone() -> None:
    def digest_of(root_key: bytes, salt: str) -> bytes:
        return fill(manager(8, 2, root_key=root_key), [1, -2], salt).digests[0]

    root = hashlib.sha256(hashlib.sha256(b"model").digest() + CacheScope("salt").digest).digest()
    assert digest_of(b"model", "salt") == hashlib.sha256(root + b"\1\0\0\0\xfe\xff\xff\xff").digest()
    assert digest_of(b"model", "salt") != digest_of(b"models", "alt")


def test_each_block_of_a_sequence_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def sha256(data: bytes) -> hashlib._Hash:
        hashed.append(data)
        return hashlib.sha256(data)

    blocks = manager(16, 2)
    monkeypatch.setattr(blocks_module, "sha256", sha256)
    sequence = new([1, 2, 3, 4, 5])
    for _ in range(3):
        blocks.match_prefix(sequence, 5, CacheScope())
        blocks.reserve(sequence, 5)
        blocks.commit(sequence, 5 - sequence.num_computed, CacheScope())
        blocks.release(sequence)
    assert len(hashed) == 3  # the scope's root and two blocks


def test_a_child_hashes_again_what_its_parent_had_not_computed() -> None:
    blocks = manager(16, 2)
    fill(blocks, [1, 2, 3, 4])
    parent = new([1, 2, 3, 4, 5])
    blocks.match_prefix(parent, 5, CacheScope())
    parent.num_computed = 3
    child = new([1, 2, 3, 9, 9])
    blocks.fork(parent, child)
    blocks.reserve(child, 5)
    blocks.commit(child, 2, CacheScope())
    assert match(blocks, [1, 2, 3, 9, 9]) == 4
    assert match(blocks, [1, 2, 3, 4, 5]) == 4


def test_without_prefix_caching_nothing_is_found_or_kept() -> None:
    blocks = manager(4, 2, enable_prefix_caching=False)
    sequence = fill(blocks, [1, 2])
    assert match(blocks, [1, 2, 3]) == 0
    blocks.release(sequence)
    check_ownership(blocks, [])


def test_blocks_that_the_window_has_passed_are_given_back() -> None:
    blocks = manager(6, 2, window=3)
    sequence = Sequence(0, list(range(20)), 20)
    for num_tokens in range(1, 21):
        assert blocks.reserve(sequence, num_tokens) == []
        blocks.commit(sequence, 1, CacheScope())
        (table,) = sequence.tables
        first_seen = max(0, num_tokens + 1 - 3)  # by the next token
        assert table.num_passed == min(first_seen // 2, len(table.blocks) - 1)
        assert table.blocks[: table.num_passed] == [table.held[0]] * table.num_passed
        assert len(table.held) <= blocks.most_held(20, 1)
    blocks.release(sequence)
    assert num_free(blocks) == 6


def test_a_fork_shares_what_its_parent_still_has() -> None:
    blocks = manager(8, 2, window=2)
    parent, child = Sequence(0, list(range(9)), 9), Sequence(1, list(range(9)), 9)
    blocks.reserve(parent, 8)
    blocks.commit(parent, 8, CacheScope())
    blocks.fork(parent, child)
    check_ownership(blocks, [parent, child])
    for sequence in (parent, child):
        blocks.release(sequence)
    assert num_free(blocks) == 8
