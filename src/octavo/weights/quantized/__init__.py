"""Quantized checkpoints of safetensors: the tensors that a method makes of one matrix become that matrix again.

Each is rearranged to one of our formats of blocks when it is asked for, and not before, so that loading takes the
memory of one more matrix. Scales and shapes are looked at when the checkpoint is opened.

Every module here has methods; those of other packages are known once they are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import read_json
from octavo.weights.layout import PLAIN
from octavo.weights.quantized.method import Method, Parts
from octavo.weights.tensor import StoredTensor

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)


def option_names() -> dict[str, str]:
    """What --quantization may say of a checkpoint, and of which method's it is true."""
    names = {name: method.names[0] for method in Method.known for name in (*method.names, *method.options)}
    return names | {"gguf": "gguf"}


# Files that say what config.json may leave out, and the method they are of.
_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}

# Ends of the names of integers that nothing reads: of a batch norm's training; 0, 1, 2 …; zeros.
_INTEGERS = (".num_batches_tracked", ".position_ids", ".token_type_ids")
# Ends of the names of what is not needed: activations, keys and values are quantized with scales of their own.
_UNUSED = tuple(
    f".{what}_{number}"
    for what in ("input", "output", "activation", "k", "v", "kv", "q", "prob", "input_global")
    for number in ("scale", "zero_point")
)


def read_quantized(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> tuple[str | None, dict[str, StoredTensor]]:
    """The method that a checkpoint's weights are quantized with, or None, and its tensors.

    These are then all plain, or in one of our formats of groups and rows. Raises ModelLoadError.
    """
    method = _method(directory, config)
    made = dict(tensors) if method is None else _read(method, directory, tensors)
    plain = [layout.name for layout in PLAIN.values()]
    made = {name: tensor for name, tensor in made.items() if not name.endswith(_INTEGERS)}
    for name, tensor in made.items():
        if tensor is tensors.get(name) and tensor.format not in plain:
            reason = "is not supported" if method is None else f"is nothing of {method.name} without scales"
            raise ModelLoadError(tensor.file, name, f"dtype {tensor.format!r} {reason}, only BF16, F16, F32")
    return None if method is None else method.name, made


def _method(directory: Path, config: Mapping[str, Any]) -> Method | None:
    file, field = directory / "config.json", "quantization_config"
    said = config.get(field) or config.get("compression_config")
    default = None
    for name in _FILES:
        if not said and (directory / name).is_file():
            file, field, default = directory / name, "", _FILES[name]
            said = read_json(file)
    if not said:
        return None
    if not isinstance(said, dict):
        raise ModelLoadError(file, field, f"must be an object, got {said!r}")
    reader = ConfigReader.of_file(said, file, f"{field}." if field else "")
    name = reader.text("quant_method", default)
    for method in Method.known:
        if name in method.names:
            return method(reader)
    known = ", ".join(sorted(name for method in Method.known for name in method.names))
    raise reader.fail("quant_method", f"{name!r} is not supported, only {known}")


def _read(method: Method, directory: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """All tensors, with each matrix in place of those that the method has made of it."""
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith(_UNUSED)}
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name in [*made]:
        suffix = max((suffix for suffix in method.suffixes if name.endswith(suffix)), key=len, default=None)
        if suffix is not None:
            modules.setdefault(name.removesuffix(suffix), {})[suffix] = made.pop(name)
    if not modules:
        reason = f"says {method.name}, but no tensor is named as one of that: *{method.suffixes[0]} and so on"
        raise ModelLoadError(directory, "quantization_config", reason)
    for module, parts in modules.items():
        if module + method.weight in made:
            parts[method.weight] = made.pop(module + method.weight)
        matrix = method.read(Parts(module, method.weight, parts))
        made[matrix.name] = matrix
    return made
