"""Removes from a folder of installed packages what no program needs: their tests, headers and sources in C and Cython.

What PyTorch and Triton bring stays, as they compile kernels. Of Octavo's two native modules that one stays which this
Python loads. Prints what was saved.
"""

from __future__ import annotations

import importlib.machinery
import shutil
import sys
from pathlib import Path

COMPILERS = {"torch", "triton", "nvidia"}
SUFFIXES = {".pyx", ".pxd", ".a", ".h", ".c", ".hpp", ".cpp"}


def size(path: Path) -> int:
    return sum(p.lstat().st_size for p in [path, *path.rglob("*")] if not p.is_dir())


def main(root: Path) -> int:
    before = size(root)
    for path in [path for path in root.rglob("*") if not COMPILERS & {*path.relative_to(root).parts}]:
        if path.name == "tests" and (path / "__init__.py").exists():
            shutil.rmtree(path)
        elif path.suffix in SUFFIXES and path.is_file():
            path.unlink()
    found = [path for end in importlib.machinery.EXTENSION_SUFFIXES for path in root.rglob(f"octavo/_native{end}")]
    for path in found[1:]:
        path.unlink()
    print(f"{root}: {before / 1e6:.1f} MB, now {size(root) / 1e6:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
