"""What is supported: the architectures that are known, and whether and how a model would run."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.advice import plan_or_advise
from octavo.engine.memory import MemoryPlan
from octavo.engine.planning import DeclaredModel, select_machine
from octavo.models import declarations, open_model
from octavo.models.base import CausalLM, kind_of
from octavo.models.multimodal import ARCHITECTURES
from octavo.weights import Checkpoint, StoredTensor, resolve
from octavo.weights.known import public_name


@dataclass(frozen=True, slots=True)
class Family:
    """Architectures that one class declares, by the names that config.json uses."""

    names: tuple[str, ...]
    kind: str  # "dense", "experts", "hybrid", "encoder-decoder", or "encoder", which embeds texts
    formats: tuple[str, ...]
    gguf: tuple[str, ...]  # what GGUF files call them
    models: str  # which models these are
    built: str  # how
    declared_by: str  # module:Class


TEXT_PARTS = tuple(sorted(ARCHITECTURES))  # of models that see or hear; each is of one of the families


def families() -> list[Family]:
    """All that are known, by the names of their modules."""
    found = sorted(declarations().items(), key=lambda item: item[0].__module__)
    return [_family(model, names) for model, names in found]


def _family(model: type[CausalLM], names: tuple[str, ...]) -> Family:
    gguf = tuple(one.architecture for one in model.gguf)
    formats = ["safetensors", *(["GGUF"] if gguf else []), *(["CTranslate2"] if model.inputs == "speech" else [])]
    models = inspect.getdoc(sys.modules[model.__module__]) or ""
    built = (inspect.getdoc(model) or "").partition("\n\n")[0]
    return Family(
        names,
        model.kind,
        tuple(formats),
        gguf,
        models.partition("\n")[0],
        " ".join(built.split()),
        f"{model.__module__}:{model.__qualname__}",
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a model would run, from the headers of its files. Sizes are in bytes, lengths in tokens."""

    model: str
    path: str
    architecture: str
    kind: str
    does: str  # "embeds texts", "transcribes speech" or "generates texts"
    declared_by: str
    parameters: int
    format: str  # safetensors, GGUF or CTranslate2
    stored: Mapping[str, int]  # bytes by the type in which matrices and vectors are stored, the largest first
    quantization: str | None  # the method of the weights, or that by which they would be quantized
    executor: str
    device: str
    dtype: str
    max_model_len: int
    trained_len: int
    memory: Mapping[str, int] = field(default_factory=dict)
    summary: str = ""  # of the memory


def forecast(options: Mapping[str, Any]) -> Forecast:
    """How a model would run with these options of an engine; nothing is loaded.

    Raises what loading would raise: OctavoErrors that say why it would not run.
    """
    config = EngineConfig.from_options(options)
    select_machine()
    path = resolve(config.model, revision=config.revision, cache_dir=config.download_dir)
    planned = plan_or_advise(config, open_model(path))
    return describe(planned, planned.plan)


def describe(declared: DeclaredModel, memory: MemoryPlan) -> Forecast:
    """How a model would run whose memory is planned."""
    config, checkpoint, graph, encoder = declared.config, declared.checkpoint, declared.graph, declared.encoder
    weights = {*graph.weights, *(encoder.weights if encoder else ())}
    parts = {name: getattr(memory, name) for name in ("weights", "workspace", "kv_cache", "usable")}
    return Forecast(
        model=public_name(config.model or checkpoint.path.name),
        path=str(checkpoint.path),
        architecture=str(checkpoint.config["architectures"][0]),
        kind=declared.model.kind if declared.model.is_hosted else kind_of(graph, encoder),
        does="embeds texts" if declared.pooler else "transcribes speech" if encoder else "generates texts",
        declared_by=declared.model.declared_by,
        parameters=sum(weight.size for weight in weights),
        format=_format(checkpoint),
        stored=_stored(declared.tensors),
        quantization=checkpoint.quantization or config.quantization,
        executor=config.executor,
        device=config.device,
        dtype=config.dtype,
        max_model_len=memory.max_model_len,
        trained_len=declared.model.max_positions,
        memory={**parts, "kv_tokens": memory.num_blocks * memory.block_size},
        summary=str(memory),
    )


def _format(checkpoint: Checkpoint) -> str:
    if checkpoint.declared is not None:
        return "config.json"
    if checkpoint.metadata is not None:
        return "GGUF"
    return "CTranslate2" if (checkpoint.path / "model.bin").exists() else "safetensors"


def _stored(tensors: Mapping[str, StoredTensor]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for tensor in {id(tensor): tensor for tensor in tensors.values()}.values():
        sizes[tensor.format] += sum(array.nbytes for array in tensor.arrays)
    return dict(sizes.most_common())
