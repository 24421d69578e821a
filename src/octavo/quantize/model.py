"""From a checkpoint in plain numbers to one in a format of compressed-tensors, tensor by tensor."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from octavo.config import thread_count
from octavo.errors import ConfigError, ModelLoadError, UnsupportedError
from octavo.graph.builder import Graph
from octavo.graph.node import Floats, Node, Weight
from octavo.graph.ops.experts import Experts
from octavo.graph.ops.linear import Linear
from octavo.models import load_declaration
from octavo.option_files import read_text
from octavo.quantize.formats import Format, Stored, rounded
from octavo.quantize.gptq import compensate
from octavo.quantize.rounding import round_rows, to_nearest
from octavo.quantize.walk import Figures, Walk
from octavo.quantize.writer import SHARD_BYTES, Writer
from octavo.text.tokenizer_files import read_tokenizer
from octavo.weights import Checkpoint, open_checkpoint
from octavo.weights.bind import bind, forget_pages
from octavo.weights.cache import publish, staging
from octavo.weights.files import read_json
from octavo.weights.layout import PLAIN
from octavo.weights.tensor import StoredTensor

SEQUENCE = 512  # tokens of a text of calibration
EVALUATED = 1024  # tokens at the beginning of each text whose perplexity is measured
WEIGHTS = ("*.safetensors*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.msgpack", "*.h5")
Progress = Callable[[int, int], None]  # bytes of the checkpoint that are done, and all


@dataclass(frozen=True)
class Texts:
    """Files of text. Without ones for evaluation, the last tenth of that for calibration is held out."""

    calibration: str | None = None
    evaluation: Sequence[str] = ()
    calibration_tokens: int = 128 * SEQUENCE  # at most


@dataclass(frozen=True)
class Report:
    """Bytes of all tensors, and what was measured."""

    size_before: int
    size_after: int
    figures: Figures | None


def quantize(
    path: Path,
    out: Path,
    format: Format,
    texts: Texts | None = None,
    progress: Progress = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> Report:
    """Writes the model of the directory `path` to the new directory `out`, which is there whole or not at all.

    Raises ConfigError, UnsupportedError, ModelLoadError; OSError if it can't be written.
    """
    out = out.expanduser().absolute()
    check_target(out)
    checkpoint = _open(path)
    model = load_declaration(checkpoint.config, path / "config.json")
    if model.build_encoder() is not None:
        raise UnsupportedError("MODEL", str(path), "only models of text are written quantized; this one has an encoder")
    graph = model.build()
    if any(isinstance(node, Experts) for node in graph.nodes):
        raise UnsupportedError("MODEL", str(path), "models with experts are not written quantized")
    tensors = bind(graph.weights, checkpoint, model.ignored)
    linears = _linears(graph, tensors, format)
    stored = _stored(checkpoint, linears, format)
    calibration, evaluation = _tokens(path, texts or Texts(), model.max_positions)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(thread_count()))
        folder = stack.enter_context(staging(out.parent)) / out.name
        folder.mkdir()
        _copy_files(path, folder, checkpoint.config, format.config(_ignored(checkpoint, linears)))
        walk = Walk(graph, calibration, evaluation, pool.map) if calibration or evaluation else None
        with Writer(folder, stored, shard_bytes) as writer:
            _check_room(out, writer.total)
            _Pass(checkpoint, linears, format, writer, walk, pool.map, progress).run(graph)
        publish(folder, out)
    size = sum(tensor.data.size for tensor in checkpoint.tensors.values())
    return Report(size, writer.total, walk.figures if walk else None)


def check_target(out: Path) -> None:
    """Raises ConfigError where no model can be written."""
    if out.exists() and not out.is_dir():
        raise ConfigError("OUT", str(out), "is a file; give a new directory")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError("OUT", str(out), "is not empty; give a new directory")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError("OUT", str(out), f"can't be made: {out.parent} is no directory that can be written to")


class _Pass:
    """One way through the graph: every linear is quantized when it is reached, and written."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        linears: Mapping[str, Linear],
        format: Format,
        writer: Writer,
        walk: Walk | None,
        map_parts: Callable[..., Iterable[Any]],
        progress: Progress,
    ):
        self.checkpoint, self.linears, self.format, self.writer, self.walk = checkpoint, linears, format, writer, walk
        self.map_parts, self.progress = map_parts, progress
        self.total, self.done = sum(tensor.data.size for tensor in checkpoint.tensors.values()), 0

    def run(self, graph: Graph) -> None:
        for name, tensor in self.checkpoint.tensors.items():
            if name not in self.linears:
                self.writer.write(name, tensor.data)
                self._finish(tensor)
        for node in graph.nodes:
            self._node(node)

    def _node(self, node: Node) -> None:
        tensors = {weight: self.checkpoint.tensors[weight.name] for weight in node.weights}
        is_quantized = isinstance(node, Linear)
        if not is_quantized and self.walk is None:
            return
        weights = {weight: tensor.part(weight).values() for weight, tensor in tensors.items()}
        now = dict(weights)
        if isinstance(node, Linear):
            now[node.weight] = self._quantize(node, tensors[node.weight], weights[node.weight])
        if self.walk is not None:
            rounds = is_quantized and self.format.quantizes_inputs
            self.walk.advance(node, weights, now, partial(round_rows, self.format.numbers) if rounds else None)
        for tensor in tensors.values():
            forget_pages(tensor)

    def _quantize(self, node: Linear, tensor: StoredTensor, weight: Floats) -> Floats:
        """Writes a weight, and returns the values that it has from now on."""
        if not np.isfinite(weight).all():
            row, column = np.argwhere(~np.isfinite(weight))[0]
            raise ModelLoadError(tensor.file, tensor.name, f"is not finite at [{row}, {column}]: {weight[row, column]}")
        stored = partial(rounded, dtype=tensor.format)
        group = self.format.group or weight.shape[1]
        hessian = self.walk.hessian(node.x) if self.walk else None
        if hessian is None:
            matrix = to_nearest(self.format.numbers, weight, group, stored, self.map_parts)
        else:
            matrix = compensate(self.format.numbers, weight, group, hessian, stored)
        for name, array in self.format.tensors(tensor.name, matrix, tensor.format).items():
            self.writer.write(name, array)
        self._finish(tensor)
        return matrix.values()

    def _finish(self, tensor: StoredTensor) -> None:
        forget_pages(tensor)
        self.done += tensor.data.size
        self.progress(self.done, self.total)


def _open(path: Path) -> Checkpoint:
    """Raises ConfigError for what has no plain safetensors."""
    if not path.is_dir() or not any(path.glob("*.safetensors*")):
        raise ConfigError("MODEL", str(path), "is no directory with safetensors, whose weights can be quantized")
    config = path / "config.json"
    if config.exists() and "quantization_config" in read_json(config):
        raise ConfigError("MODEL", str(path), "is quantized already; take the model that it was made from")
    return open_checkpoint(path)


def _linears(graph: Graph, tensors: Mapping[str, StoredTensor], format: Format) -> dict[str, Linear]:
    """The nodes to be quantized, by the names of their weights. Raises UnsupportedError, ConfigError."""
    found: dict[str, Linear] = {}
    for node in graph.nodes:
        if not isinstance(node, Linear):
            continue
        weight, columns = node.weight, node.weight.shape[1]
        if weight.name in found or weight != Weight(weight.name, tensors[weight.name].shape):
            raise UnsupportedError(
                "MODEL", weight.name, "is used in parts, or twice; only whole matrices are quantized"
            )
        if tensors[weight.name].layout not in PLAIN.values():
            raise ConfigError("MODEL", weight.name, f"is quantized already, in {tensors[weight.name].format}")
        if format.group and columns % format.group:
            reason = f"does not divide the {columns} columns of {weight.name}"
            raise ConfigError("group_size", format.group, reason)
        found[weight.name] = node
    return found


def _ignored(checkpoint: Checkpoint, linears: Mapping[str, Linear]) -> list[str]:
    """Modules that stay as they are. A tied lm_head has no tensor, but is a module of its own."""
    matrices = (name for name, tensor in checkpoint.tensors.items() if len(tensor.shape) > 1 and name not in linears)
    return sorted({"lm_head", *(name.removesuffix(".weight") for name in matrices)})


def _stored(checkpoint: Checkpoint, linears: Mapping[str, Linear], format: Format) -> Stored:
    """All tensors that are to be written."""
    stored: Stored = {}
    for name, tensor in checkpoint.tensors.items():
        quantized = name in linears
        stored |= (
            format.stored(name, tensor.shape, tensor.format) if quantized else {name: (tensor.format, tensor.shape)}
        )
    return stored


def _tokens(path: Path, texts: Texts, longest: int) -> tuple[list[list[int]], list[list[int]]]:
    """The sequences for calibration, and those for evaluation. Raises ConfigError for texts that are too short."""
    if texts.calibration is None and not texts.evaluation:
        return [], []
    tokenizer = read_tokenizer(path)

    def read(option: str, file: str, least: int) -> list[int]:
        tokens = tokenizer.encode(read_text(option, file))
        if len(tokens) < least:
            raise ConfigError(option, file, f"has {len(tokens)} tokens; at least {least} are needed")
        return tokens

    length = min(EVALUATED, longest)
    evaluation = [read("evaluate", file, 2)[:length] for file in texts.evaluation]
    if texts.calibration is None:
        return [], evaluation
    if texts.calibration_tokens < 1:
        raise ConfigError("calibration_tokens", texts.calibration_tokens, "must be at least 1")
    size = min(SEQUENCE, longest, texts.calibration_tokens)
    tokens = read("calibration", texts.calibration, size if evaluation else 2 * size)
    if not evaluation:
        held_out = tokens[-(len(tokens) // 10) :]
        tokens, evaluation = tokens[: -len(held_out)], [held_out[:length]]
    most = min(len(tokens), texts.calibration_tokens)
    return [tokens[first : first + size] for first in range(0, most - size + 1, size)], evaluation


def _copy_files(source: Path, target: Path, config: Mapping[str, Any], quantization: Mapping[str, Any]) -> None:
    """Everything beside the weights, and config.json with what was done to them."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name[0] != "." and not any(file.match(pattern) for pattern in WEIGHTS):
            shutil.copyfile(file, target / file.name)
    text = json.dumps({**config, "quantization_config": quantization}, indent=2, ensure_ascii=False)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")


def _check_room(out: Path, size: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise ConfigError("OUT", str(out), f"needs {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there")
