"""Which architectures are known: those that modules of this package declare, and those that other packages add."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Generic, TypeVar

from octavo.errors import ConfigError, UnknownArchitectureError, nearest
from octavo.models.base import CausalLM
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import code_of

logger = logging.getLogger("octavo")

ADDED: dict[str, str | type[CausalLM]] = {}  # by other packages, by the names that config.json uses


Value = TypeVar("Value")


class ModelRegistry:
    """Architectures that other packages add, by the names that config.json uses; called as in vLLM."""

    @classmethod
    def register_model(cls, model_arch: str, model_cls: str | type[CausalLM]) -> None:
        """Makes `model_cls` what runs the architecture `model_arch`, in place of what ran it before.

        It is a declaration, a subclass of octavo.models.base.CausalLM, or "package.module:Class", which is imported
        when a checkpoint wants it. Raises ConfigError for anything else.
        """
        if isinstance(model_cls, str):
            module, _, name = model_cls.partition(":")
            if not all(part.isidentifier() for part in (*module.split("."), name)):
                raise ConfigError("model_cls", model_cls, "must be written as 'package.module:Class'")
        else:
            _check(model_arch, model_cls)
        if model_arch in cls.get_supported_archs():
            logger.warning("the architecture %s is declared anew: %s runs it from now on", model_arch, model_cls)
        ADDED[model_arch] = model_cls

    @classmethod
    def get_supported_archs(cls) -> Set[str]:
        """All names that are known."""
        return {name for model in _declared_here() for name in model.architectures} | ADDED.keys()


def declared(name: str) -> type[CausalLM] | None:
    """The class that declares an architecture. Raises ConfigError where that of another package can't be imported."""
    added = ADDED.get(name)
    if added is None:
        return next((model for model in _declared_here(name) if name in model.architectures), None)
    if not isinstance(added, str):
        return added
    module, _, attribute = added.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        reason = f"{name} is registered as this, which can't be imported: {type(error).__name__}: {error}"
        raise ConfigError("model_cls", added, reason) from error
    return _check(name, found)


def declarations() -> dict[type[CausalLM], tuple[str, ...]]:
    """Everything that declares an architecture, with its names. What can't be imported is left out, and said."""
    found: dict[type[CausalLM], tuple[str, ...]] = {}
    for model in _declared_here():
        if names := tuple(name for name in model.architectures if name not in ADDED):
            found[model] = names
    for model, names in _added():
        found[model] = (*found.get(model, ()), *names)
    return found


class ByName(Mapping[str, Value], Generic[Value]):
    """What declarations say under names, such as their GGUF families. `entries` reads them from a class and its names.

    Only the modules that a name needs are imported for it, and all of them for a name that nothing has.
    """

    def __init__(self, entries: Callable[[type[CausalLM], tuple[str, ...]], Mapping[str, Value]]):
        self._entries = entries

    def __getitem__(self, name: str) -> Value:
        own = ((model, model.architectures) for model in _declared_here(name))
        for model, names in chain(_added(), own):
            if name in (entries := self._entries(model, names)):
                return entries[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({name for entry in declarations().items() for name in self._entries(*entry)})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def declaration(config: Mapping[str, Any], file: str | os.PathLike[str]) -> type[CausalLM]:
    """The class that declares the architecture that `config` names; `file` is for the error."""
    names = config.get("architectures")
    names = names if isinstance(names, list) else [names]
    words = [name for name in names if isinstance(name, str)]
    for name in words:
        if (model := declared(name)) is not None:
            return model
    if not words:
        raise UnknownArchitectureError(file, "architectures", f"must name an architecture, got {names}")
    near = nearest(words[0], sorted(ModelRegistry.get_supported_archs()))
    code = code_of(config, "AutoModelForCausalLM")
    raise UnknownArchitectureError(file, "architectures", f"{names} is not known here; {near}{code}")


def load_declaration(
    config: Mapping[str, Any], file: str | os.PathLike[str], max_model_len: int | None = None
) -> CausalLM:
    """The model that `config` describes, ready to build its graph."""
    return declaration(config, file)(ConfigReader.of_file(config, file), max_model_len)


def _check(name: str, model: Any) -> type[CausalLM]:
    if isinstance(model, type) and issubclass(model, CausalLM):
        return model
    reason = f"declares no model: {name} needs a subclass of octavo.models.base.CausalLM, see docs/plugins.md"
    raise ConfigError("model_cls", getattr(model, "__qualname__", model), reason)


def _added() -> Iterator[tuple[type[CausalLM], tuple[str, ...]]]:
    """What other packages add. What can't be imported is left out, and said."""
    for name in ADDED:
        try:
            yield declared(name) or CausalLM, (name,)
        except ConfigError as error:
            logger.warning("%s", error)


def _declared_here(name: str = "") -> Iterator[type[CausalLM]]:
    """All classes of this package that name architectures; with a `name`, of modules whose text has it in quotes.

    Others are not imported, and those that begin as the name does are read first: a start has no time for all of them.
    """
    for module, file in sorted(_files().items(), key=lambda entry: entry[1].stem[:3] != str(name)[:3].lower()):
        if name and file.exists() and f'"{name}"' not in file.read_text("utf-8"):
            continue  # where a module has come without its text, it is imported
        for found in vars(import_module(module)).values():
            is_declared = isinstance(found, type) and issubclass(found, CausalLM) and found.__module__ == module
            if is_declared and found.architectures:
                yield found


@cache
def _files() -> dict[str, Path]:
    """The files of this package's modules, by their names."""
    root = Path(__file__).parent
    names = (module.name for module in walk_packages([str(root)], "octavo.models.") if not module.ispkg)
    return {name: root.joinpath(*name.split(".")[2:]).with_suffix(".py") for name in names}
