"""Blocks and snapshots of the torch executor as bytes: to be kept elsewhere, and brought back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from octavo.executor.base import Bytes, Contents, Sizes


class TorchMemory:
    """Copies are queued behind the steps that have begun; whoever asks for one waits for it.

    `pages` are keys and values of each layer, [blocks, heads, tokens, columns], of its group in `groups`; the last of
    the rows of `states`, [rows, ...], are those of snapshots.
    """

    def __init__(
        self,
        sizes: Sizes,
        device: torch.device,
        pages: Sequence[tuple[Tensor, Tensor]],
        groups: Sequence[int],
        states: Mapping[int, Tensor],
    ):
        self.sizes, self.device, self.pages, self.groups, self.states = sizes, device, pages, groups, states

    @property
    def block_bytes(self) -> tuple[int, ...]:
        return tuple(sum(part[0].nbytes for part in self._parts(group.first)) for group in self.sizes.groups)

    @property
    def state_bytes(self) -> int:
        return sum(state[0].nbytes for state in self.states.values())

    @torch.inference_mode()
    def read_blocks(self, blocks: Sequence[int]) -> Contents:
        return self._read([part[self._row(block)] for block in blocks for part in self._parts(block)])

    @torch.inference_mode()
    def write_block(self, block: int, contents: Bytes) -> None:
        self._write([part[self._row(block)] for part in self._parts(block)], contents)

    @torch.inference_mode()
    def read_state(self, snapshot: int) -> Contents:
        return self._read([state[self.sizes.max_num_seqs + snapshot] for state in self.states.values()])

    @torch.inference_mode()
    def write_state(self, snapshot: int, contents: Bytes) -> None:
        self._write([state[self.sizes.max_num_seqs + snapshot] for state in self.states.values()], contents)

    def _read(self, parts: Sequence[Tensor]) -> Contents:
        found = torch.cat([part.contiguous().view(-1).view(torch.uint8) for part in parts])
        if self.device.type == "cpu":
            return found.numpy
        copy = torch.empty(len(found), dtype=torch.uint8, pin_memory=True)
        copy.copy_(found, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def contents() -> Bytes:
            done.synchronize()
            result: Bytes = copy.numpy()
            return result

        return contents

    def _write(self, parts: Sequence[Tensor], contents: Bytes) -> None:
        given, begin = torch.from_numpy(contents).to(self.device), 0
        for part in parts:
            bytes_of = given[begin : begin + part.nbytes].clone()  # views of other types need aligned memory
            part.copy_(bytes_of.view(part.dtype).view(part.shape))
            begin += part.nbytes

    def _parts(self, block: int) -> list[Tensor]:
        """The keys and the values of each layer of a block's group."""
        number = self._group(block)
        return [pages for of, layer in zip(self.groups, self.pages, strict=True) if of == number for pages in layer]

    def _row(self, block: int) -> int:
        return block - self.sizes.groups[self._group(block)].first

    def _group(self, block: int) -> int:
        return max(i for i, group in enumerate(self.sizes.groups) if group.first <= block)
