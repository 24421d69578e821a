"""Removes from a folder of installed packages what no program needs: tests, headers, stubs, sources in C, symbols.

Libraries that packages bring in a folder NAME.libs keep their symbols, as other programs have changed those files. What
PyTorch and Triton bring stays, as they compile kernels. Of Octavo's two native modules that one stays which this Python
loads. Prints what was saved.
"""

from __future__ import annotations

import importlib.machinery
import shutil
import subprocess
import sys
from pathlib import Path

COMPILERS = {"torch", "triton", "nvidia"}
SUFFIXES = {".pyi", ".pyx", ".pxd", ".a", ".h", ".c", ".hpp", ".cpp"}


def size(path: Path) -> int:
    return sum(p.lstat().st_size for p in [path, *path.rglob("*")] if not p.is_dir())


def main(root: Path) -> int:
    before = size(root)
    for path in [path for path in root.rglob("*") if not COMPILERS & {*path.relative_to(root).parts}]:
        if path.name == "tests" and (path / "__init__.py").exists():
            shutil.rmtree(path)
        elif not path.is_file():
            continue
        elif path.suffix in SUFFIXES:
            path.unlink()
        elif ".so" in path.suffixes and not path.parent.name.endswith(".libs"):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)
    found = [path for end in importlib.machinery.EXTENSION_SUFFIXES for path in root.rglob(f"octavo/_native{end}")]
    for path in found[1:]:
        path.unlink()
    print(f"{root}: {before / 1e6:.1f} MB, now {size(root) / 1e6:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
