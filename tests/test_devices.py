"""Which executor runs where, in which type, and what is said where that can't be."""

import subprocess
import sys

import pytest
import torch

from octavo import LLM, devices
from octavo.cli.main import main
from octavo.config import EngineConfig
from octavo.devices import Placement, place
from octavo.engine.backend import TorchBackend
from octavo.errors import ConfigError, MemoryPlanError


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU of some compute capability, as far as PyTorch and the driver tell."""

    def make(capability=(9, 0)):
        monkeypatch.setattr(devices, "driver_has_devices", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Imaginary GPU")

    return make


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "driver_has_devices", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def without(monkeypatch, *packages):
    find = devices.find_spec
    monkeypatch.setattr(devices, "find_spec", lambda name: None if name in packages else find(name))


def test_without_a_gpu_the_native_executor_runs_on_the_cpu(no_gpu):
    assert place() == Placement("cpu", "native", "bfloat16")
    assert place(device="cpu", dtype="float") == Placement("cpu", "native", "float32")
    assert place(executor="torch", dtype="half") == Placement("cpu", "torch", "float16")


def test_a_gpu_is_taken_where_there_is_one(gpu):
    gpu()
    assert place() == Placement("cuda", "torch", "bfloat16")
    assert place(dtype="float16") == Placement("cuda", "torch", "float16")
    assert place(device="cpu") == Placement("cpu", "native", "bfloat16")
    assert place(executor="native") == Placement("cpu", "native", "bfloat16")
    assert place(device="cpu", executor="torch") == Placement("cpu", "torch", "bfloat16")


def test_a_gpu_without_bfloat16_computes_in_float16(gpu):
    gpu((7, 5))
    assert place(device="cuda").dtype == "float16"
    with pytest.raises(ConfigError, match=r"dtype='bfloat16': Imaginary GPU, of compute capability 7\.5, lacks it"):
        place(device="cuda", dtype="bfloat16")


def test_a_gpu_that_is_too_old_is_refused_and_not_taken_unasked(gpu):
    gpu((6, 1))
    assert place().device == "cpu"
    with pytest.raises(ConfigError, match=r"device='cuda': .* compute capability 6\.1, 7\.5 is needed"):
        place(device="cuda")


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_a_gpu_without_the_packages_for_it_is_noted_and_refused(gpu, monkeypatch, package):
    gpu()
    without(monkeypatch, package)
    assert place().device == "cpu"
    (note,) = place().notes
    assert note.endswith(f"no {package} to use it: pip install '.[cuda]' in a checkout of Octavo brings them")
    with pytest.raises(ConfigError, match=rf"device='cuda': needs {package}, .*pip install '\.\[cuda\]'"):
        place(device="cuda")


def test_cuda_without_a_device_is_refused(no_gpu):
    with pytest.raises(ConfigError, match=r"device='cuda': .*(no CUDA device|has no CUDA)"):
        place(device="cuda")


def test_the_torch_executor_needs_torch(no_gpu, monkeypatch):
    without(monkeypatch, "torch", "triton")
    with pytest.raises(ConfigError, match=r"executor='torch': needs torch, .*'\.\[cuda\]'"):
        place(executor="torch")


def test_the_native_executor_has_no_cuda(gpu):
    gpu()
    with pytest.raises(ConfigError, match="executor='native': runs on the CPU only"):
        place(device="cuda", executor="native")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "tpu"}, "auto, cpu, cuda"), ({"executor": "jax"}, "native, torch"), ({"dtype": "int8"}, "half")],
)
def test_names_that_are_not_known_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_options(options)


def test_a_gpu_has_room_for_more_at_once(gpu):
    gpu()
    assert EngineConfig.from_options({}).max_num_seqs == 256
    assert EngineConfig.from_options({"max_num_seqs": 8}).max_num_seqs == 8
    assert EngineConfig.from_options({"device": "cpu"}).max_num_seqs == 64


def test_a_gpu_that_can_t_be_used_is_one_line_and_exit_code_2(no_gpu, tiny, capfd):
    assert main(["run", str(tiny[0]), "hello", "--device", "cuda"]) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith("octavo: --device 'cuda': ")
    assert output.err.count("\n") == 1


def test_the_cpu_s_path_never_imports_torch(tiny):
    code = f"""
import sys
from octavo import LLM, SamplingParams
LLM({str(tiny[0])!r}, device="cpu").generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)
assert "torch" not in sys.modules and "triton" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_half_is_float16_on_torch_and_noted_on_native(tiny, caplog):
    assert LLM(str(tiny[0]), dtype="half", executor="torch", device="cpu").model.config.dtype == "float16"
    assert not caplog.messages
    assert LLM(str(tiny[0]), dtype="half", device="cpu").model.config.dtype == "bfloat16"
    assert "bfloat16" in caplog.text


def test_a_gpu_s_memory_is_shared_as_vllm_shares_it(monkeypatch):
    """0.5 of a device of 80 GiB, 10 GiB of which others have: 30 GiB, and nothing of a device that is full."""
    for free, expected in ((70 << 30, 30 << 30), (20 << 30, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 80 << 30))
        assert TorchBackend(None, "cuda", enforce_eager=False).usable_memory(0.5) == expected


def test_a_model_that_does_not_fit_a_gpu_is_refused_with_what_would(tiny, gpu, monkeypatch):
    gpu()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 80 << 30))
    with pytest.raises(MemoryPlanError, match=r"does not fit: weights .* but 1\.00 GiB may be used; a smaller model"):
        LLM(str(tiny[0]), gpu_memory_utilization=1.0)
