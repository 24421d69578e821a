"""Packages that add architectures, rules on logits or weight formats: the entry points of the group octavo.plugins.

An entry point is a function without arguments, which is called once, before a model is looked for. What it may do is
on docs/plugins.md.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from octavo.errors import ConfigError, did_you_mean

GROUP = "octavo.plugins"
VARIABLES = ("OCTAVO_PLUGINS", "VLLM_PLUGINS")  # names between commas; without them, all plugins are loaded

logger = logging.getLogger("octavo")


@cache
def load_plugins() -> tuple[str, ...]:
    """Loads the plugins that the environment asks for, and returns their names.

    Raises ConfigError for one that OCTAVO_PLUGINS names and that is not there, or fails. Others that fail are logged,
    in one line, and left out.
    """
    found = {plugin.name: plugin for plugin in entry_points(group=GROUP)}
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


def _package(plugin: EntryPoint) -> str:
    return f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.value
