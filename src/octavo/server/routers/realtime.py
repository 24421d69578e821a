"""WS /v1/realtime, and what other WebSockets get."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, WebSocket

from octavo.server.errors import HttpError, NotFoundError, UnavailableError
from octavo.server.protocol.realtime import Json
from octavo.server.realtime.session import Session
from octavo.server.state import ServerState

PATH = "/v1/realtime"
SUBPROTOCOL = "realtime"
INTENTS = (None, "", "conversation", "transcription")
router = APIRouter(tags=["realtime"])


@router.websocket(PATH)
async def open_session(websocket: WebSocket) -> None:
    """Writes down what is said, and answers messages, in the events of OpenAI's realtime API."""
    server: ServerState = websocket.app.state.server
    server.check_open()
    settings = await _settings(server, websocket.query_params.get("model"), websocket.query_params.get("intent"))
    if len(server.sessions) >= server.config.max_realtime_sessions:
        raise UnavailableError(f"{len(server.sessions)} sessions are open, which are the most", "too_many_sessions", 10)
    offered = websocket.scope["subprotocols"]
    await Session(server, websocket, settings).run(SUBPROTOCOL if SUBPROTOCOL in offered else None)


@router.get(PATH, include_in_schema=False)
async def refuse_request(request: Request) -> Response:
    headers = {"upgrade": "websocket", "connection": "upgrade"}
    reason = f"{PATH} is a WebSocket: connect with one, as the openai client's realtime.connect does"
    raise HttpError(reason, status=426, code="not_a_websocket", headers=headers)


@router.websocket("/{path:path}")
async def refuse_websocket(websocket: WebSocket) -> None:
    path = websocket.url.path[:200]
    raise NotFoundError(f"{path} is no WebSocket; there is one at {PATH}. Other endpoints are asked by HTTP requests")


async def _settings(server: ServerState, name: str | None, intent: str | None) -> Json:
    """What a session begins with. Raises HttpError."""
    if intent not in INTENTS:
        raise HttpError("intent: must be transcription or left out", "intent", code="invalid_value")
    model = await server.control.find(name) if name else None
    if model is not None:
        model.check_started()
    able = [model] if model is not None else list(server.models)
    if intent != "transcription" and any(each.can("text") for each in able):
        return {"type": "realtime", "model": model and server.models.find(name, "text").id}
    heard = {"model": model and server.models.find(name, "transcribe").id}
    return {"type": "transcription", "audio": {"input": {"transcription": heard}}}
