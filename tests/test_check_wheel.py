"""The program that tries a wheel says what is wrong with it."""

import importlib.util
import subprocess
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools/check_wheel.py"


def test_a_command_that_hangs_is_a_fault_of_that_python(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("check_wheel", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def hang(wheel, minor, python, limit):
        raise subprocess.TimeoutExpired(("pip", "install", str(wheel)), 600)

    monkeypatch.setattr(tool, "tried", hang)
    assert tool.check(Path("octavo.whl"), {11: Path("python3.11")}, 60) == 1
    assert "FAULT Python 3.11: pip install octavo.whl took more than 600 s" in capsys.readouterr().out
