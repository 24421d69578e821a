"""What this processor does at most, measured and kept in the cache folder: reading memory, multiplying."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from octavo import _native
from octavo.engine.memory import free_memory
from octavo.errors import ModelNotFoundError
from octavo.weights.cache import cache_folder, publish, staging, writable

BANDWIDTH_BYTES = 256 << 20  # the bytes read to measure memory: more than caches hold, and read within 0.2 s
FILE, TIMES = "limits.json", 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes per second read from memory, and FLOP/s of the matmul kernels of layouts, on all threads."""

    bandwidth: float
    flops: dict[str, float]


def measured_bandwidth() -> float | None:
    """Bytes per second that this machine reads from memory; None where too little of it is free to tell."""
    size = min(BANDWIDTH_BYTES, free_memory() // 4)
    return _native.read_bandwidth(size) if size >= BANDWIDTH_BYTES // 4 else None


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


def known_limits(layouts: Iterable[str]) -> Limits | None:
    """What was measured before on such a processor with as many threads; None where something is missing."""
    found = _entry(_read())
    flops = found.get("flops", {})
    wanted = list(layouts)
    if "bandwidth" not in found or any(name not in flops for name in wanted):
        return None
    return Limits(found["bandwidth"], {name: flops[name] for name in wanted})


def limits(layouts: Iterable[str]) -> Limits | None:
    """The same, measured where it is not known: 0.4 s, and 0.02 s for each layout. None where memory is too short.

    The first processes that ask measure all anew, and the best is kept: others may have been computing.
    """
    wanted, entries = list(layouts), _read()
    known, now = _entry(entries), _of_this_process()
    times, flops = known.get("times", 0), known.get("flops", {})
    if not now and times < TIMES:
        now |= {"bandwidth": measured_bandwidth(), "flops": {}}
        times += 1
    bandwidth = max(now.get("bandwidth") or 0.0, known.get("bandwidth", 0.0))
    if not bandwidth:
        return None
    measured = now.setdefault("flops", {})
    for name in wanted:
        if name not in measured and (name not in flops or "bandwidth" in now):
            measured[name] = max(_native.matmul_flops(name) for _ in range(2))
    best = {name: max(flops.get(name, 0.0), measured.get(name, 0.0)) for name in {**flops, **measured}}
    entry = {"bandwidth": bandwidth, "flops": best, "times": times}
    if entry != known:
        _write({**entries, _key(): entry})
    return Limits(bandwidth, {name: best[name] for name in wanted})


@cache
def _of_this_process() -> dict[str, Any]:
    """What this process has measured; a plan asks for several models."""
    return {}


def _key() -> str:
    return f"{processor()}, {_native.num_threads()} threads, {_native.isa()}"


def _entry(entries: dict[str, Any]) -> dict[str, Any]:
    """What the file says of this machine, if it is numbers."""
    found = entries.get(_key())
    if not isinstance(found, dict) or not _is_rate(found.get("bandwidth")) or not isinstance(found.get("flops"), dict):
        return {}
    times = found.get("times")
    rates = {name: rate for name, rate in found["flops"].items() if _is_rate(rate)}
    return {"bandwidth": found["bandwidth"], "flops": rates, "times": times if isinstance(times, int) else 0}


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1e18


def _read() -> dict[str, Any]:
    try:
        found = json.loads((cache_folder() / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(entries: dict[str, Any]) -> None:
    """A cache that can't be written only costs time."""
    folder = cache_folder()
    with suppress(ModelNotFoundError, OSError):
        with writable(folder):
            os.makedirs(folder, exist_ok=True)
        with staging(folder) as temporary, writable(folder):
            (temporary / FILE).write_text(json.dumps(entries, indent=1))
            publish(temporary / FILE, folder / FILE)
