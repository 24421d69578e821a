import pytest
import torch


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu) if torch.cuda.is_available() else "cpu"])
def device(request):
    """Where Triton's kernels run: on a GPU, or interpreted."""
    return torch.device(request.param)


@pytest.fixture
def kernels(device):
    from octavo.executor.torch import kernels

    return kernels
