"""What a folder of sentence-transformers says beside its transformer: modules.json, and the modules that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import map_file, parse_json, read_json
from octavo.weights.head import ACTIVATIONS, Dense
from octavo.weights.safetensors import read_tensors

# How rows become one, by the names that are theirs; ours come second.
MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "max": "max",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "weightedmean_tokens": "weighted_mean",
    "lasttoken": "last",
}


@dataclass(frozen=True, slots=True)
class Modules:
    """What follows the transformer, and how texts are to be given to it."""

    pooling: str  # one of the values of MODES
    dense: tuple[Dense, ...] = ()
    normalizes: bool = False
    max_length: int | None = None  # in tokens
    prompts: Mapping[str, str] = field(default_factory=dict)  # what is put before a text, by what it is for
    default_prompt: str | None = None  # the name of one of them

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
    pooling, dense, normalizes = "", [], False
    for i, entry in enumerate(entries):
        module = ConfigReader.of_file(entry, file, f"[{i}].")
        place = _inside(directory, module)
        match module.text("type").rsplit(".", 1)[-1]:
            case "Transformer" if i == 0:
                continue
            case "Pooling" if not pooling:
                pooling = _pooling(place / "config.json")
            case "Dense" if pooling and not normalizes:
                dense.append(_dense(place))
            case "Normalize" if pooling:
                normalizes = True
            case kind:
                order = "a Transformer, Pooling, any number of Dense, and Normalize are known, in this order"
                raise module.fail("type", f"{kind!r:.80} is not supported here; {order}")
    if not pooling:
        raise ModelLoadError(file, "type", "no module is a Pooling, which makes one vector of a text")
    prompts, default = _prompts(directory / "config_sentence_transformers.json")
    return Modules(pooling, tuple(dense), normalizes, _max_length(directory), prompts, default)


def _inside(directory: Path, module: ConfigReader) -> Path:
    place = directory / module.text("path", "")
    if not place.resolve().is_relative_to(directory.resolve()):
        raise module.fail("path", "leads out of the model's directory")
    return place


def _pooling(file: Path) -> str:
    config = ConfigReader.of_file(read_json(file), file)
    if not config.flag("include_prompt", True):
        raise config.fail("include_prompt", "false is not supported: prompts are part of what is pooled")
    said = config.values.get("pooling_mode")
    flags = {name: config.flag(f"pooling_mode_{name}") for name in MODES if f"pooling_mode_{name}" in config.values}
    names = [said] if said is not None else [name for name, is_on in flags.items() if is_on]
    if len(names) != 1 or not isinstance(names[0], str) or names[0] not in MODES:
        raise config.fail("pooling_mode", f"must be one of {', '.join(dict.fromkeys(MODES.values()))}, got {names}")
    return MODES[names[0]]


def _dense(place: Path) -> Dense:
    file = place / "config.json"
    config = ConfigReader.of_file(read_json(file), file)
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh").rsplit(".", 1)[-1]
    if activation.lower() not in ACTIVATIONS:
        raise config.fail("activation_function", f"{activation} is not known; {', '.join(ACTIVATIONS)} are")
    stored, shape = place / "model.safetensors", (config.integer("out_features"), config.integer("in_features"))
    tensors = read_tensors(stored)
    wanted = {"linear.weight": shape} | ({"linear.bias": shape[:1]} if config.flag("bias", True) else {})
    for name, size in wanted.items():
        if name not in tensors or tensors[name].shape != size:
            raise ModelLoadError(stored, name, f"must be there with shape {size}")
    values = {name: tensors[name].values().astype(np.float32) for name in wanted}
    return Dense(values["linear.weight"], values.get("linear.bias"), activation.lower())


def _prompts(file: Path) -> tuple[Mapping[str, str], str | None]:
    if not file.is_file():
        return {}, None
    config = ConfigReader.of_file(read_json(file), file)
    prompts = config.object("prompts")
    texts = {name: prompts.text(name) for name in prompts.values if prompts.values[name] is not None}
    default = config.text("default_prompt_name", "") or None
    if default is not None and default not in texts:
        raise config.fail("default_prompt_name", f"{default!r:.80} is none of the prompts: {', '.join(texts)}")
    return texts, default


def _max_length(directory: Path) -> int | None:
    file = directory / "sentence_bert_config.json"
    if not file.is_file():
        return None
    config = ConfigReader.of_file(read_json(file), file)
    if config.flag("do_lower_case"):
        raise config.fail("do_lower_case", "true is not supported here; a tokenizer may do it")
    return None if config.values.get("max_seq_length") is None else config.integer("max_seq_length")
