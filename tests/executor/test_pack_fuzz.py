"""Whatever is in the blocks of a file, they are packed, read and multiplied without a step out of bounds."""

import os
from pathlib import Path

import pytest

from native_programs import output_of
from octavo import _native
from octavo.weights.layout import LAYOUTS

INPUTS = int(os.environ.get("OCTAVO_TEST_BLOCKS", "20000"))  # more of them are a campaign
FIRST = int(os.environ.get("OCTAVO_TEST_FIRST_BLOCK", "0"))
SOURCES = (
    "kernels/kernels.cpp", "layouts/matrix.cpp", "layouts/quantized.cpp",
    "core/dequantize.cpp", "core/dequantize_iq.cpp", "core/grids.cpp", "core/thread_pool.cpp",
)  # fmt: skip
# Without optimization, which takes minutes to compile under sanitizers, portable code is slow: a fourth must do.
ISAS = {"portable": ([], INPUTS // 4), "avx2": (["-mavx2", "-mfma", "-mf16c"], INPUTS)}
FLAGS = ["-O0", "-w", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


@pytest.mark.parametrize("isa", ISAS)
def test_forged_blocks_are_packed_and_multiplied_within_bounds(isa, tmp_path):
    if isa not in _native.available_isas():
        pytest.skip("not on this processor")
    flags, inputs = ISAS[isa]
    source, sanitizers = Path(__file__).with_name("pack_fuzz.cpp"), "address,undefined,float-cast-overflow"
    arguments = [inputs, FIRST, *LAYOUTS]
    found = output_of(source, SOURCES, sanitizers, tmp_path, [*FLAGS, f"-DOCTAVO_ISA={isa}", *flags], arguments)
    assert found == f"{inputs} inputs\n"
