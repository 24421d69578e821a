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
FILE, TRIES = "limits.json", 5
MEMORY = "memory"  # in place of a layout: the rate of reading


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
    rates, _ = _entry(_read())
    wanted = list(layouts)
    if any(name not in rates for name in (MEMORY, *wanted)):
        return None
    return Limits(rates[MEMORY], {name: rates[name] for name in wanted})


def limits(layouts: Iterable[str]) -> Limits | None:
    """The same, measured where it is not known: 0.4 s, and 0.05 s for each layout. None where memory is too short.

    The first processes that ask for a rate measure it anew, and the best is kept: others may have been computing.
    """
    wanted, entries = list(layouts), _read()
    rates, tries = _entry(entries)
    due = [name for name in (MEMORY, *wanted) if name not in _measured() and tries.get(name, 0) < TRIES]
    for name in due:
        rate = measured_bandwidth() if name == MEMORY else max(_native.matmul_flops(name) for _ in range(5))
        if rate is not None:
            rates[name] = max(rate, rates.get(name, 0.0))
            tries[name] = tries.get(name, 0) + 1
            _measured().add(name)
    if due:
        _write({**entries, _key(): {"rates": rates, "tries": tries}})
    if MEMORY not in rates:
        return None
    return Limits(rates[MEMORY], {name: rates[name] for name in wanted})


@cache
def _measured() -> set[str]:
    """What this process has measured; a plan asks for several models."""
    return set()


def forget() -> None:
    """Has everything measured anew: for a machine that was busy when it was."""
    _write({name: entry for name, entry in _read().items() if name != _key()})


def _key() -> str:
    return f"{processor()}, {_native.num_threads()} threads, {_native.isa()}"


def _entry(entries: dict[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
    """The rates that the file has of this machine, and how often each was measured."""
    found = entries.get(_key())
    parts = [found.get(name) if isinstance(found, dict) else None for name in ("rates", "tries")]
    rates, tries = (part if isinstance(part, dict) else {} for part in parts)
    good = {name: rate for name, rate in rates.items() if _is_rate(rate)}
    return good, {name: tries[name] for name in good if isinstance(tries.get(name), int)}


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
