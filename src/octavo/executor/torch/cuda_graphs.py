"""Decode steps captured as CUDA graphs: one launch instead of hundreds, for batches of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.executor.torch.step import Layout, Step, of_groups, to_device

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)


@dataclass(slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    rows: Tensor  # int64 [2 + groups of layers, size]: places, positions, slots
    sequences: Tensor  # int32 [3, size]: starts, counts, rows
    tables: Tensor  # int32 [groups, size, width]
    hidden: Tensor  # what a replay leaves


class DecodeGraphs:
    """Graphs of `run` for decode steps of up to `largest` sequences; a step runs in the smallest that holds it.

    They share one pool of memory, so that all of them take little more than the largest.
    """

    def __init__(self, run: Callable[[Step], Tensor], max_num_seqs: int, groups: int, width: int, device: torch.device):
        self._sizes = [size for size in SIZES if size < max_num_seqs] + [min(max_num_seqs, SIZES[-1])]
        self.largest = self._sizes[-1]
        self._device, self._captured = device, dict[int, _Captured]()
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            self._captured[size] = self._capture(run, size, groups, width, pool)

    def replay(self, layout: Layout) -> Tensor:
        """Runs a decode step: [sequences, columns], valid until the next one."""
        count = layout.rows.shape[1]
        captured = self._captured[next(size for size in self._sizes if size >= count)]
        size = captured.rows.shape[1]
        rows = np.zeros((len(layout.rows), size), np.int64)
        rows[2:] = -1  # padding is not stored
        rows[:, :count] = layout.rows
        sequences = np.zeros((3, size), np.int32)  # nor attended: its counts are 0
        (numbers, tables), *_ = layout.ragged
        sequences[:, :count] = numbers
        captured.rows.copy_(to_device(rows, torch.int64, self._device))
        captured.sequences.copy_(to_device(sequences, torch.int32, self._device))
        captured.tables[:, :count, : tables.shape[2]] = to_device(tables, torch.int32, self._device)
        captured.graph.replay()
        return captured.hidden[:count]

    def _capture(self, run: Callable[[Step], Tensor], size: int, groups: int, width: int, pool: Any) -> _Captured:
        rows = torch.zeros(2 + groups, size, dtype=torch.int64, device=self._device)
        rows[2:] = -1
        sequences = torch.zeros(3, size, dtype=torch.int32, device=self._device)
        tables = torch.zeros(groups, size, width, dtype=torch.int32, device=self._device)
        ragged = tuple((one,) for one in of_groups(sequences, tables, max_count=1))
        step = Step(rows[0], rows[1], rows[2:], ragged, fresh=[])
        run(step)  # compiles the kernels, which can't be done while capturing
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            hidden = run(step)
        return _Captured(graph, rows, sequences, tables, hidden)
