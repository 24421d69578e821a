"""Machines that are planned for: this one, or another, by name and memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from octavo.devices import BFLOAT16_CAPABILITY, DTYPES, Placement
from octavo.engine.memory import free_memory
from octavo.errors import ConfigError, did_you_mean
from octavo.sizes import read_size

# A process takes so much of a CUDA device before it allocates anything: what drivers of the last years take, roughly.
CUDA_CONTEXT = 450 << 20


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory` is what an engine may be given a share of, in bytes. Rates are in bytes and FLOPs per second.

    Those of a known GPU are of its data sheet: dense products of 16-bit floats. A CPU's are None here: they are
    measured, on this machine. `capability` is CUDA's.
    """

    name: str
    device: str
    memory: int
    bandwidth: float | None = None
    flops: float | None = None
    capability: tuple[int, int] = (0, 0)
    taken: int = 0  # of the memory, by others and by CUDA itself
    is_here: bool = False

    def usable(self, share: float) -> int:
        """Bytes that an engine may take."""
        return int(self.memory * share) - self.taken

    def place(self, device: str = "auto", executor: str = "auto", dtype: str = "auto") -> Placement:
        """What the options mean on this machine. Raises ConfigError for what it can't do."""
        if device not in ("auto", self.device):
            raise ConfigError("device", device, f"the machine {self.name} is planned for as {self.device}")
        if self.device == "cpu":
            executor = "native" if executor == "auto" else executor
            is_half = dtype in ("half", "float16") and executor == "native"
            return Placement("cpu", executor, DTYPES["auto" if is_half else dtype])
        if executor == "native":
            raise ConfigError("executor", executor, f"runs on the CPU only, and {self.name} is a GPU")
        has_bfloat16 = self.capability >= BFLOAT16_CAPABILITY
        if dtype == "bfloat16" and not has_bfloat16:
            raise ConfigError("dtype", dtype, f"{self.name} lacks it; say half or float32")
        return Placement("cuda", "torch", "float16" if dtype == "auto" and not has_bfloat16 else DTYPES[dtype])


def _gpu(name: str, gigabytes: float, bandwidth: float, tflops: float, capability: tuple[int, int]) -> Machine:
    return Machine(name, "cuda", int(gigabytes * 1e9), bandwidth * 1e9, tflops * 1e12, capability, CUDA_CONTEXT)


# From the makers' data sheets: memory in GB, GB/s, dense TFLOP/s in 16 bits, compute capability.
GPUS: Mapping[str, Machine] = {
    gpu.name: gpu
    for gpu in (
        _gpu("T4", 16, 320, 65, (7, 5)),
        _gpu("RTX3090", 24, 936, 71, (8, 6)),
        _gpu("RTX4090", 24, 1008, 165, (8, 9)),
        _gpu("RTX5090", 32, 1792, 209, (12, 0)),
        _gpu("A10", 24, 600, 125, (8, 6)),
        _gpu("A10G", 24, 600, 70, (8, 6)),
        _gpu("A30", 24, 933, 165, (8, 0)),
        _gpu("L4", 24, 300, 121, (8, 9)),
        _gpu("A40", 48, 696, 149, (8, 6)),
        _gpu("A6000", 48, 768, 154, (8, 6)),
        _gpu("L40", 48, 864, 181, (8, 9)),
        _gpu("L40S", 48, 864, 362, (8, 9)),
        _gpu("A100-40GB", 40, 1555, 312, (8, 0)),
        _gpu("A100", 80, 2039, 312, (8, 0)),
        _gpu("H100", 80, 3350, 989, (9, 0)),
        _gpu("H200", 141, 4800, 989, (9, 0)),
        _gpu("B200", 180, 8000, 2250, (10, 0)),
    )
}


def memory_size(name: str, text: str, said: str | None = None) -> int:
    """Bytes, as `read_size` reads them. Raises ConfigError, with `said`, if the size is a part of that."""
    with suppress(ValueError):
        if size := read_size(text):
            return size
    raise ConfigError(name, said or text, "must be a size, as 14.56GiB (1024³ bytes) or 16GB (1000³ bytes)")


def this_cpu(memory: str | None = None) -> Machine:
    """The CPU here, with what is free of its memory and its container's, or with another size of it."""
    size = free_memory() if memory is None else memory_size("memory", memory)
    return Machine("this machine", "cpu", size, is_here=True)


def this_gpu_or_cpu(device: str) -> Machine:
    """What an engine on `device` would run on here."""
    if device == "cpu":
        return this_cpu()
    import torch

    name, (free, total) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
    known = known_gpu(name, total)
    rates = (known.bandwidth, known.flops) if known is not None else (None, None)
    capability = torch.cuda.get_device_capability()
    return Machine(name, "cuda", total, *rates, capability, total - free, is_here=True)


def known_gpu(name: str, memory: int) -> Machine | None:
    """The GPU that a driver calls `name`, as "NVIDIA GeForce RTX 4090"; of several, that with the nearest memory.

    None where that is far from `memory`, in bytes: a part of a GPU, or a notebook's, is slower than the name says.
    """
    found = [gpu for gpu in GPUS.values() if re.search(_spellings(gpu.name), name.upper())]
    nearest = min(found, key=lambda gpu: abs(gpu.memory - memory), default=None)
    return nearest if nearest is not None and abs(nearest.memory - memory) <= nearest.memory / 4 else None


def _spellings(name: str) -> str:
    """A pattern of a GPU's name without its memory, in which letters and digits may be apart: RTX4090, RTX 4090."""
    parts = re.findall("[A-Z]+|[0-9]+", name.partition("-")[0].upper())
    return rf"(?<![A-Z0-9]){'[^A-Z0-9]?'.join(parts)}(?![A-Z0-9])"


def find_machine(said: str | None, memory: str | None = None) -> Machine | None:
    """The machine that "T4:16GB", "T4", "CPU:32GiB" or "CPU" means; None for this one as it is.

    `memory` replaces its memory. Raises ConfigError for one that is not known.
    """
    if said is None:
        return None if memory is None else this_cpu(memory)
    name, _, size = said.partition(":")
    wanted = re.sub(r"(?i)\b(nvidia|tesla|geforce)\b[\s_-]*", "", name.strip()).replace(" ", "").upper()
    if wanted == "CPU":
        machine = Machine("CPU", "cpu", free_memory())
    elif (found := {known.upper(): gpu for known, gpu in GPUS.items()}.get(wanted)) is not None:
        machine = found
    else:
        known = ", ".join(("CPU", *GPUS))
        near = did_you_mean(wanted, ("CPU", *GPUS))
        raise ConfigError("machine", said, f"is not known; known are {known}, with a memory as in T4:16GB{near}")
    if memory is not None:
        return replace(machine, memory=memory_size("memory", memory))
    return replace(machine, memory=memory_size("machine", size, said)) if size else machine
