"""Telling the user that something takes long: on stderr, a bar on a terminal; of a download, one line elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL = 0.2  # seconds
_LARGE = 1 << 30  # bytes of weights that take seconds to load


def say(text: str) -> None:
    print(f"octavo: {text}", file=sys.stderr, flush=True)


@contextmanager
def watch_folder(folder: Path, title: str, *, enabled: bool) -> Iterator[dict[str, str]]:
    """Show how `folder` grows while the body runs. Yields an environment that puts temporary files there."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    if not enabled:
        yield environment
    elif not sys.stderr.isatty():
        say(title)
        yield environment
    else:
        done = threading.Event()
        thread = threading.Thread(target=_draw, args=(folder, title, done), daemon=True)
        thread.start()
        try:
            yield environment
        finally:
            done.set()
            thread.join()


@contextmanager
def loading_bar(total: int) -> Iterator[Callable[[int], object]]:
    """A bar while `total` bytes of weights are loaded, if they are many.

    Yields a function that is called with the bytes of each weight that is loaded.
    """
    if total < _LARGE or not sys.stderr.isatty():
        yield lambda size: None
        return
    from tqdm import tqdm

    with tqdm(desc="loading weights", total=total, unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:
        yield bar.update


@contextmanager
def download_bar(title: str, total: int, done: int, *, enabled: bool) -> Iterator[Callable[[int], object]]:
    """Show how many of `total` bytes are there, of which `done` were before; a total of 0 is not known.

    Yields a function, for any thread, that is called with the bytes that came.
    """
    if not enabled:
        yield lambda size: None
        return
    if not sys.stderr.isatty():
        sizes = f" ({size_text(total - done)} of {size_text(total)} are missing)" if done else f" ({size_text(total)})"
        say(title + (sizes if total else ""))
        yield lambda size: None
        return
    from tqdm import tqdm

    lock = threading.Lock()
    with tqdm(desc=title, total=total or None, initial=done, unit="B", unit_scale=True) as bar:

        def advance(size: int) -> None:
            with lock:
                bar.update(size)

        yield advance


def size_text(size: float) -> str:
    """Bytes as people say them: 13.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _draw(folder: Path, title: str, done: threading.Event) -> None:
    from tqdm import tqdm

    with tqdm(desc=title, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        while not done.wait(_INTERVAL):
            bar.n = max(bar.n, _size(folder))
            bar.refresh()


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:  # renamed or removed meanwhile
                continue
    return total
