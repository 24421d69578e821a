"""Where a model runs: which executor on which device, in which type. PyTorch is imported only if it is to be used."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from octavo.errors import ConfigError

INSTALL = "pip install '.[cuda]' in a checkout of Octavo"
LEAST_CAPABILITY = (7, 5)
BFLOAT16_CAPABILITY = (8, 0)
DEVICES = ("auto", "cpu", "cuda")
EXECUTORS = ("auto", "native", "torch")
# Names of types, and the types; "auto" is that of hardware that has all of them.
DTYPES = {
    "auto": "bfloat16",
    "bfloat16": "bfloat16",
    "half": "float16",
    "float16": "float16",
    "float32": "float32",
    "float": "float32",
}
# vLLM's names of types of the KV cache that are int8 here, some of them with a note.
INT8_CACHES = ("int8", "int8_per_token_head")
FP8_CACHES = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_per_token_head")


@dataclass(frozen=True, slots=True)
class Placement:
    """`device` is cpu or cuda, `executor` native or torch, `dtype` bfloat16, float16 or float32.

    `notes` are lines on what is not as the options or the machine suggest.
    """

    device: str
    executor: str
    dtype: str
    notes: tuple[str, ...] = field(default=(), compare=False)


def place(device: str = "auto", executor: str = "auto", dtype: str = "auto") -> Placement:
    """What the options mean on this machine. Raises ConfigError for what it can't do.

    The device is a CUDA one if there is one and PyTorch with Triton is installed; the executor native on a CPU and
    torch on CUDA; the type bfloat16, or float16 on devices that lack it.
    """
    notes: list[str] = []
    if device == "auto":
        device = "cuda" if executor != "native" and _cuda_is_usable(notes) else "cpu"
    if executor == "auto":
        executor = "torch" if device == "cuda" else "native"
    if executor == "native":
        if device == "cuda":
            raise ConfigError("executor", executor, "runs on the CPU only; say torch, or device cpu")
        if dtype in ("half", "float16"):
            notes.append(f"dtype={dtype!r}: the native executor computes 16-bit models in bfloat16")
            dtype = "bfloat16"
        return Placement(device, executor, DTYPES[dtype], tuple(notes))
    missing = [name for name in (("torch", "triton") if device == "cuda" else ("torch",)) if find_spec(name) is None]
    if missing:
        option = ("device", device) if device == "cuda" else ("executor", executor)
        raise ConfigError(*option, f"needs {' and '.join(missing)}, not installed here; {INSTALL} brings them")
    return Placement(device, executor, _cuda_dtype(dtype) if device == "cuda" else DTYPES[dtype], tuple(notes))


def cache_type(name: str, executor: str) -> tuple[str, list[str]]:
    """The type of the KV cache that an executor has for one of vLLM's names, with notes. Others stay as they are."""
    if executor == "native" and name in FP8_CACHES:
        return "int8", [f"kv_cache_dtype={name!r}: the native executor keeps 8-bit keys and values as int8"]
    return "int8" if name in INT8_CACHES else name, []


def _cuda_dtype(dtype: str) -> str:
    """The type to compute in on the CUDA device, which must exist and be new enough."""
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            reason = (
                f"the installed PyTorch {torch.__version__} has no CUDA; {INSTALL}, in a new environment, brings one"
            )
        else:
            reason = "no CUDA device can be used: nvidia-smi shows what the driver sees; device cpu always works"
        raise ConfigError("device", "cuda", reason)
    capability, name = torch.cuda.get_device_capability(), torch.cuda.get_device_name()
    if capability < LEAST_CAPABILITY:
        reason = f"{name} has compute capability {_dotted(capability)}, {_dotted(LEAST_CAPABILITY)} is needed; say cpu"
        raise ConfigError("device", "cuda", reason)
    has_bfloat16 = capability >= BFLOAT16_CAPABILITY
    if dtype == "auto":
        return "bfloat16" if has_bfloat16 else "float16"
    if dtype == "bfloat16" and not has_bfloat16:
        reason = f"{name}, of compute capability {_dotted(capability)}, lacks it; say half or float32"
        raise ConfigError("dtype", dtype, reason)
    return DTYPES[dtype]


def _cuda_is_usable(notes: list[str]) -> bool:
    """Whether there is a CUDA device, and what it takes to use it; a note is added where only the latter is missing."""
    if not driver_has_devices():
        return False
    if missing := [name for name in ("torch", "triton") if find_spec(name) is None]:
        notes.append(f"there is a CUDA device, but no {' and no '.join(missing)} to use it: {INSTALL} brings them")
        return False
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= LEAST_CAPABILITY


def driver_has_devices() -> bool:
    """What the CUDA driver says, asked directly: PyTorch would take seconds to load."""
    count = ctypes.c_int(0)
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
