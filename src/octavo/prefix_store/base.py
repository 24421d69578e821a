"""What is known of a store without one: its sizes in memory and its counts. This imports nothing, for a quick start."""

from __future__ import annotations

from dataclasses import dataclass, fields

QUEUED_BYTES = 64 << 20  # that wait to be written
READ_AHEAD = 8 << 20  # bytes of a request's blocks that are read, or being read, and not in their places yet


@dataclass(slots=True)
class StoreStats:
    """Counts since the store was opened."""

    hit_tokens: int = 0  # whose keys and values were read, and were good
    read_bytes: int = 0
    written_bytes: int = 0
    written_blocks: int = 0
    dropped_blocks: int = 0  # that were not written, because writing failed or they were gone before their turn
    damaged_files: int = 0
    errors: int = 0  # of reading and writing, by the operating system
    size: int = 0  # bytes of all files, as far as is known

    def plus(self, other: StoreStats) -> StoreStats:
        """Both together; of the sizes, the larger."""
        counts = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        return StoreStats(**{**counts, "size": max(self.size, other.size)})
