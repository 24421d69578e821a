"""API keys: who may ask, and how much in a minute."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from octavo.errors import ConfigError
from octavo.option_files import read_yaml
from octavo.server.errors import KeyRejectedError, RateLimitError
from octavo.server.options import ServerConfig, check_key

MISSING = "no API key: send the header 'Authorization: Bearer KEY'"
WRONG = "this API key is not known"


class Allowance:
    """A token bucket: so many units a minute, refilled steadily; a debt has to be waited out."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._updated = time.monotonic()

    def wait(self) -> float:
        """Seconds until there is at least one unit; 0 if there is now."""
        now = time.monotonic()
        self._left = min(self.per_minute, self._left + (now - self._updated) * self.per_minute / 60)
        self._updated = now
        return max(0.0, (1 - self._left) * 60 / self.per_minute)

    def take(self, units: int) -> None:
        self._left -= units


class Client:
    """Who sends a request: the owner of a key, or anyone where there are no keys."""

    def __init__(self, name: str, requests_per_minute: int | None = None, tokens_per_minute: int | None = None):
        self.name = name
        self.owner = ""  # what is kept for it belongs to: a digest of the key
        self._limits = (requests_per_minute, tokens_per_minute)
        self._requests = None if requests_per_minute is None else Allowance(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Allowance(tokens_per_minute)

    def twin(self) -> Client:
        """Another client with the same limits, all of them unused."""
        return Client(self.name, *self._limits)

    def admit(self) -> None:
        """Takes one request. Raises RateLimitError if the minute's requests or tokens are used up."""
        for allowance, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if allowance is not None and (wait := allowance.wait()) > 0:
                raise RateLimitError(f"this key may use {allowance.per_minute} {what} per minute", retry_after=wait)
        if self._requests is not None:
            self._requests.take(1)

    def charge(self, tokens: int) -> None:
        """Takes tokens that were read or written, even if there were fewer left."""
        if self._tokens is not None:
            self._tokens.take(tokens)


class Keys:
    """All keys, as digests; without any, everyone may ask."""

    def __init__(self, clients: Iterable[tuple[str, Client]], anyone: Client):
        self._clients = [(_digest(key.encode()), client) for key, client in clients]
        for digest, client in self._clients:
            client.owner = digest.hex()
        self._anyone = anyone

    @property
    def required(self) -> bool:
        return bool(self._clients)

    def find(self, owner: str) -> Client | None:
        """The client of that `owner`; None of a key that is not known any more."""
        known = [client for _, client in self._clients] or [self._anyone]
        return next((client for client in known if client.owner == owner), None)

    def identify(self, authorization: bytes | None) -> Client:
        """The owner of an Authorization header's key. Raises KeyRejectedError.

        All keys are compared, in a time that does not depend on how much of one was right.
        """
        if not self._clients:
            return self._anyone
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not given:
            raise KeyRejectedError(MISSING, headers={"www-authenticate": "Bearer"})
        digest, found = _digest(given.strip()), None
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        if found is None:
            raise KeyRejectedError(WRONG, headers={"www-authenticate": "Bearer"})
        return found


def read_keys(config: ServerConfig) -> Keys:
    """The keys of the options and of the file. Raises ConfigError for a file that is none."""
    limits = {"requests_per_minute": config.requests_per_minute, "tokens_per_minute": config.tokens_per_minute}
    clients = [(key, Client(f"key-{number}", **limits)) for number, key in enumerate(dict.fromkeys(config.api_keys), 1)]
    if config.api_key_file is not None:
        owners = {key: client.name for key, client in clients}
        for name, entry in _read_file(config.api_key_file).items():
            key, client = _named(name, entry, limits, config.api_key_file)
            if key in owners:
                raise ConfigError("api_key_file", config.api_key_file, f"{owners[key]} and {client.name} have one key")
            owners[key] = client.name
            clients.append((key, client))
    return Keys(clients, Client("anyone", **limits))


def _read_file(file: str) -> dict[Any, Any]:
    entries = read_yaml("api_key_file", file)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError("api_key_file", file, "must have lines of the form NAME: KEY")
    return entries


def _named(name: Any, entry: Any, limits: dict[str, int | None], file: str) -> tuple[str, Client]:
    """One entry: a key, or {key, requests_per_minute, tokens_per_minute}."""
    fields = {"key": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not isinstance(fields.get("key"), str) or not fields["key"]:
        raise ConfigError("api_key_file", file, f"{str(name)[:40]} must be a key in quotes, or have an entry 'key'")
    if unknown := set(fields) - {"key", *limits}:
        raise ConfigError("api_key_file", file, f"{str(name)[:40]} has {sorted(map(str, unknown))}, which is not known")
    own = {limit: fields.get(limit, default) for limit, default in limits.items()}
    for limit, value in own.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError("api_key_file", file, f"{str(name)[:40]}: {limit} must be an integer of at least 1")
    check_key("api_key_file", file, fields["key"])
    return fields["key"], Client(str(name)[:40], **own)


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()
