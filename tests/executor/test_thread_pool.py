"""The threads under ThreadSanitizer, where there is a compiler that has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"


def output_of(name, tmp_path):
    """What the program in `name`.cpp prints, if it has no race."""
    compiler, program = shutil.which("c++"), tmp_path / name
    if compiler is None or not NATIVE.is_dir():
        pytest.skip("needs a C++ compiler and the sources")
    sources = [Path(__file__).with_name(f"{name}.cpp"), NATIVE / "core/thread_pool.cpp"]
    flags = ["-std=c++20", "-O1", "-pthread", "-fsanitize=thread", "-I", NATIVE]
    if subprocess.run([compiler, *flags, *sources, "-o", program], capture_output=True).returncode:
        pytest.skip("the compiler has no ThreadSanitizer")
    ran = subprocess.run([program], capture_output=True, text=True)
    if "unexpected memory mapping" in ran.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_a_pool_may_be_resized_while_it_runs_jobs(tmp_path):
    assert output_of("thread_pool", tmp_path) == "3 1\n"


def test_a_phase_may_have_as_many_tiles_as_the_one_before_has_found(tmp_path):
    assert output_of("phases", tmp_path) == "right\n"
