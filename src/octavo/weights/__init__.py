"""Where weights come from, the formats they are stored in, and how those are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from octavo.errors import ModelLoadError
from octavo.weights.ctranslate2 import open_ctranslate2
from octavo.weights.files import check_whole
from octavo.weights.gguf import open_gguf
from octavo.weights.gguf_family import GGUFFamily
from octavo.weights.known import DEFAULT_MODEL
from octavo.weights.safetensors import open_safetensors
from octavo.weights.source import resolve
from octavo.weights.tensor import Checkpoint, StoredTensor

__all__ = ["DEFAULT_MODEL", "Checkpoint", "StoredTensor", "open_checkpoint", "resolve"]


# What a directory has in place of weights that can be read here.
_OTHER_FORMATS = {"openvino_*.xml": "OpenVINO", "*.onnx": "ONNX", "*.msgpack": "Flax", "*.h5": "TensorFlow"}


def open_checkpoint(path: Path, families: Mapping[str, GGUFFamily] = MappingProxyType({})) -> Checkpoint:
    """Open a .gguf file, a directory with one, or a directory with config.json and safetensors or a model.bin.

    Of weights nothing is read but headers, and the scales of quantized ones; every count, length and
    offset is validated. `families` gives those that GGUF files may be of. Raises ModelLoadError.
    """
    if not path.exists():
        raise ModelLoadError(path, "path", "does not exist")
    if not path.is_dir():
        return open_gguf(path, families)
    if any(path.glob("*.safetensors*")):
        return open_safetensors(path)
    if files := sorted(path.glob("*.gguf")):
        check_whole(files[0])
        if len(files) > 1 and "-00001-of-" not in files[0].name:
            names = ", ".join(file.name for file in files[:8])
            raise ModelLoadError(path, "directory", f"has several GGUF files, give the path of one: {names}")
        return open_gguf(files[0], families)
    if (path / "model.bin").exists():
        return open_ctranslate2(path)
    if not any(path.iterdir()):
        raise ModelLoadError(path, "directory", "is empty")
    for pattern, program in _OTHER_FORMATS.items():
        if file := next(path.glob(pattern), None):
            reason = f"the model was exported for {program}; get the one with *.safetensors, or a GGUF file"
            raise ModelLoadError(file, "file", reason)
    return open_safetensors(path)
