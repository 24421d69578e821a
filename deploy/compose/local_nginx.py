"""nginx with the configuration of this folder over servers of this machine, without containers.

    python deploy/compose/local_nginx.py --port 8000 8001 8002

Two servers answer on 8001 and 8002, nginx on 8000, on 127.0.0.1 alone, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

CONFIGURATION = Path(__file__).with_name("nginx.conf")


def program() -> str | None:
    """Where nginx is; None where it is not."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")


def configured(folder: Path, port: int, replicas: Sequence[int]) -> Path:
    """The configuration with these ports, and `folder` for what nginx writes. Raises ValueError for a wrong number."""
    text = CONFIGURATION.read_text()
    names = sorted(set(re.findall(r"\boctavo-\d+:8000\b", text)))
    if len(replicas) != len(names):
        raise ValueError(f"there must be {len(names)} ports of servers, not {len(replicas)}")
    for name, replica in zip(names, replicas, strict=True):
        text = text.replace(name, f"127.0.0.1:{replica}")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{folder}/")
    text = text.replace("access_log /dev/stdout", f"access_log {folder}/access.log")
    path = folder / "nginx.conf"
    path.write_text(text.replace("worker_processes auto;", "worker_processes 1;\ndaemon off;"))
    return path


def command(folder: Path, path: Path, *more: str) -> list[str]:
    """What starts nginx with such a configuration. Raises FileNotFoundError where it is not installed."""
    if (nginx := program()) is None:
        raise FileNotFoundError("nginx is not installed")
    for parent in (folder, *folder.parents[:3]):  # nginx's workers are another user's if this is root
        if parent.stat().st_mode & 0o055 != 0o055 and parent.is_relative_to(tempfile.gettempdir()):
            parent.chmod(parent.stat().st_mode | 0o055)
    return [nginx, "-e", "stderr", "-p", str(folder), "-c", str(path), *more]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replicas", metavar="PORT", type=int, nargs="+", help="the ports of the servers")
    parser.add_argument("--port", type=int, default=8000, help="the port of nginx (8000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = configured(Path(folder), arguments.port, arguments.replicas)
            return subprocess.call(command(Path(folder), path))
        except KeyboardInterrupt:
            return 0
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
