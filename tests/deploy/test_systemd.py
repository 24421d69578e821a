"""The unit is one that systemd understands, without rights, and with time to drain."""

import re
import subprocess

import yaml

from .proxy import DEPLOY, require

UNIT = DEPLOY / "systemd/octavo.service"
MOST_EXPOSED = 2.0  # of 10, by systemd-analyze security; a unit without any hardening has 9.6


def settings():
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.M))


def test_the_unit_is_valid(tmp_path):
    program = tmp_path / "octavo"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/octavo/bin/octavo", str(program)))
    result = subprocess.run([require("systemd-analyze"), "verify", unit], capture_output=True, text=True)
    said = [line for line in (result.stdout + result.stderr).splitlines() if UNIT.name in line]
    assert (result.returncode, said) == (0, []), result.stderr


def test_the_unit_is_hardened():
    command = [require("systemd-analyze"), "security", "--offline=true", UNIT]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)[1]) < MOST_EXPOSED


def test_there_is_time_to_drain_and_the_flags_are_the_servers():
    from octavo.cli.server_flags import SERVER_FLAGS

    flags = yaml.safe_load((UNIT.parent / "serve.yaml").read_text())
    assert set(flags) <= {flag.name.replace("_", "-") for flag in SERVER_FLAGS} | {"models"}
    assert int(settings()["TimeoutStopSec"]) > flags["shutdown-timeout"] + 5
