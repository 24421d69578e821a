"""The scripts in benchmarks/ run, on a model small enough to be quick anywhere."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_op_is_timed_beside_the_limits():
    sizes = ["--rows", "2", "70", "--context", "40", "--repeat", "1"]
    command = [sys.executable, ROOT / "benchmarks/ops.py", *sizes]
    head, *lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert head.split()[:3] == ["op", "rows", "µs"]
    names = {line[:20].rstrip() for line in lines}
    assert len(lines) == 2 * len(names)
    assert {"route", "experts", "delta", "causal_conv", "attention, sinks", "position_scale", "join"} <= names
    for line in lines:
        rows, microseconds, kilobytes = map(float, line[20:].split()[:3])
        assert rows in (2, 70)
        assert microseconds > 0
        assert kilobytes > 0


def test_the_gpu_script_checks_and_writes_its_table(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--device", "cpu", "--models", "tiny", "--batches", "1", "2"]
    sizes = ["--context", "40", "--prompt", "32", "--output", tmp_path / "table.md", "--directory", tmp_path]
    subprocess.run([*command, *sizes, "--without-transformers"], check=True, capture_output=True)
    table = (tmp_path / "table.md").read_text()
    assert "240 of 240 greedy tokens are the same" in table
    assert "| TPOT, 2 requests of 40 tokens |" in table
    assert "| prefill, prompts of 32 tokens |" in table
