"""What a folder of sentence-transformers says beside its transformer: modules.json, and the modules that it names."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import PICKLE_REFUSED, map_file, parse_json, read_json
from octavo.weights.head import ACTIVATIONS, Dense, Floats, Norm, Stage
from octavo.weights.safetensors import read_tensors

# How rows become one, by the names that are theirs, in the order in which several stand side by side; ours come second.
MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "max": "max",
    "max_tokens": "max",
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "weightedmean_tokens": "weighted_mean",
    "lasttoken": "last",
}
SPARSE = {  # of SPLADE, by strategy and activation
    ("max", "relu"): "splade_max",
    ("sum", "relu"): "splade_sum",
    ("max", "log1p_relu"): "splade_max_log",
    ("sum", "log1p_relu"): "splade_sum_log",
}
OF_TOKENS = "tokens"  # in place of a pooling: each token has a vector


@dataclass(frozen=True, slots=True)
class Modules:
    """What follows the transformer, and how texts are to be given to it."""

    pooling: str  # values of MODES joined by +, or one of SPARSE, or OF_TOKENS
    dense: tuple[Stage, ...] = ()  # what comes behind the pooling, or of each token
    normalizes: bool = False
    max_length: int | None = None  # in tokens
    prompts: Mapping[str, str] = field(default_factory=dict)  # what is put before a text, by what it is for
    default_prompt: str | None = None  # the name of one of them
    pools_prompts: bool = True  # their tokens count among the text's
    lowers_case: bool = False
    skipped_words: tuple[str, ...] = ()  # of documents, tokens whose vectors are left out
    markers: tuple[str, ...] = ()  # what PyLate puts before queries and documents, in their prompts

    @property
    def is_sparse(self) -> bool:
        """Whether the model's logits are pooled, with a column for each word."""
        return self.pooling in SPARSE.values()

    def for_task(self, task: str) -> Modules:
        """With the task's prompt alone, before every text: the adapters of others are not there."""
        return replace(self, prompts={task: self.prompts.get(task, "")}, default_prompt=task)


def read_modules(directory: Path) -> Modules | None:
    """None where there is no modules.json. Raises ModelLoadError, also for a module that is not known."""
    file = directory / "modules.json"
    if not file.is_file():
        return None
    entries = parse_json(map_file(file)[:], file, "file")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelLoadError(file, "file", "must be a list of objects")
    found = _Found(file)
    for i, entry in enumerate(entries):
        module = ConfigReader.of_file(entry, file, f"[{i}].")
        found.add(module.text("type").rsplit(".", 1)[-1], _inside(directory, module), module, is_first=i == 0)
    if not (found.pooling or found.stages):
        raise ModelLoadError(file, "type", "no module is a Pooling, which makes one vector of a text")
    file = directory / "config_sentence_transformers.json"
    about = ConfigReader.of_file(read_json(file) if file.is_file() else {}, file)
    max_length, lowers = _transformer(directory)
    modules = Modules(found.pooling or OF_TOKENS, tuple(found.stages), found.normalizes, max_length, *_prompts(about))
    modules = replace(modules, pools_prompts=found.pools_prompts, lowers_case=lowers)
    return modules if found.pooling else _late(modules, about, found.skipped)


class _Found:
    """The modules of a folder, one after the other."""

    def __init__(self, file: Path):
        self.file = file
        self.pooling = ""
        self.stages: list[Stage] = []
        self.normalizes = self.is_done = False
        self.pools_prompts = True
        self.skipped: tuple[str, ...] = ()

    def add(self, kind: str, place: Path, module: ConfigReader, *, is_first: bool) -> None:
        """Raises ModelLoadError for a module that is not known, or not there."""
        match kind:
            case "Transformer" | "MLMTransformer" if is_first:
                pass
            case "Pooling" if not (self.pooling or self.stages):
                self.pooling, self.pools_prompts = _pooling(place / "config.json")
            case "SpladePooling" if not (self.pooling or self.stages):
                self.pooling, self.is_done = _sparse(place / "config.json"), True
            case "Dense" if not (self.is_done or is_first):
                self.stages.append(_dense(place))
            case "LayerNorm" if self.pooling and not self.is_done:
                self.stages.append(_norm(place))
            case "Dropout" if not is_first:  # it does nothing outside of training
                pass
            case "Normalize" if self.pooling or self.stages:
                self.normalizes = self.is_done = True
            case "MultiVectorMask" if self.stages and not self.pooling:
                self.skipped = _skipped(place / "config.json")
            case _:
                order = "a Transformer, Pooling, any number of Dense, LayerNorm and Dropout, and Normalize"
                reason = f"{kind!r:.80} is not supported here; {order} are known, in this order"
                raise module.fail("type", f"{reason}, and those of SPLADE and ColBERT")


def _inside(directory: Path, module: ConfigReader) -> Path:
    place = directory / module.text("path", "")
    if not place.resolve().is_relative_to(directory.resolve()):
        raise module.fail("path", "leads out of the model's directory")
    return place


def _pooling(file: Path) -> tuple[str, bool]:
    """(values of MODES, whether tokens of prompts count)."""
    config = ConfigReader.of_file(read_json(file), file)
    said = config.values.get("pooling_mode")
    flags = {name: config.flag(f"pooling_mode_{name}") for name in MODES if f"pooling_mode_{name}" in config.values}
    names = [name for name, is_on in flags.items() if is_on] if said is None else said
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name in MODES for name in names):
        raise config.fail("pooling_mode", f"must be some of {', '.join(dict.fromkeys(MODES.values()))}, got {names}")
    return "+".join(MODES[name] for name in names), config.flag("include_prompt", True)


def _sparse(file: Path) -> str:
    config = ConfigReader.of_file(read_json(file), file)
    how = config.text("pooling_strategy", "max"), config.text("activation_function", "relu")
    if how not in SPARSE:
        raise config.fail(
            "pooling_strategy", f"{' of '.join(how)} is not known; max and sum, of relu and log1p_relu are"
        )
    return SPARSE[how]


def _dense(place: Path) -> Dense:
    file = place / "config.json"
    config = ConfigReader.of_file(read_json(file), file)
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh").rsplit(".", 1)[-1]
    if activation.lower() not in ACTIVATIONS:
        raise config.fail("activation_function", f"{activation} is not known; {', '.join(ACTIVATIONS)} are")
    if config.flag("use_residual"):
        raise config.fail("use_residual", "true is not supported: what goes in is not added to what comes out")
    shape = (config.integer("out_features"), config.integer("in_features"))
    wanted = {"linear.weight": shape} | ({"linear.bias": shape[:1]} if config.flag("bias", True) else {})
    values = _tensors(place, wanted)
    return Dense(values["linear.weight"], values.get("linear.bias"), activation.lower())


def _norm(place: Path) -> Norm:
    file = place / "config.json"
    shape = (ConfigReader.of_file(read_json(file), file).integer("dimension"),)
    values = _tensors(place, {"norm.weight": shape, "norm.bias": shape})
    return Norm(values["norm.weight"], values["norm.bias"])


def _tensors(place: Path, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    stored = place / "model.safetensors"
    if not stored.is_file() and (place / "pytorch_model.bin").is_file():
        raise ModelLoadError(place / "pytorch_model.bin", "file", PICKLE_REFUSED)
    tensors = read_tensors(stored)
    for name, size in wanted.items():
        if name not in tensors or tensors[name].shape != size:
            raise ModelLoadError(stored, name, f"must be there with shape {size}")
    return {name: tensors[name].values().astype(np.float32) for name in wanted}


def _skipped(file: Path) -> tuple[str, ...]:
    """Words whose tokens are left out of documents. Raises ModelLoadError for another choice of tokens."""
    config = ConfigReader.of_file(read_json(file), file) if file.is_file() else ConfigReader.of_file({}, file)
    if config.values.get("keep_only_token_ids"):
        raise config.fail("keep_only_token_ids", "is not supported")
    if config.values.get("skiplist_tasks", ["document"]) not in (None, "document", ["document"]):
        raise config.fail("skiplist_tasks", "only document is known")
    return _words(config)


def _words(config: ConfigReader) -> tuple[str, ...]:
    words = config.values.get("skiplist_words") or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise config.fail("skiplist_words", "must be a list of strings")
    return tuple(words)


def _prompts(config: ConfigReader) -> tuple[Mapping[str, str], str | None]:
    """(texts by name, the name of the default one)."""
    prompts = config.object("prompts")
    texts = {name: prompts.text(name) for name in prompts.values if prompts.values[name] is not None}
    default = config.text("default_prompt_name", "") or None
    if default is not None and default not in texts:
        raise config.fail("default_prompt_name", f"{default!r:.80} is none of the prompts: {', '.join(texts)}")
    return texts, default


def _late(modules: Modules, config: ConfigReader, skipped: tuple[str, ...]) -> Modules:
    """With what PyLate says of queries and documents, in a form that came before the library's own."""
    markers = {name: prefix for name in ("query", "document") if (prefix := config.text(f"{name}_prefix", ""))}
    own = {name: marker + modules.prompts.get(name, "").removeprefix(marker) for name, marker in markers.items()}
    if config.values.get("model_type") == "ColBERT":
        known = config.values.get("skiplist_words") is not None
        skipped = _words(config) if known else tuple(string.punctuation)
        modules = replace(modules, normalizes=True)
    prompts = {**modules.prompts, **own}
    return replace(modules, prompts=prompts, skipped_words=skipped, markers=tuple(markers.values()))


def _transformer(directory: Path) -> tuple[int | None, bool]:
    """(the longest text, whether texts become lower case)."""
    file = directory / "sentence_bert_config.json"
    if not file.is_file():
        return None, False
    config = ConfigReader.of_file(read_json(file), file)
    longest = None if config.values.get("max_seq_length") is None else config.integer("max_seq_length")
    return longest, config.flag("do_lower_case")


def read_logit_score(directory: Path) -> dict[str, Any]:
    """Of a reranker whose scores are logits of tokens (a LogitScore among its modules), that as config.json says it.

    Nothing for other folders. Raises ModelLoadError.
    """
    file = directory / "modules.json"
    entries = parse_json(map_file(file)[:], file, "file")
    for i, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict) and str(entry.get("type")).endswith(".LogitScore"):
            place = _inside(directory, ConfigReader.of_file(entry, file, f"[{i}].")) / "config.json"
            config = ConfigReader.of_file(read_json(place), place)
            names = ["false_token_id", "true_token_id"][config.values.get("false_token_id") is None :]
            method = "from_2_way_softmax" if len(names) == 2 else "no_post_processing"
            tokens = [config.integer(name, low=0) for name in names]
            return {"classifier_from_token": tokens, "method": method, "pair_form": "messages"}
    return {}
