"""The endpoints of a server: those that are asked for first, and the others, which are imported when there is time."""

from __future__ import annotations

import asyncio
import pkgutil
from importlib import import_module

from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from octavo.server import routers

# Every module of the folder is a family of endpoints, and has a router. That of chat comes first in the documentation.
FAMILIES = sorted((family.name for family in pkgutil.iter_modules(routers.__path__)), key=lambda name: name != "chat")
FIRST = ("chat", "completions", "health", "models")  # those that are there when a server is


def router_of(family: str) -> APIRouter:
    router = import_module(f"{routers.__name__}.{family}").router
    assert isinstance(router, APIRouter)
    return router


class Endpoints(FastAPI):
    """An application that is there before most of its endpoints are, as their models take long to import.

    The first request for anything else than the families of FIRST waits for the others.
    """

    def __init__(self) -> None:
        super().__init__(title="Octavo", docs_url=None, redoc_url=None, openapi_url=None)
        self.router.redirect_slashes = False
        self._completing = asyncio.Lock()
        self._is_complete = False
        for family in FIRST:
            self.include_router(router_of(family))
        self._first = list(self.router.routes)
        self._paths = {path for family in FIRST for path in paths_of(family) if "{" not in path}

    async def complete(self) -> None:
        """Has all families, in their order."""
        async with self._completing:
            if self._is_complete:
                return
            found = [await asyncio.to_thread(router_of, family) for family in FAMILIES]
            self.router.routes[:] = [route for route in self.router.routes if route not in self._first]
            for router in found:
                self.include_router(router)
            self._is_complete = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_complete and scope.get("path") not in self._paths:
            await self.complete()
        await super().__call__(scope, receive, send)


def paths_of(family: str) -> list[str]:
    """The patterns of its URLs."""
    return [path for route in router_of(family).routes if (path := getattr(route, "path", None))]
