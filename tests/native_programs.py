"""C++ programs that are compiled for a test, under a sanitizer, where there is a compiler that has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[1] / "native"


def output_of(source, others, sanitizers, tmp_path, flags=("-O1",), arguments=()):
    """What the program in the file `source`, with `others` of native/, prints, if no sanitizer complains."""
    compiler, program = shutil.which("c++"), tmp_path / source.stem
    if compiler is None or not NATIVE.is_dir():
        pytest.skip("needs a C++ compiler and the sources")
    sanitize = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *sanitize, empty, "-o", program], capture_output=True).returncode:
        pytest.skip(f"the compiler has no -fsanitize={sanitizers}")
    sources = [source, *(NATIVE / other for other in others)]
    command = [compiler, "-std=c++20", "-pthread", *sanitize, "-I", NATIVE, *flags, *sources, "-o", program]
    subprocess.run(command, check=True)
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if "unexpected memory mapping" in ran.stderr:
        pytest.skip("the sanitizer does not run on this kernel")
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    return ran.stdout
