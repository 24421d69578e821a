import pytest

from octavo import _native


@pytest.fixture(params=_native.available_isas())
def isa(request):
    """Runs a test with the kernels of every instruction set that this machine has."""
    before = _native.available_isas()[0]
    _native.select_isa(request.param)
    yield request.param
    _native.select_isa(before)
