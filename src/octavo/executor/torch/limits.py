"""What a CUDA device does at most, measured: the limits that benchmarks compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch

COPIED_BYTES = 4 << 30  # far more than caches hold
MATMUL_SIZE = 8192


def memory_bandwidth() -> float:
    """Bytes per second, read and written, of a copy within the device's memory."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _seconds(lambda: target.copy_(source))


def matmul_flops(dtype: str) -> float:
    """FLOPs per second of a large matrix product of random values in `dtype`."""
    a, b = (torch.randn(MATMUL_SIZE, MATMUL_SIZE, device="cuda").to(getattr(torch, dtype)) for _ in range(2))
    return float(2 * MATMUL_SIZE**3 / _seconds(lambda: a @ b))


def _seconds(work: Callable[[], object], times: int = 10) -> float:
    """Of one call, after some to warm up."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for _ in range(3):
        work()
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / times
