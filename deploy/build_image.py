"""Builds and measures the CPU image without any registry of images: python deploy/build_image.py [--model PATH].

The base is made of Debian's packages by mmdebstrap, the image by buildah from the Containerfile that everyone uses,
with that base as its argument. It needs root, mmdebstrap and buildah, and the wheel in dist/. Into build/image come the
image as octavo.tar (for podman load, docker load, skopeo copy), its SBOM and its configuration, and with --rootfs
its files as a folder, for tests. It ends with code 3 where the base or the packages can't be fetched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from sbom import bill_of_materials

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "image"
MEGABYTES = 400  # of the image without a model
BASE = "localhost/octavo-base:bookworm"
LEFT_OUT = ("doc/*", "man/*", "info/*", "locale/*", "lintian/*")
# What apt says of a registry that can't be reached or changes meanwhile.
NOT_FETCHED = re.compile(r"[EW]: (Failed|Unable) to fetch|Temporary failure resolving")
# usrmerge has done its work, and nothing else of these is needed then.
PURGED = "usrmerge perl libperl5.36 perl-modules-5.36 libfile-find-rule-perl libtext-glob-perl libnumber-compare-perl"
PURGED += " libgdbm-compat4 libgdbm6"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="the wheel (default: the one in dist/)")
    parser.add_argument("--model", type=Path, help="a model's file or folder that the image is to have in /models")
    parser.add_argument("--rootfs", action="store_true", help="write the image's files into build/image/rootfs, too")
    args = parser.parse_args()
    missing = [program for program in ("mmdebstrap", "buildah") if not shutil.which(program)]
    if missing or os.geteuid() != 0:
        parser.error(f"this needs root and {', '.join(missing) or 'nothing else'}")
    wheel = args.wheel or next((ROOT / "dist").glob("octavo-*.whl"), None)
    if wheel is None or not wheel.is_file():
        parser.error(f"there is no wheel {wheel or 'in dist/'}; python tools/build_wheel.py makes one")
    WORK.mkdir(parents=True, exist_ok=True)
    import_base()
    build("octavo:cpu", context(wheel.resolve()), "runtime")
    size = report("octavo:cpu")
    if args.model:
        copy = shutil.copytree if args.model.is_dir() else shutil.copy
        copy(args.model, WORK / "context" / args.model.name)
        build("octavo:embedded", WORK / "context", "embedded", f"MODEL={args.model.name}")
        report("octavo:embedded")
    unpack("octavo:embedded" if args.model else "octavo:cpu", args.rootfs)
    buildah("rmi", "--prune")  # what the stages left; the base stays
    if size > MEGABYTES * 1e6:
        sys.exit(f"build_image: the image takes {size / 1e6:.0f} MB, more than {MEGABYTES}")
    return 0


def buildah(*arguments: str | Path) -> str:
    """Output of buildah, whose storage is a folder of its own. A failure ends the program with what was said, and with
    code 3 if a package could not be fetched."""
    storage = ["--root", WORK / "storage", "--runroot", WORK / "run"]
    done = subprocess.run(["buildah", *storage, *arguments], cwd=WORK, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout}{done.stderr}"
        print(f"{said}\nbuild_image: buildah {arguments[0]} failed", file=sys.stderr)
        sys.exit(3 if NOT_FETCHED.search(said) else 1)
    return done.stdout.strip()


def import_base() -> None:
    """Debian's essential packages as a base image, once."""
    if BASE.rsplit(":")[0] in buildah("images", "--format", "{{.Name}}"):
        return
    tar = WORK / "base.tar"
    if not tar.exists():
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{part}" for part in LEFT_OUT]
        purge = f'--customize-hook=chroot "$1" dpkg --purge {PURGED} >/dev/null'
        packages = "--include=ca-certificates,usr-is-merged"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", packages, *excluded, purge, "bookworm", f"{tar}.new"]
        fetch(command)
        os.replace(f"{tar}.new", tar)
    container = buildah("from", "scratch")
    buildah("add", container, tar, "/")
    buildah("commit", container, BASE)
    buildah("rm", container)


def context(wheel: Path) -> Path:
    """The folder that the build sees: deploy/, and in dist/ the wheel with all that it depends on."""
    folder = WORK / "context"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dist").mkdir()
    shutil.copy(wheel, folder / "dist")
    python = ["--python-version=3.11", "--only-binary=:all:"]
    python += [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--dest",
        folder / "dist",
        *python,
        wheel,
    ]
    fetch(command)
    return folder


def fetch(command: list[str | Path]) -> None:
    """Runs what asks registries. A failure ends the program with code 3: it says nothing of the image."""
    if code := subprocess.run(command, cwd="/").returncode:
        print(
            f"build_image: {Path(command[0]).name} ended with code {code}: can its packages be fetched?",
            file=sys.stderr,
        )
        sys.exit(3)


def build(name: str, folder: Path, target: str, *arguments: str) -> None:
    given = [f"BASE={BASE}", "PIP_ARGUMENTS=--no-index --find-links /tmp/dist", *arguments]
    options = ["--isolation=chroot", "--layers", "--pull-never", "--format=docker", f"--target={target}"]
    options += [f"--build-arg={argument}" for argument in given]
    buildah("bud", *options, "-f", folder / "deploy" / "Containerfile", "-t", name, folder)


def report(name: str) -> int:
    """Prints the sizes of an image's layers; their sum in bytes."""
    folder = WORK / "layers"
    shutil.rmtree(folder, ignore_errors=True)
    buildah("push", name, f"dir:{folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / manifest["config"]["digest"].partition(":")[2]).read_text())
    made = [entry["created_by"] for entry in config["history"] if not entry.get("empty_layer")]
    total = packed = 0
    print(f"== {name}\n| layer | MB | compressed |\n|---|---|---|")
    for layer, by in zip(manifest["layers"], made, strict=True):
        blob = folder / layer["digest"].partition(":")[2]
        plain = int(subprocess.run(f"gzip -dc {blob} | wc -c", shell=True, capture_output=True, check=True).stdout)
        total, packed = total + plain, packed + layer["size"]
        print(f"| {title(by)} | {plain / 1e6:.1f} | {layer['size'] / 1e6:.1f} |")
    print(f"| all | {total / 1e6:.1f} | {packed / 1e6:.1f} |", flush=True)
    shutil.rmtree(folder)
    return total


def title(made_by: str) -> str:
    """What a layer is, by the instruction that made it."""
    parts = {
        "install-packages": "Python",
        "mkdir": "folders",
        "/models/": "the model",
        "/opt/python": "dependencies",
        "/opt/octavo": "Octavo",
        "/usr/local/bin": "entry point, health check",
    }
    return next((name for sign, name in parts.items() if sign in made_by), "base")


def unpack(name: str, keep: bool) -> None:
    """Writes the image as a file, its SBOM, and its files if they are wanted."""
    archive = WORK / "octavo.tar"
    archive.unlink(missing_ok=True)
    buildah("push", name, f"docker-archive:{archive}:{name}")  # OCI's format has no HEALTHCHECK
    container = buildah("from", "--pull-never", name)
    files = Path(buildah("mount", container))
    (WORK / "octavo.cdx.json").write_text(json.dumps(bill_of_materials(files), indent=1))
    (WORK / "config.json").write_text(json.dumps(json.loads(buildah("inspect", container))["Docker"]["config"]))
    if keep:
        shutil.rmtree(WORK / "rootfs", ignore_errors=True)
        subprocess.run(["cp", "-a", files, WORK / "rootfs"], check=True)
    buildah("rm", container)


if __name__ == "__main__":
    sys.exit(main())
