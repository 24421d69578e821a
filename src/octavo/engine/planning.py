"""What loading will do, from headers alone: the declaration, its graph, its weights, the executor, the memory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path

from octavo import _native
from octavo.config import AT_LOAD, POOLING_TASKS, SPEECH_TASKS, EngineConfig, thread_count
from octavo.engine.backend import Backend, backend_of, reserve_of
from octavo.engine.classifier import classifier_of
from octavo.engine.memory import MemoryPlan, plan_memory
from octavo.engine.multi_vector import embedder_of
from octavo.engine.pooler import Pooler
from octavo.engine.purpose import purpose_of
from octavo.errors import ConfigError, ModelLoadError, UnknownArchitectureError, UnsupportedError
from octavo.executor.base import Footprint
from octavo.graph.builder import Graph
from octavo.graph.ends import both_ways, with_hidden_states
from octavo.models import load_declaration
from octavo.models.base import CausalLM
from octavo.models.encoders import heads
from octavo.weights import Checkpoint
from octavo.weights.bind import bind
from octavo.weights.config_reader import ConfigReader
from octavo.weights.quantized import option_names
from octavo.weights.tensor import StoredTensor

logger = logging.getLogger("octavo")
SPARSE_BYTES = 64 << 20  # of a step's logits where those of all tokens are wanted, unless a text takes more
TRANSFORMERS = "model_impl='transformers' may run it"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredModel:
    """A model of which no weight has been read yet. `tensors` are stored ones, by the names of its weights."""

    config: EngineConfig  # of the executor that the model needs
    checkpoint: Checkpoint
    file: Path  # that has its configuration
    model: CausalLM
    graph: Graph
    encoder: Graph | None
    pooler: Pooler | None
    tensors: Mapping[str, StoredTensor]
    backend: Backend
    footprint: Footprint
    of_encoder: Footprint | None
    max_positions: int  # of a text

    def memory_plan(self, usable: int, reserve: int | None = None) -> MemoryPlan:
        """What it takes of `usable` bytes, of which `reserve` are for all else. Raises MemoryPlanError, ConfigError."""
        return plan_memory(
            self.config,
            self.footprint,
            self.max_positions,
            self.model.vocab_size,
            usable,
            reserve_of(self.backend, self.config) if reserve is None else reserve,
            self.of_encoder,
            self.model.source_positions,
            all_rows=self.pooler is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel(DeclaredModel):
    """A model, and what it will take of the memory that there is."""

    plan: MemoryPlan


def plan_model(config: EngineConfig, checkpoint: Checkpoint, usable: int | None = None) -> PlannedModel:
    """What loading will do where the model may take `usable` bytes, by default its share of what is free.

    Raises ModelLoadError, MemoryPlanError or ConfigError.
    """
    declared = declare_model(config, checkpoint)
    if usable is None:
        usable = declared.backend.usable_memory(declared.config.gpu_memory_utilization)
    parts = {field.name: getattr(declared, field.name) for field in fields(declared)}
    return PlannedModel(**parts, plan=declared.memory_plan(usable))


def declare_model(config: EngineConfig, checkpoint: Checkpoint) -> DeclaredModel:
    """What a model is made of, before it is known whether it fits. Raises ModelLoadError or ConfigError."""
    file = checkpoint.path / "config.json" if checkpoint.metadata is None else checkpoint.path
    purpose = purpose_of(config, checkpoint)
    checkpoint, modules = purpose.checkpoint, purpose.modules
    config, model = _declared(config, checkpoint, file)
    purpose.check(config, model)
    if config.max_model_len and config.max_model_len > model.longest_positions:
        reason = f"the model was made for at most {model.longest_positions} tokens"
        raise ConfigError("max_model_len", config.max_model_len, reason)
    is_sparse = modules is not None and modules.is_sparse
    whole, encoder = _masked(model, checkpoint) if is_sparse else model.build(), model.build_encoder()
    _check_task(config, reads_speech=encoder is not None)
    if (purpose.embeds or purpose.head) and model.is_hosted:
        raise UnsupportedError("task", "embed", "not with the layers of transformers: they are run for their logits")
    graph, max_positions = whole, min(model.max_positions, (modules and modules.max_length) or model.max_positions)
    pooler: Pooler | None = None
    if purpose.head is not None:
        reader = ConfigReader.of_file(checkpoint.config, file)
        pooler = classifier_of(purpose.head, model, whole.nodes[-1], checkpoint, reader)
    elif purpose.embeds or model.pooling is not None:
        columns = model.vocab_size if is_sparse else whole.nodes[-1].inputs[0].columns
        pooler = embedder_of(purpose.name, model.pooling or "last", columns, modules, checkpoint)
    if pooler is not None and not is_sparse:
        graph = with_hidden_states(whole)
        if checkpoint.config.get("is_causal") is False and not graph.keeps_nothing:
            graph = both_ways(graph)
    if graph.keeps_nothing:
        config = replace(config, prefix_cache_dir=None, prefix_cache_size=None)
        config = replace(config, enable_chunked_prefill=False, enable_prefix_caching=False)
    if is_sparse:
        most = max(1, SPARSE_BYTES // (4 * model.vocab_size))
        config = replace(config, max_num_batched_tokens=min(config.max_num_batched_tokens, most))
    weights = graph.weights if encoder is None else [*graph.weights, *encoder.weights]
    unused = [f"^{re.escape(weight.name)}$" for weight in {*whole.weights} - {*graph.weights}]
    if pooler is not None:  # which has read its own
        unused.append(heads.TENSORS)
    if checkpoint.declared is not None:
        tensors = checkpoint.declared([*graph.nodes, *(encoder.nodes if encoder else ())])
    else:
        tensors = {} if model.is_hosted else bind(weights, checkpoint, (*model.ignored, *unused))
    backend = backend_of(config, _quantization_at_load(config.quantization, checkpoint))
    return DeclaredModel(
        config=config,
        checkpoint=checkpoint,
        file=file,
        model=model,
        graph=graph,
        encoder=encoder,
        pooler=pooler,
        tensors=tensors,
        backend=backend,
        footprint=backend.footprint(graph, tensors, config.dtype),
        of_encoder=None if encoder is None else backend.footprint(encoder, tensors, config.dtype),
        max_positions=max_positions,
    )


def _masked(model: CausalLM, checkpoint: Checkpoint) -> Graph:
    """The graph whose logits SPLADE pools. Raises ModelLoadError for a model that is not known to have that."""
    build = getattr(model, "build_masked", None)
    if build is None:
        reason = f"SPLADE needs a text encoder with the head that guesses masked tokens, not {type(model).__name__}"
        raise ModelLoadError(checkpoint.path / "modules.json", "type", reason)
    graph: Graph = build()
    return graph


def _declared(config: EngineConfig, checkpoint: Checkpoint, file: Path) -> tuple[EngineConfig, CausalLM]:
    """What declares the model, and the configuration for it: layers of transformers run on the torch executor alone."""
    unknown = None
    if config.model_impl != "transformers":
        try:
            return config, load_declaration(checkpoint.config, file, config.max_model_len)
        except UnknownArchitectureError as error:
            unknown = error
    names = checkpoint.config.get("architectures") or [None]
    name = str(names[0] if isinstance(names, list) else names)
    if (reason := _not_by_transformers(config, checkpoint)) is not None:
        if unknown is None:
            raise UnsupportedError("model_impl", config.model_impl, reason)
        raise UnknownArchitectureError(unknown.file, unknown.field, f"{unknown.reason}; {reason}")
    from octavo.executor.torch.transformers_model import TransformersModel, class_of

    if unknown is not None and class_of(name) is None:
        reason = "transformers does not know it either; a plugin could declare it (docs/plugins.md)"
        raise UnknownArchitectureError(unknown.file, unknown.field, f"{unknown.reason}; {reason}")
    try:
        model = TransformersModel(checkpoint.path, name)
    except UnsupportedError as error:
        if unknown is None:
            raise
        raise UnknownArchitectureError(unknown.file, unknown.field, f"{unknown.reason}; {error.reason}") from None
    if unknown is not None:
        logger.warning("%s is not declared here: transformers' own layers run it, on the torch executor", name)
    return replace(config, executor="torch", enforce_eager=True), model


def _not_by_transformers(config: EngineConfig, checkpoint: Checkpoint) -> str | None:
    """Why the layers of transformers can't run a model, whatever it is; None if they may."""
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        return f"{TRANSFORMERS}, once {' and '.join(missing)} is there: pip install '.[transformers]' in a checkout"
    if config.model_impl == "octavo":
        return f"{TRANSFORMERS}, without executor='native'"
    if checkpoint.metadata is not None or (checkpoint.path / "model.bin").exists():
        return "transformers' layers are for directories of safetensors"
    if checkpoint.quantization or config.quantization:
        return "transformers' layers are for weights that are not quantized"
    return None


def _check_task(config: EngineConfig, reads_speech: bool) -> None:
    if config.task in SPEECH_TASKS and not reads_speech:
        raise ConfigError("task", config.task, "this model reads text; leave it out, or load a Whisper model")
    if config.task in ("generate", *POOLING_TASKS) and reads_speech:
        raise ConfigError("task", config.task, "this model reads speech; say transcription, or leave it out")


def _quantization_at_load(wanted: str | None, checkpoint: Checkpoint) -> str | None:
    """What plain weights are to be quantized to: one of `AT_LOAD`, or None.

    Raises ConfigError where the weights are of another method than the user says, or are to be quantized again. Those
    of a GGUF file may be plain: of them, it is seen when layouts are chosen.
    """
    found = checkpoint.quantization
    if wanted is None or (found is not None and option_names().get(wanted) == found):
        return None
    if wanted in AT_LOAD and found in (None, "gguf"):
        return wanted
    if wanted in AT_LOAD:
        reason = f"{checkpoint.path} is quantized already, with {found}"
    elif found is None:
        reason = f"{checkpoint.path} is not quantized; {', '.join(AT_LOAD)} quantize it while it is loaded"
    else:
        reason = f"{checkpoint.path} is quantized with {found}; leave it out, or say that"
    raise ConfigError("quantization", wanted, reason)


def select_machine() -> None:
    """Sets the threads and the instruction set, as the environment says."""
    _native.set_num_threads(thread_count())
    if isa := os.environ.get("OCTAVO_CPU_ISA"):
        try:
            _native.select_isa(isa)
        except ValueError as error:
            raise ConfigError("OCTAVO_CPU_ISA", isa, str(error)) from None
