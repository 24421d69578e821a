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


@pytest.fixture(autouse=True)
def one_thread_for_tiny_tensors():
    """More threads make them slower, above all where other programs want the processor too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
