"""Installs a wheel of Octavo in new environments and tries it: python tools/check_wheel.py WHEEL [--python PATH …].

It needs nothing but a Python's own library, so it runs on bare machines. For each Python: a new virtual environment, no
compiler within reach, an installation in time, one that is small enough, kernels of every instruction set, and a token
of the default model.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

OLDEST, NEWEST = 11, 14  # minor versions of Python that are supported
SECONDS = 60  # that an installation and the answer after it may take
MEGABYTES = 300  # that an installation takes
KERNELS = {"portable", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"}
PIPS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")  # a new environment's own
NATIVE = ["octavo/_native.abi3.so", "octavo/_native.cpython-311-x86_64-linux-gnu.so"]
MAY_HOLD = ["octavo/*.py", "octavo/*.pyi", "octavo/py.typed", "octavo-*.dist-info/*", *NATIVE]
MAY_HOLD += [f"octavo/ui/*.{kind}" for kind in ("html", "css", "js", "svg", "json", "ico", "png", "webmanifest")]
NAMES_OF_JUNK = r"(^|/)(tests?|__pycache__)/|/test_|conftest|\.(pyc|cpp|h|o|md)$"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", type=Path, action="append", help="an interpreter to try (default: all found)")
    add_seconds(parser)
    args = parser.parse_args()
    contents(args.wheel)
    found = {minor_of(python): python for python in args.python} if args.python else pythons()
    return check(args.wheel, found, args.seconds)


def add_seconds(parser: argparse.ArgumentParser) -> None:
    words = f"that an installation and the answer after it may take ({SECONDS}); more where other programs run"
    parser.add_argument("--seconds", type=float, default=SECONDS, help=words)


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def minor_of(python: Path | str) -> int:
    """The minor version of an interpreter of Python 3, 0 if there is none."""
    code = "import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)"
    try:
        return int(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return 0


def pythons() -> dict[int, Path]:
    """An interpreter for each minor version that is supported and found: on the PATH, or of pyenv's."""
    found = {}
    for minor in range(OLDEST, NEWEST + 1):
        of_pyenv = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}")
        on_path = shutil.which(f"python3.{minor}")
        for python in [*sorted(of_pyenv), *([Path(on_path)] if on_path else [])]:
            if minor_of(python) == minor:
                found[minor] = python
                break
    return found


def contents(wheel: Path) -> None:
    """Ends the program if a wheel holds what it should not, or lacks a module."""
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if not name.endswith("/")]
    junk = [n for n in names if not any(fnmatch.fnmatch(n, p) for p in MAY_HOLD) or re.search(NAMES_OF_JUNK, n)]
    missing = [name for name in NATIVE if name not in names]
    if junk or missing:
        sys.exit(f"check_wheel: {wheel.name} holds {junk[:8]} and lacks {missing}")
    say(f"{wheel.name} holds {len(names)} files and no junk")


def check(wheel: Path, found: dict[int, Path], limit: float) -> int:
    """Tries the wheel with every Python; the exit code."""
    absent = [f"3.{minor}" for minor in range(OLDEST, NEWEST + 1) if minor not in found]
    faults = [fault for minor in sorted(found) for fault in tried_in_time(wheel, minor, found[minor], limit)]
    if absent:
        say(f"not tried, as there is none here: Python {', '.join(absent)}")
    for fault in faults:
        say(f"FAULT {fault}")
    return 1 if faults or not found else 0


def tried_in_time(wheel: Path, minor: int, python: Path, limit: float) -> list[str]:
    """What is wrong with the wheel for one Python, one that hangs included."""
    try:
        return tried(wheel, minor, python, limit)
    except subprocess.TimeoutExpired as error:
        return [f"Python 3.{minor}: {' '.join(map(str, error.cmd))} took more than {error.timeout:g} s"]


def tried(wheel: Path, minor: int, python: Path, limit: float) -> list[str]:
    """What is wrong with the wheel for one Python."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "venv"
        subprocess.run([python, "-m", "venv", folder], check=True)
        bare = {**os.environ, "PATH": f"{folder}/bin"}  # no compiler, and nothing of this machine's
        bare = {name: value for name, value in bare.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "CC", "CXX")}
        if compiler := next((c for c in ("cc", "gcc", "g++", "clang") if shutil.which(c, path=bare["PATH"])), None):
            return [f"a compiler is within reach: {compiler}"]

        def call(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, cwd=temporary, env=bare, capture_output=True, text=True, timeout=600)

        began = time.monotonic()
        done = call("pip", "install", "--quiet", "--disable-pip-version-check", str(wheel.resolve()))
        installed = time.monotonic() - began
        if done.returncode:
            return [f"Python 3.{minor}: pip install: {done.stderr.strip()[-2000:]}"]
        size = installed_size(folder) / 1e6
        kernels = call("python", "-c", "from octavo import _native; print(*_native.built_isas(), _native.__file__)")
        *isas, module = kernels.stdout.split() or [""]
        answer = call("octavo", "run", "--json", "--max-tokens", "4", "--temperature", "0", "The capital of France is")
        seconds = time.monotonic() - began
    say(
        f"Python 3.{minor}: installed in {installed:.1f} s, {size:.0f} MB, an answer after {seconds:.1f} s, "
        f"{Path(module).name}"
    )
    faults = []
    if set(isas) != KERNELS:
        faults.append(f"kernels for {sorted(isas)}, not {sorted(KERNELS)} {kernels.stderr[-500:]}")
    if answer.returncode or not tokens_of(answer.stdout):
        faults.append(f"octavo run ended with code {answer.returncode}: {answer.stderr[-500:]}")
    if seconds > limit:
        faults.append(f"{seconds:.0f} s, more than {limit:g}")
    if size > MEGABYTES:
        faults.append(f"{size:.0f} MB, more than {MEGABYTES}")
    return [f"Python 3.{minor}: {fault}" for fault in faults]


def tokens_of(answer: str) -> str:
    try:
        return str(json.loads(answer)["text"])
    except (ValueError, KeyError):
        return ""


def installed_size(folder: Path) -> int:
    """Bytes of the packages' files in an environment, compiled modules included, without pip and setuptools."""
    (packages,) = folder.glob("lib/python3.*/site-packages")
    found = [path for top in packages.iterdir() if not top.name.startswith(PIPS) for path in [top, *top.rglob("*")]]
    return sum(path.lstat().st_size for path in found if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
