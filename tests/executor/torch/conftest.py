import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()

# Without a GPU, Triton's interpreter runs the kernels. It must be asked for before Triton is imported.
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu) if HAS_GPU else "cpu"])
def device(request):
    """Where Triton's kernels run: on a GPU, or interpreted."""
    return torch.device(request.param)


@pytest.fixture
def kernels(device):
    from octavo.executor.torch import kernels

    return kernels
