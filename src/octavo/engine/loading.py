"""From a model reference to something that generates: resolve, plan memory, load, in that order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo import _native
from octavo.config import AT_LOAD, SPEECH_TASKS, EngineConfig, thread_count
from octavo.engine.backend import Backend, backend_of
from octavo.engine.defaults import read_defaults
from octavo.engine.inputs import PromptReader, ReaderFactory
from octavo.engine.memory import MemoryPlan, plan_memory
from octavo.errors import ConfigError, ModelLoadError
from octavo.executor.base import Executor, Footprint
from octavo.graph.builder import Graph
from octavo.models import load_declaration, open_model
from octavo.option_files import read_text
from octavo.sampling_params import SamplingParams
from octavo.text.chat_template import ChatTemplate
from octavo.text.hf_tokenizer import HFTokenizer
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint, resolve
from octavo.weights.bind import bind, forget_pages
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import read_json
from octavo.weights.known import advised_sampling
from octavo.weights.progress import loading_bar
from octavo.weights.quantized import NAMES
from octavo.weights.tensor import StoredTensor


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with everything that came with it."""

    name: str
    config: EngineConfig
    graph: Graph
    encoder: Graph | None
    source_positions: int  # that its encoder reads; 0 without one
    reader: PromptReader
    footprint: Footprint
    plan: MemoryPlan
    executor: Executor
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    sampling_defaults: dict[str, Any]  # of SamplingParams, as the model's authors advise
    vocab_size: int
    eos_token_ids: tuple[int, ...]  # the tokenizer's first

    @property
    def max_model_len(self) -> int:
        return self.plan.max_model_len

    def sampling_params(
        self, given: Mapping[str, Any] | None = None, neutral: Mapping[str, Any] | None = None
    ) -> SamplingParams:
        """What `given` says; else the model; else `neutral`; else the class's defaults. Raises ParameterError."""
        return SamplingParams(**{**(neutral or {}), **self.sampling_defaults, **(given or {})})

    def hf_tokenizer(self) -> HFTokenizer:
        return HFTokenizer(self.tokenizer, self.chat_template, self.name, self.max_model_len)


def load(
    config: EngineConfig, readers: Mapping[str, ReaderFactory], report: Callable[[str], None] = lambda phase: None
) -> LoadedModel:
    """Raises ModelNotFoundError, ModelLoadError, MemoryPlanError or ConfigError. `report` is told what it does.

    `readers` are those of prompts, by what a declaration says that its model reads.

    That the weights fit, and that they are those of the model, is known before any of them is read.
    """
    select_machine()
    report("finding the model")
    path = resolve(config.model, revision=config.revision, cache_dir=config.download_dir)
    report("reading headers")
    checkpoint = open_model(path)
    file = path / "config.json" if checkpoint.metadata is None else path
    with ThreadPoolExecutor(1) as other:  # the tokenizer's library parses without the GIL, as the weights are packed
        tokenizer = other.submit(_load_tokenizer, config, path, checkpoint)
        model = load_declaration(checkpoint.config, file, config.max_model_len)
        if config.max_model_len and config.max_model_len > model.longest_positions:
            reason = f"the model was made for at most {model.longest_positions} tokens"
            raise ConfigError("max_model_len", config.max_model_len, reason)
        graph, encoder = model.build(), model.build_encoder()
        _check_task(config, reads_speech=encoder is not None)
        at_load = _quantization_at_load(config.quantization, checkpoint)
        weights = graph.weights if encoder is None else [*graph.weights, *encoder.weights]
        tensors = bind(weights, checkpoint, model.ignored)
        backend = backend_of(config, at_load)
        parts = [part for part in (graph, encoder) if part is not None]
        footprint, *more = [backend.footprint(part, tensors, config.dtype) for part in parts]
        usable = backend.usable_memory(config.gpu_memory_utilization)
        sizes = (model.max_positions, model.vocab_size, usable, backend.reserve)
        plan = plan_memory(config, footprint, *sizes, more[0] if more else None, model.source_positions)
        report("loading weights")
        executor = _load_weights(backend, graph, encoder, tensors, plan, config.dtype)
        text = tokenizer.result()
    if len(text) > model.vocab_size:
        reason = f"the tokenizer has {len(text)} tokens, the model {model.vocab_size}"
        raise ModelLoadError(path, "vocab_size", reason)
    said, said_by = _generation_config(config, path, checkpoint)
    files = (ConfigReader.of_file(checkpoint.config, file), ConfigReader.of_file(said, said_by))
    return LoadedModel(
        name=config.model or path.name,
        config=config,
        graph=graph,
        encoder=encoder,
        source_positions=model.source_positions,
        reader=readers[model.inputs](config, text, model.vocab_size, *files),
        footprint=footprint,
        plan=plan,
        executor=executor,
        tokenizer=text,
        chat_template=_chat_template(config, text),
        sampling_defaults=read_defaults(said, said_by, config.override_generation_config or {}),
        vocab_size=model.vocab_size,
        eos_token_ids=_eos_ids(text, files, model.vocab_size),
    )


def _load_weights(
    backend: Backend,
    graph: Graph,
    encoder: Graph | None,
    tensors: Mapping[str, StoredTensor],
    plan: MemoryPlan,
    dtype: str,
) -> Executor:
    sizes = {name: sum(array.nbytes for array in tensor.arrays) for name, tensor in tensors.items()}
    with loading_bar(sum(sizes.values())) as loaded:

        def release(name: str) -> None:
            forget_pages(tensors[name])
            loaded(sizes[name])

        return backend.executor(graph, tensors, plan, dtype=dtype, encoder=encoder, release=release)


def _check_task(config: EngineConfig, reads_speech: bool) -> None:
    if config.task in SPEECH_TASKS and not reads_speech:
        raise ConfigError("task", config.task, "this model reads text; leave it out, or load a Whisper model")
    if config.task == "generate" and reads_speech:
        raise ConfigError("task", config.task, "this model reads speech; say transcription, or leave it out")


def _quantization_at_load(wanted: str | None, checkpoint: Checkpoint) -> str | None:
    """What plain weights are to be quantized to: one of `AT_LOAD`, or None.

    Raises ConfigError where the weights are of another method than the user says, or are to be quantized again. Those
    of a GGUF file may be plain: of them, it is seen when layouts are chosen.
    """
    found = checkpoint.quantization
    if wanted is None or (found is not None and NAMES.get(wanted) == found):
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


def _load_tokenizer(config: EngineConfig, path: Path, checkpoint: Checkpoint) -> Tokenizer:
    """The model's tokenizer, or that of another model, which may be no more than its tokenizer's files."""
    from octavo.text import gguf_tokenizer, tokenizer_files

    if config.tokenizer is not None:
        path = resolve(config.tokenizer, cache_dir=config.download_dir)
        if path.is_dir() and not list(path.glob("*.gguf")):
            return tokenizer_files.read_tokenizer(path)
        checkpoint = open_model(path)
    if checkpoint.metadata is not None:
        return gguf_tokenizer.read_gguf_tokenizer(checkpoint.metadata, checkpoint.path)
    return tokenizer_files.read_tokenizer(path)


def _chat_template(config: EngineConfig, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template that the user gave, as a file or as itself, or the model's."""
    given = config.chat_template
    if given is None:
        source = tokenizer.chat_template
    elif "{" in given or "\n" in given:
        source = given
    else:
        source = read_text("chat_template", given)
    return None if source is None else ChatTemplate(source, tokenizer.special_tokens_map)


def _generation_config(config: EngineConfig, path: Path, checkpoint: Checkpoint) -> tuple[dict[str, Any], Path]:
    """What generation_config.json says, of the model or of another directory, and which file that is.

    A GGUF file says it in its metadata. Where neither gives sampling parameters, what the authors advise elsewhere is
    added, as far as it is known. "vllm" asks for none of all this.
    """
    if config.generation_config == "vllm":
        return {}, path
    directory = path if config.generation_config == "auto" else Path(config.generation_config).expanduser()
    file = directory / "generation_config.json"
    if config.generation_config != "auto":
        if not file.is_file():
            raise ConfigError("generation_config", config.generation_config, "has no generation_config.json")
        return read_json(file), file
    if checkpoint.metadata is not None:
        file, values = path, checkpoint.generation_config
    else:
        values = read_json(file) if file.is_file() else {}
    advised = advised_sampling(path)
    return (values if advised.keys() & values.keys() else {**values, **advised}), file


def _eos_ids(tokenizer: Tokenizer, readers: Iterable[ConfigReader], vocab_size: int) -> tuple[int, ...]:
    """All tokens that end a text: the tokenizer's, config.json's and generation_config.json's."""
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for reader in readers:
        is_list = isinstance(reader.values.get("eos_token_id"), list)
        if is_list:
            ids += reader.integers("eos_token_id", high=vocab_size - 1)
        elif reader.values.get("eos_token_id") is not None:
            ids.append(reader.integer("eos_token_id", low=0, high=vocab_size - 1))
    return tuple(dict.fromkeys(ids))
