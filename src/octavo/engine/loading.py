"""From a model reference to something that generates: resolve, plan memory, load, in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.config import EngineConfig
from octavo.engine.advice import plan_or_advise
from octavo.engine.defaults import read_defaults
from octavo.engine.inputs import PromptReader, ReaderFactory
from octavo.engine.memory import MemoryPlan
from octavo.engine.planning import PlannedModel, select_machine
from octavo.engine.pooler import Pooler
from octavo.errors import ConfigError, ModelLoadError
from octavo.executor.base import Executor, Footprint
from octavo.graph.builder import Graph
from octavo.models import open_model
from octavo.option_files import read_text
from octavo.request import Prompt
from octavo.sampling.processors import LoadedProcessors, LogitsProcessor, find_class, vllm_config
from octavo.sampling_params import SamplingParams
from octavo.structured.compiler import Grammars
from octavo.structured.params import grammar_of, read_params
from octavo.text.chat_template import ChatTemplate
from octavo.text.hf_tokenizer import HFTokenizer
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint, resolve
from octavo.weights.bind import forget_pages
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import read_json
from octavo.weights.known import advised_sampling, public_name
from octavo.weights.progress import loading_bar

if TYPE_CHECKING:
    from octavo.prefix_store.store import PrefixStore


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
    pooler: Pooler | None  # of a model that embeds or classifies; others generate
    sampling_defaults: dict[str, Any]  # of SamplingParams, as the model's authors advise
    vocab_size: int
    eos_token_ids: tuple[int, ...]  # the tokenizer's first
    grammars: Grammars  # for its tokens
    processors: LoadedProcessors | None = None  # of logits, that the user gave
    prefix_store: PrefixStore | None = None  # of its prefix cache, on disk

    @property
    def max_model_len(self) -> int:
        return self.plan.max_model_len

    def sampling_params(
        self, given: Mapping[str, Any] | None = None, neutral: Mapping[str, Any] | None = None
    ) -> SamplingParams:
        """What `given` says; else the model; else `neutral`; else the class's defaults. Raises ParameterError."""
        return SamplingParams(**{**(neutral or {}), **self.sampling_defaults, **(given or {})})

    def with_grammar(self, prompt: Prompt, params: SamplingParams) -> Prompt:
        """The prompt with the grammar that the parameters ask for, unless it has one. Raises GrammarError.

        That a grammar is compiled may take seconds.
        """
        asked = read_params("structured_outputs", params.structured_outputs)
        if asked is None or prompt.grammar is not None:
            return prompt
        grammar = grammar_of(asked, special=self.grammars.special_tokens)
        return prompt.extended(grammar=self.grammars.compile(grammar, "structured_outputs"))

    def hf_tokenizer(self) -> HFTokenizer:
        return HFTokenizer(self.tokenizer, self.chat_template, self.name, self.max_model_len)


def load(
    config: EngineConfig,
    readers: Mapping[str, ReaderFactory],
    report: Callable[[str], None] = lambda phase: None,
    usable: int | None = None,
) -> LoadedModel:
    """Raises ModelNotFoundError, ModelLoadError, MemoryPlanError or ConfigError. `report` is told what it does.

    `readers` are those of prompts, by what a declaration says that its model reads; `usable` are the bytes that it may
    take, by default its share of what is free.

    That the weights fit, and that they are those of the model, is known before any of them is read.
    """
    select_machine()
    processors = [find_class(one) for one in config.logits_processors]
    report("finding the model")
    path = resolve(config.model, revision=config.revision, cache_dir=config.download_dir)
    report("reading headers")
    checkpoint = open_model(path)
    with ThreadPoolExecutor(2) as other:  # the tokenizer's library parses without the GIL, as the weights are packed
        tokenizer = other.submit(_load_tokenizer, config, path, checkpoint)
        planned = plan_or_advise(config, checkpoint, usable)
        opening = other.submit(_open_store, config, planned)
        config = planned.config
        report("loading weights")
        executor = _load_weights(planned, config.dtype)
        text, prefix_store = tokenizer.result(), opening.result()
    model = planned.model
    if planned.pooler is not None and planned.pooler.lowers_case:
        text.lower_case()
    if len(text) > model.vocab_size:
        reason = f"the tokenizer has {len(text)} tokens, the model {model.vocab_size}"
        raise ModelLoadError(path, "vocab_size", reason)
    said, said_by = _generation_config(config, path, checkpoint)
    files = (ConfigReader.of_file(planned.checkpoint.config, planned.file), ConfigReader.of_file(said, said_by))
    eos_token_ids = _eos_ids(text, files, model.vocab_size)
    return LoadedModel(
        name=public_name(config.model or path.name),
        config=config,
        graph=planned.graph,
        encoder=planned.encoder,
        source_positions=model.source_positions,
        reader=readers[model.inputs](config, text, model.vocab_size, *files),
        footprint=planned.footprint,
        plan=planned.plan,
        executor=executor,
        tokenizer=text,
        chat_template=_chat_template(config, text),
        pooler=planned.pooler and planned.pooler.completed(text),
        sampling_defaults=read_defaults(said, said_by, config.override_generation_config or {}),
        vocab_size=model.vocab_size,
        eos_token_ids=eos_token_ids,
        grammars=Grammars(text, eos_token_ids),
        processors=_processors(processors, planned, path),
        prefix_store=prefix_store,
    )


def _open_store(config: EngineConfig, planned: PlannedModel) -> PrefixStore | None:
    if config.prefix_cache_dir is None:
        return None
    from octavo.engine.prefix_files import open_store

    return open_store(planned)


def _processors(classes: list[type[LogitsProcessor]], planned: PlannedModel, path: Path) -> LoadedProcessors | None:
    config = planned.config
    if not classes:
        return None
    if planned.pooler is not None:
        raise ConfigError("logits_processors", config.logits_processors, "this model draws no tokens")
    lengths = planned.plan.max_model_len, planned.model.vocab_size, config.max_num_seqs
    return LoadedProcessors(classes, vllm_config(public_name(config.model or path.name), *lengths))


def _load_weights(planned: PlannedModel, dtype: str) -> Executor:
    tensors = planned.tensors
    sizes = {name: sum(array.nbytes for array in tensor.arrays) for name, tensor in tensors.items()}
    with loading_bar(sum(sizes.values())) as loaded:

        def release(name: str) -> None:
            forget_pages(tensors[name])
            loaded(sizes[name])

        options = {"dtype": dtype, "encoder": planned.encoder, "release": release}
        return planned.backend.executor(planned.graph, tensors, planned.plan, **options)


def _load_tokenizer(config: EngineConfig, path: Path, checkpoint: Checkpoint) -> Tokenizer:
    """The model's tokenizer, or that of another model, which may be no more than its tokenizer's files."""
    of_files = False
    if config.tokenizer is not None:
        path = resolve(config.tokenizer, cache_dir=config.download_dir)
        of_files = path.is_dir() and not list(path.glob("*.gguf"))
        checkpoint = checkpoint if of_files else open_model(path)
    if checkpoint.metadata is None or of_files:
        from octavo.text.tokenizer_files import read_tokenizer

        return read_tokenizer(path)
    from octavo.text.gguf_tokenizer import read_gguf_tokenizer

    return read_gguf_tokenizer(checkpoint.metadata, checkpoint.path)


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
