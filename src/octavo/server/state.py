"""What all endpoints of a running server share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from starlette.requests import Request

from octavo.errors import OctavoError
from octavo.server.background import BackgroundResponses
from octavo.server.batches.folder import DataFolder
from octavo.server.batches.runner import BatchRunner
from octavo.server.engine_room import EngineRoom
from octavo.server.errors import NotFoundError, UnavailableError
from octavo.server.keys import read_keys
from octavo.server.model_control import ModelControl
from octavo.server.models import ModelRegistry
from octavo.server.options import ServerConfig
from octavo.server.response_store import ResponseStore
from octavo.server.tracing import Tracer
from octavo.server.upload import UploadSpace

NO_FILES = "files and batches are not kept here: start the server with --data-dir DIR"


class ServerState:
    """The models, the keys, the metrics, and the requests that are being answered."""

    def __init__(self, config: ServerConfig, models: ModelRegistry):
        self.config, self.models = config, models
        self.control = ModelControl(models, config)
        self.keys = read_keys(config)
        self.http_answers: Counter[tuple[str, str, int]] = Counter()  # by method, path and status
        self.active: set[Callable[[OctavoError], None]] = set()  # each ends a request that is being answered
        self.num_posts = 0  # requests that were sent a body, from their first byte here to the last of the answer
        self.sessions: set[Callable[[], None]] = set()  # each ends a session when its work is done
        self.viewers: set[Callable[[], None]] = set()  # each ends a stream of the engine room, which no drain waits for
        self.uploads = UploadSpace(config.max_audio_bytes)
        self.responses = ResponseStore(config.response_store, config.max_stored_responses, config.max_stored_bytes)
        self.engine_room = EngineRoom(models)
        self.background = BackgroundResponses()
        self.draining = False
        self.tracer = None if config.otlp_traces_endpoint is None else Tracer(config.otlp_traces_endpoint)
        self._folder = self._batches = None
        if config.data_dir is not None:
            self._folder = DataFolder(config.data_dir, config.max_file_bytes)
            self._batches = BatchRunner(self._folder, self.keys, self._is_busy, config.batch_concurrency)

    @property
    def keeps_files(self) -> bool:
        return self._folder is not None

    @property
    def folder(self) -> DataFolder:
        """Raises NotFoundError where files and batches are not kept."""
        if self._folder is None:
            raise NotFoundError(NO_FILES, code="no_data_dir")
        return self._folder

    @property
    def batches(self) -> BatchRunner:
        """Raises NotFoundError where files and batches are not kept."""
        if self._batches is None:
            raise NotFoundError(NO_FILES, code="no_data_dir")
        return self._batches

    def _is_busy(self) -> bool:
        """Whether anyone but batches asks for something."""
        return any(model.queue.requests for model in self.models)

    @property
    def is_answering(self) -> bool:
        """Whether anyone waits for an answer: also of a request that is being read, and is not at the engine yet."""
        return bool(self.active or self.sessions or self.num_posts)

    def check_open(self) -> None:
        """Raises UnavailableError once the server is shutting down."""
        if self.draining:
            raise UnavailableError("the server is shutting down", "shutting_down", 5)

    async def close(self) -> None:
        """Writes down what goes on without a client, once everything was told to end."""
        await self.background.wait()
        self.responses.close()
        if self._folder is not None:
            await self.batches.close()
            self._folder.close()
        if self.tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.tracer.close)

    def unready(self) -> str | None:
        """Why requests should not be sent here now; None if they should."""
        if self.draining:
            return "shutting down"
        phases = [f"{model.short_name}: {model.phase}" for model in self.models if model.is_starting]
        return "; ".join(phases) or self.models.ailment()


def state_of(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state
