"""A server's life: loading, serving, draining, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, cast

import uvicorn
import uvloop
from starlette.types import ASGIApp

from octavo.server.app import make_app, wrap
from octavo.server.connection import bounded
from octavo.server.errors import UnavailableError
from octavo.server.listener import BACKLOG, address, drop_new_connections
from octavo.server.logs import STATS_SECONDS, StatsLine
from octavo.server.middleware import Envelope
from octavo.server.options import ServerConfig
from octavo.server.state import ServerState
from octavo.server.threads import any_running

logger = logging.getLogger("octavo.server")
SWITCH_INTERVAL = 0.001  # a Python thread keeps another waiting for at most so many seconds
SAME_SIGNAL = 1.0  # a signal that comes again within so many seconds is the same one: `timeout` sends each twice
LATER_SECONDS = 1.0  # so long after it is ready, a server imports what it has not been asked for yet
LAST_SECONDS = 0.05  # so long a server that ends answers what has connected already
GRACE_SECONDS = 2.0  # error events are written within so many seconds when draining is over
QUESTION = "Why is the sky blue?"  # the example that a server logs: even a tiny model has something to say
MAX_MESSAGE = 16 << 20  # bytes of a message of a WebSocket
ENGINE_GIVEN_UP = 70  # exit code; a supervisor starts the process again


def serve(state: ServerState, listener: socket.socket, loaded: Future[None]) -> int:
    """Serves until a signal ends it, and returns the exit code. Raises what loading raised."""
    _allow_many_files()
    sys.setswitchinterval(SWITCH_INTERVAL)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(Lifecycle(state, listener).run(loaded))
    gc.unfreeze()
    if not loaded.done() or any_running():  # a model is being read by a thread that can't be interrupted
        logging.shutdown()
        os._exit(code)
    state.models.close()
    return code


class Lifecycle:
    """The life of a server, from the bound socket to the exit code."""

    def __init__(self, state: ServerState, listener: socket.socket):
        self._config, self._state, self._listener = state.config, state, listener
        self._app = make_app(state)
        self._server = _Server(_uvicorn_config(state.config, wrap(self._app, state)))
        self._tasks: set[asyncio.Task[None]] = set()
        self._code = 0
        self._signalled = 0.0  # when the first signal came

    async def run(self, loaded: Future[None]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        ready = asyncio.ensure_future(asyncio.wrap_future(loaded))
        ready.add_done_callback(self._on_loaded)
        self._begin(self._watch())
        self._begin(self._state.control.watch())
        ready.add_done_callback(lambda _: self._begin(self._state.control.refresh()))  # reads the headers of the others
        if self._state.keeps_files:
            self._state.batches.start(Envelope(self._app, self._state))  # a line has no key: its batch had
        await self._server.serve(sockets=[self._listener])
        await self._state.close()
        if self._config.uds is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._config.uds)
        if ready.done():
            ready.result()
        return self._code

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_loaded(self, ready: asyncio.Future[None]) -> None:
        if ready.cancelled() or ready.exception() is not None:
            self._server.should_exit = True
            return
        gc.freeze()  # what is there now stays: collections need not look at it
        gc.enable()
        self._begin(self._complete())
        where = address(self._config, self._listener)
        names = ", ".join(name for model in self._state.models for name in model.names)
        nothing = f"no model yet: {self._config.models_dir} has none"
        logger.info("ready: %s serves %s", where, names or nothing)
        if names:
            logger.info("try it: %s", curl_line(self._state, where))

    async def _complete(self) -> None:
        await asyncio.sleep(LATER_SECONDS)
        await self._app.complete()

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._state.draining:
            if now - self._signalled < SAME_SIGNAL:
                return
            logger.warning("second signal: ending now")
            logging.shutdown()
            os._exit(128 + number)
        self._state.draining, self._signalled = True, now
        waiting = len(self._state.active)
        logger.info("%s: not ready any more; %d requests may finish", signal.Signals(number).name, waiting)
        self._begin(self._drain())

    async def _drain(self) -> None:
        """Lets running requests finish, tells those that do not, and ends the server."""
        for leave in [*self._state.sessions, *self._state.viewers]:
            leave()
        if self._state.keeps_files:
            await self._state.batches.close()
        await self._wait_for_requests(self._config.shutdown_timeout)
        for fail in list(self._state.active):
            fail(UnavailableError("the server was shut down before this was finished", "shutting_down", 5))
        await self._wait_for_requests(GRACE_SECONDS)
        self._server.should_exit = True

    async def _wait_for_requests(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while self._state.is_answering and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        """Writes statistics, and ends a server whose engine was given up."""
        line = StatsLine(self._state)
        while True:
            await asyncio.sleep(STATS_SECONDS)
            if self._config.log_stats:
                line.write()
            if any(model.llm is not None and model.llm.driver.given_up for model in self._state.models):
                logger.critical("an engine was given up: the server ends with code %d", ENGINE_GIVEN_UP)
                self._code = ENGINE_GIVEN_UP
                self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's, without its handling of signals, and with answers for everyone who has connected when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            drop_new_connections(listener)
        await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)


def _uvicorn_config(config: ServerConfig, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded(config),
        ws=cast("type[asyncio.Protocol]", open_websocket),
        ws_max_size=MAX_MESSAGE,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(config.keep_alive_timeout),
        timeout_graceful_shutdown=int(GRACE_SECONDS),
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        ssl_ca_certs=config.ssl_ca_certs,
        ssl_cert_reqs=config.ssl_cert_reqs,
    )


def open_websocket(**arguments: Any) -> asyncio.Protocol:
    """The protocol of a connection that becomes a WebSocket; its library is imported for the first one."""
    from octavo.server.websocket import WebSocketConnection

    return WebSocketConnection(**arguments)


def curl_line(state: ServerState, where: str) -> str:
    """A command that gets an answer from this server."""
    models = list(state.models)
    model = next((model for model in models if model.is_ready), models[0])
    named = {} if len(models) == 1 else {"model": model.id}
    if model.can("embed") and not model.can("text"):
        path, content = "/v1/embeddings", _json({**named, "input": "Once upon a time"})
    elif model.can("transcribe") and not model.can("text"):
        path = "/v1/audio/transcriptions"
        content = "".join(f" -F {name}={value}" for name, value in {"file": "@audio.wav", **named}.items())
    elif model.llm is not None and model.llm.model.chat_template is not None:
        path, content = "/v1/chat/completions", _json({**named, "messages": [{"role": "user", "content": QUESTION}]})
    else:
        path, content = "/v1/completions", _json({**named, "prompt": "Once upon a time"})
    target = f"--unix-socket {where} http://localhost{path}" if state.config.uds else f"{where}{path}"
    insecure = "-k " if state.config.ssl_certfile else ""
    key = " -H 'Authorization: Bearer YOUR-KEY'" if state.keys.required else ""
    return f"curl {insecure}{target}{key}{content}"


def _json(body: dict[str, Any]) -> str:
    return f" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"


def _allow_many_files() -> None:
    """Every connection is a file descriptor: as many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard if hard > 0 else soft), hard))
