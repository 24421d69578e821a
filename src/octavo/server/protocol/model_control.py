"""What administrators say of a model: to load it, unload it, reload it, put it to sleep, wake it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from octavo.server.protocol.common import RequestModel


class LoadRequest(RequestModel):
    """Loads a model, or says that it is there."""

    wait: bool = Field(True, description="answer when it is loaded; otherwise at once, with status 202")


class UnloadRequest(RequestModel):
    """Unloads a model, whose requests may finish first."""

    force: bool = Field(False, description="end its requests with an error")


class SleepRequest(RequestModel):
    """Puts a model to sleep, whose requests may finish first; the next one wakes it."""

    level: Literal[1, 2] = Field(1, description="1 gives back the KV cache and keeps the weights; 2 gives back both")


class WakeRequest(RequestModel):
    """Wakes a model."""


class ReloadRequest(RequestModel):
    """Loads a model's files anew."""


class SleepQuery(RequestModel):
    """vLLM's way of saying how deep engines are to sleep."""

    level: Annotated[str, Field(pattern="^[12]$")] = Field("1", description="as in /v1/models/{id}/sleep")


class Sleeping(BaseModel):
    is_sleeping: bool


class Done(BaseModel):
    status: Literal["ok"]
