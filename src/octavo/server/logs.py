"""The server's log: one line for each event, as text or as JSON, on stderr."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from octavo.engine.driver import EngineStats

if TYPE_CHECKING:
    from octavo.server.state import ServerState

STATS_SECONDS = 5.0
OTHERS = {"asyncio": "error", "opentelemetry": "error"}  # whose warnings are of no use
logger = logging.getLogger("octavo.server")


class TextLines(logging.Formatter):
    """`12:34:56.789 INFO message key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        message = " ".join(record.getMessage().split())
        line = f"{clock}.{int(record.msecs):03d} {record.levelname} {message}{fields}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        line |= {"message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str, form: str) -> None:
    """Octavo's messages go to stderr in this form, and so do warnings of uvicorn and of Python."""
    logging.captureWarnings(True)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name, lowest in {"octavo": level, "uvicorn": "warning", "py.warnings": "warning", **OTHERS}.items():
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(lowest.upper())


class StatsLine:
    """Says how busy the engines were since the last line; nothing while they are idle."""

    def __init__(self, server: ServerState):
        self._server, self._began = server, time.monotonic()
        self._last = {model.id: (self._began, model.stats()) for model in server.models}

    def write(self) -> None:
        for model in self._server.models:
            then, before = self._last.get(model.id, (self._began, EngineStats()))
            now, stats = time.monotonic(), model.stats()
            self._last[model.id] = now, stats
            read = stats.prompt_tokens - before.prompt_tokens
            written = stats.output_tokens - before.output_tokens
            if not (read or written or stats.running or stats.waiting):
                continue
            looked_up = stats.prefix_queries - before.prefix_queries
            hits = (stats.prefix_hits - before.prefix_hits) / looked_up if looked_up else 0.0
            fields = {
                "prompt_tokens_per_s": round(read / (now - then), 1),
                "generation_tokens_per_s": round(written / (now - then), 1),
                "running": stats.running,
                "waiting": stats.waiting,
                "kv_cache_usage": f"{stats.block_usage:.1%}",
                "prefix_cache_hit_rate": f"{hits:.1%}",
            }
            logger.info("engine %s", model.id, extra={"fields": fields})
