"""How a registry learns who asks: its challenge is answered with a token, or with the user's password.

Passwords are those that `docker login`, `podman login` and a cluster's pull secrets write into a config.json.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from octavo.errors import ModelNotFoundError
from octavo.weights.sources.http import StatusError, get_json, network, parse_json, request, shown

T = TypeVar("T")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_TIMEOUT = 10.0  # seconds for a token


class Login:
    """Answers the challenges of one registry for one repository."""

    def __init__(self, registry: str, repository: str):
        self._registry, self._repository = registry, repository
        self._header: dict[str, str] = {}
        self.advice = f"; log in with docker login or podman login {registry}, or set DOCKER_CONFIG"

    @contextmanager
    def authorized(self, ask: Callable[[dict[str, str]], AbstractContextManager[T]]) -> Iterator[T]:
        """What `ask` gives with headers that say who asks; asked once more if the registry wants to know."""
        with ExitStack() as stack:
            try:
                answer = stack.enter_context(ask(dict(self._header)))
            except StatusError as error:
                if error.status != 401:
                    raise
                self._header = header = self._answer(error)  # another thread may replace it meanwhile
                answer = stack.enter_context(ask(dict(header)))
            yield answer

    def read(self, url: str, headers: Mapping[str, str], timeout: float, longest: int) -> tuple[bytes, str]:
        """A short answer, and the digest that the registry says it has. Raises as `request`, ModelNotFoundError."""
        with self.authorized(lambda own: request(url, {**headers, **own}, timeout=timeout)) as response:
            with network(url):
                body = response.read(longest + 1)
            if len(body) > longest:
                raise ModelNotFoundError(f"{shown(url)} is longer than {longest} bytes")
            return body, response.headers.get("Docker-Content-Digest", "")

    def _answer(self, refused: StatusError) -> dict[str, str]:
        """The header that a challenge asks for. Raises StatusError if nothing is known that would do."""
        said = refused.headers.get("WWW-Authenticate", "")
        known = _stored(self._registry)
        basic = {"Authorization": f"Basic {known['auth']}"} if known.get("auth") else {}
        if said.lower().startswith("basic") and basic:
            return basic
        fields = dict(_PARAMETER.findall(said))
        if not said.lower().startswith("bearer") or "realm" not in fields:
            raise refused
        realm = fields["realm"]
        asked, wants = urlsplit(refused.url), urlsplit(realm)
        if wants.scheme not in ("http", "https") or (asked.scheme == "https" and wants.scheme != "https"):
            raise ModelNotFoundError(f"{self._registry} asks for a login at {shown(realm)}, which is not encrypted")
        about = {"service": fields.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        if known.get("identitytoken"):
            form = {"grant_type": "refresh_token", "refresh_token": known["identitytoken"], "client_id": "octavo"}
            data = urlencode({**about, **form}).encode()
            with request(realm, timeout=_TIMEOUT, data=data) as response, network(realm):
                answer = parse_json(response.read(), realm)
        else:
            answer = get_json(f"{realm}{'&' if wants.query else '?'}{urlencode(about)}", basic, timeout=_TIMEOUT)
        token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isprintable():
            raise ModelNotFoundError(f"{shown(realm)} gives no token")
        return {"Authorization": f"Bearer {token}"}


def _stored(registry: str) -> dict[str, str]:
    """What is known of a user at a registry: `auth` (base64 of user:password), `identitytoken`."""
    names = {registry, f"https://{registry}", f"https://{registry}/v1/", f"https://{registry}/v2/"}
    if registry == "docker.io":
        names |= {"index.docker.io", "https://index.docker.io/v1/"}
    for file in _config_files():
        try:
            auths: Any = json.loads(file.read_bytes()).get("auths", {})
            found = next((auths[name] for name in auths if name in names), None)
        except (OSError, ValueError, AttributeError, TypeError):
            continue
        if isinstance(found, dict):
            known = {key: value for key, value in found.items() if isinstance(value, str) and value.isprintable()}
            if "auth" not in known and {"username", "password"} <= known.keys():
                known["auth"] = base64.b64encode(f"{known['username']}:{known['password']}".encode()).decode()
            return known
    return {}


def _config_files() -> Iterator[Path]:
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    docker = os.environ.get("DOCKER_CONFIG")
    yield (Path(docker) if docker else Path.home() / ".docker") / "config.json"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
