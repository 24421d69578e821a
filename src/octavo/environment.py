"""What vLLM's environment variables mean here. Octavo's own are read where they are used."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

from octavo.errors import ConfigError

logger = logging.getLogger("octavo")

LEVELS = ("debug", "info", "warning", "error", "critical")
# These ask for what Octavo does anyway: it reports no usage, and bits do not depend on the batch.
_SO_ANYWAY = {"VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "VLLM_BATCH_INVARIANT"}
_USED = {"VLLM_API_KEY", "VLLM_CPU_KVCACHE_SPACE", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_LOGGING_LEVEL"}
_USED |= {"VLLM_USE_MODELSCOPE", "VLLM_PLUGINS"}


def read_environment(on_cpu: bool) -> dict[str, Any]:
    """Options of the engine. Raises ConfigError, naming the variable."""
    log_level()
    space = _number("VLLM_CPU_KVCACHE_SPACE")
    return {"kv_cache_memory_bytes": int(space * 2**30)} if on_cpu and space else {}


def read_server_environment() -> dict[str, Any]:
    """Options of the server. Raises ConfigError, naming the variable."""
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    found = {
        "otlp_traces_endpoint": endpoint,
        "log_level": log_level(),
        "keep_alive_timeout": _number("VLLM_HTTP_TIMEOUT_KEEP_ALIVE"),
    }
    return {name: value for name, value in found.items() if value}


def asks_modelscope() -> bool:
    """Whether models without a source come from ModelScope's hub, not from Hugging Face's."""
    return os.environ.get("VLLM_USE_MODELSCOPE", "").strip().lower() in ("1", "true")


def log_level() -> str | None:
    """VLLM_LOGGING_LEVEL in lower case, None where it is not set."""
    said = os.environ.get("VLLM_LOGGING_LEVEL")
    if said and said.lower() not in LEVELS:
        raise ConfigError("VLLM_LOGGING_LEVEL", said, f"must be one of {', '.join(LEVELS)}")
    return said.lower() if said else None


def _number(name: str) -> float:
    """A variable's finite number, at least 0, which is also what an unset or empty one is."""
    said = os.environ.get(name)
    try:
        value = float(said or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < 2**30:
        raise ConfigError(name, said, "must be a number from 0 to 2**30")
    return value


@cache
def note_the_others() -> None:
    """Sets the level of the log, and notes the variables without a meaning, once in a process."""
    if (level := log_level()) and logger.level == logging.NOTSET:
        logger.setLevel(level.upper())
    names = sorted(name for name in os.environ if name.startswith("VLLM_") and name not in _USED | _SO_ANYWAY)
    if names:
        logger.warning("variables that mean nothing here are set: %s", ", ".join(names))
