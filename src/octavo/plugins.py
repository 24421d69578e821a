"""Packages that add architectures, rules on logits or weight formats: the entry points of the group octavo.plugins.

An entry point is a function without arguments, which is called once, before a model is looked for. What it may do is
on docs/plugins.md.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "octavo.plugins"
VARIABLES = ("OCTAVO_PLUGINS", "VLLM_PLUGINS")  # names between commas; without them, all plugins are loaded

logger = logging.getLogger("octavo")


@cache
def load_plugins() -> tuple[str, ...]:
    """Loads the plugins that the environment asks for, and returns their names.

    Raises ConfigError for one that OCTAVO_PLUGINS names and that is not there, or fails. Others that fail are logged,
    in one line, and left out.
    """
    found = {plugin.name: plugin for plugin in _entry_points()}
    own = os.environ.get("OCTAVO_PLUGINS")
    said = own if own is not None else os.environ.get("VLLM_PLUGINS")
    wanted = [*found] if said is None else [name.strip() for name in said.split(",") if name.strip()]
    loaded = []
    for name in wanted:
        if name not in found:
            if own is None:
                continue  # vLLM has plugins of its own
            raise ConfigError("OCTAVO_PLUGINS", own, f"no package has a plugin {name}{did_you_mean(name, found)}")
        try:
            found[name].load()()
        except Exception as error:
            message = f"the plugin {name} of {_package(found[name])} failed: {type(error).__name__}: {error}"
            if own is not None:
                raise ConfigError("OCTAVO_PLUGINS", own, message) from error
            logger.warning("%s; it is left out", message)
        else:
            loaded.append(name)
    return tuple(loaded)


def _entry_points() -> Iterable[EntryPoint]:
    """The entry points of the group. To import what reads them takes longer than to see that there are none."""
    if not any(_may_have_some(folder) for folder in sys.path):
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _may_have_some(folder: str) -> bool:
    """Whether packages in a folder of sys.path may have entry points of the group."""
    try:
        names = os.listdir(folder or ".")
    except NotADirectoryError:
        return True  # packages in a zip file
    except OSError:
        return False
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            with suppress(OSError):
                if GROUP.encode() in Path(folder, name, "entry_points.txt").read_bytes():
                    return True
    return False


def _package(plugin: EntryPoint) -> str:
    return f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.value
