"""What a server is made from, apart from its engines. Every limit has a finite default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from octavo.errors import ConfigError

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")
MOST = 1 << 53  # the highest size or count
LONGEST = 366 * 86400  # the longest time, in seconds
_TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # HTTP's token, which "*" is too
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(\[[0-9a-fA-F:.]+\]|[^\s/\\\[\]:\"',]+)(:[0-9]{1,5})?")
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
_COUNTS = (
    *("requests_per_minute", "tokens_per_minute", "max_queued_requests", "max_queued_tokens", "max_prompts"),
    *("max_body_bytes", "max_audio_bytes", "max_file_bytes", "max_header_bytes", "max_headers"),
    *("max_stored_responses", "max_stored_bytes"),
    *("max_realtime_sessions", "batch_concurrency", "model_memory"),
)
_TIMES = (
    "request_timeout",
    "header_timeout",
    "body_timeout",
    "write_timeout",
    "keep_alive_timeout",
    "max_realtime_seconds",
    "model_ttl",
)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_COUNTS, (1, MOST)),
    **dict.fromkeys(_TIMES, (0.001, LONGEST)),
    "shutdown_timeout": (0, LONGEST),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model to serve: the engine's options, and the names that requests may call it."""

    options: Mapping[str, Any] = field(default_factory=dict)  # options of EngineConfig; "model" is the reference
    names: tuple[str, ...] = ()  # the first is the id; the reference is, if there are none
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  # shown in the list of models, and nothing else
    on_demand: bool = False  # loaded by the first request, and not at the start
    pin: bool = False  # never unloaded to make room, or because nobody asks
    ttl: float | None = None  # seconds without a request after which it is unloaded; None: the server's
    found: Path | None = None  # where it lies in the server's folder of models


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Addresses, keys, limits and times. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None  # a Unix socket instead of host and port
    root_path: str = ""  # the path that a proxy puts before every other
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0  # as in Python's ssl module: 0 none, 1 optional, 2 required
    allowed_origins: tuple[str, ...] = ()  # origins of web pages that may call the server; "*" is any
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    models_dir: str | None = None  # a folder of models, which are loaded on demand
    model_memory: int | None = None  # bytes that all models may take; None: a share of what is free
    model_ttl: float | None = None  # seconds without a request after which a model is unloaded; None: never
    pin: tuple[str, ...] = ()  # names of models that stay loaded
    model_control: bool = True  # whether requests may load, unload, reload models and put them to sleep
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None
    requests_per_minute: int | None = None  # the limit of each key
    tokens_per_minute: int | None = None
    max_queued_requests: int = 256  # so many requests may wait for each model
    max_queued_tokens: int = 1 << 18  # so many tokens of prompts may wait for each model
    max_body_bytes: int = 4 << 20
    max_audio_bytes: int = 256 << 20  # the longest file of speech
    max_file_bytes: int = 512 << 20  # the longest file that is kept
    max_header_bytes: int = 64 << 10
    max_headers: int = 100
    max_prompts: int = 1024  # the most prompts per request
    response_store: str | None = None  # the file of stored responses and conversations; None keeps them in memory
    max_stored_responses: int = 4096  # so many responses and conversations are kept
    max_stored_bytes: int = 128 << 20  # of their JSON
    max_realtime_sessions: int = 128
    max_realtime_seconds: float = 600.0  # of audio that one session may have waiting
    data_dir: str | None = None  # where files and batches are kept; without it there are none
    batch_concurrency: int = 16  # so many lines of batches run at once while nothing else does
    request_timeout: float = 600.0  # from the request's arrival to the answer's last byte
    header_timeout: float = 30.0
    body_timeout: float = 60.0
    write_timeout: float = 30.0  # the longest that a client may read nothing
    keep_alive_timeout: float = 75.0  # the longest that a connection may be unused
    shutdown_timeout: float = 30.0
    response_role: str = "assistant"
    log_requests: bool = True
    log_stats: bool = True
    log_level: str = "info"
    log_format: str = "text"
    otlp_traces_endpoint: str | None = None  # the URL of an OpenTelemetry collector
    enable_docs: bool = True
    ui: bool = True  # the page at /

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(name, value, f"must be in {low}..{high}")
        if not 0 <= self.port <= 65535:
            raise ConfigError("port", self.port, "must be in 0..65535; 0 takes a free one")
        if self.models_dir is not None and not _is_folder(self.models_dir):
            raise ConfigError("models_dir", self.models_dir, "is no folder; give one whose folders or .gguf are models")
        for name in ("ssl_keyfile", "ssl_ca_certs"):
            if getattr(self, name) is not None and self.ssl_certfile is None:
                raise ConfigError(name, getattr(self, name), "needs ssl_certfile too")
        if self.ssl_cert_reqs not in (0, 1, 2):
            raise ConfigError("ssl_cert_reqs", self.ssl_cert_reqs, "must be 0, 1 or 2")
        if self.ssl_cert_reqs and self.ssl_ca_certs is None:
            raise ConfigError("ssl_cert_reqs", self.ssl_cert_reqs, "needs ssl_ca_certs too")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError("root_path", self.root_path, "must begin with a slash and not end with one")
        self._check_texts()
        if self.otlp_traces_endpoint is not None:
            _check_collector(self.otlp_traces_endpoint)

    def _check_texts(self) -> None:
        for name in ("host", "response_role"):
            if not getattr(self, name).strip():
                raise ConfigError(name, getattr(self, name), "must not be empty")
        for name, known in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
            if getattr(self, name) not in known:
                raise ConfigError(name, getattr(self, name), f"must be one of {', '.join(known)}")
        for key in self.api_keys:
            check_key("api_key", "…" if key else "", key)
        forms = {
            "allowed_origins": (_ORIGIN, "must be * or like https://example.com, without a path"),
            "allowed_methods": (_TOKEN, "must be * or like GET"),
            "allowed_headers": (_TOKEN, "must be * or like content-type"),
        }
        for name, (form, reason) in forms.items():
            for value in getattr(self, name):
                if not isinstance(value, str) or not form.fullmatch(value):
                    raise ConfigError(name, value, reason)


def _is_folder(path: str) -> bool:
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # a path that is none
        return False


def check_key(option: str, value: str, key: str) -> None:
    """Raises ConfigError, which shows `value` and not `key`, for a key that no header can carry."""
    if not _KEY.fullmatch(key):
        raise ConfigError(option, value, "a key has 1 to 4096 printable ASCII characters, and no spaces")


def _check_collector(url: str) -> None:
    """Raises ConfigError for what is no URL of a collector."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https", "grpc", "grpcs") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(
            "otlp_traces_endpoint", url, "must be like http://localhost:4318/v1/traces or grpc://localhost:4317"
        )
