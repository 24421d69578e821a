"""The kernels compile for GPUs that are not here, and need no more of them than they have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}  # bytes that a program can have


@pytest.fixture(scope="module", params=SHARED_MEMORY)
def compiled(request):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_kernels.py")
    run = subprocess.run(
        [sys.executable, script, str(request.param)], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return request.param, [json.loads(line) for line in run.stdout.splitlines()]


def test_shared_memory_is_within_the_chip_s(compiled):
    capability, kernels = compiled
    assert len(kernels) == 61
    assert all(kernel["shared"] < SHARED_MEMORY[capability] for kernel in kernels)


def test_registers_hold_what_the_kernels_need_on_hopper(compiled):
    capability, kernels = compiled
    if capability == 90:
        assert {kernel["kernel"]: kernel["stack"] for kernel in kernels if kernel["stack"]} == {}
