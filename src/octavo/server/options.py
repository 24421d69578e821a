"""What a server is made from, apart from its engines. Every limit has a finite default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.errors import ConfigError, ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model to serve: the engine's options, and the names that requests may call it."""

    options: Mapping[str, Any] = field(default_factory=dict)  # of EngineConfig; "model" is the reference
    names: tuple[str, ...] = ()  # the first is its id; without any, the reference
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  # shown in the list of models, and nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Addresses, keys, limits and times. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None  # a Unix socket instead of host and port
    root_path: str = ""  # what a proxy puts before every path
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0  # as in Python's ssl module: 0 none, 1 optional, 2 required
    allowed_origins: tuple[str, ...] = ()  # of web pages that may call the server; "*" is any
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None
    requests_per_minute: int | None = None  # of each key
    tokens_per_minute: int | None = None
    max_queued_requests: int = 256  # that wait for the engine, for each model
    max_queued_tokens: int = 1 << 18  # of their prompts
    max_body_bytes: int = 4 << 20
    max_audio_bytes: int = 256 << 20  # of a file with speech
    max_header_bytes: int = 64 << 10
    max_headers: int = 100
    max_prompts: int = 1024  # in one request
    request_timeout: float = 600.0  # from the request's arrival to the answer's last byte
    header_timeout: float = 30.0
    body_timeout: float = 60.0
    write_timeout: float = 30.0  # without the client reading anything
    keep_alive_timeout: float = 75.0  # a connection that is not used
    shutdown_timeout: float = 30.0
    response_role: str = "assistant"
    log_requests: bool = True
    log_stats: bool = True
    log_level: str = "info"
    log_format: str = "text"
    enable_docs: bool = True

    def __post_init__(self) -> None:
        sizes = ("max_body_bytes", "max_audio_bytes", "max_header_bytes", "max_headers")
        for name in ("max_queued_requests", "max_queued_tokens", *sizes):
            _at_least(name, getattr(self, name), 1)
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("request_timeout", "header_timeout", "body_timeout", "write_timeout", "keep_alive_timeout"):
            _at_least(name, getattr(self, name), 0.001)
        _at_least("shutdown_timeout", self.shutdown_timeout, 0)
        _at_least("max_prompts", self.max_prompts, 1)
        if not 0 <= self.port <= 65535:
            raise ConfigError("port", self.port, "must be in 0..65535; 0 takes a free one")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ConfigError("ssl_keyfile", self.ssl_keyfile, "needs ssl_certfile too")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError("root_path", self.root_path, "must begin with a slash and not end with one")

    def check_prompts(self, name: str, count: int) -> None:
        """Raises ParameterError for more prompts in one request than it may have; `name` is their field."""
        if count > self.max_prompts:
            raise ParameterError(name, count, f"at most {self.max_prompts} prompts (--max-prompts)")


def _at_least(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise ConfigError(name, value, f"must be at least {low}")
