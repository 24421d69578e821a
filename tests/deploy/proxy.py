"""nginx with the configuration that is deployed, over servers of a test."""

import contextlib
import importlib.util
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from server.running import until

DEPLOY = Path(__file__).parents[2] / "deploy"


def local_nginx():
    """The script deploy/compose/local_nginx.py."""
    spec = importlib.util.spec_from_file_location("local_nginx", DEPLOY / "compose/local_nginx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require(program):
    """Where a program is; the test is skipped where it is not."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return path or pytest.skip(f"{program} is not installed")


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """nginx in a process of its own."""

    def __init__(self, folder, replicas):
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        require("nginx")
        script = local_nginx()
        command = script.command(folder, script.configured(folder, self.port, replicas))
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._listens, lambda: (folder / "log").read_text())

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def entries(self):
        """What the log says of each request, by its id."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return {entry["id"]: entry for entry in map(json.loads, lines)}

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def _listens(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
