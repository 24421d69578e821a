"""One connection that has become a WebSocket: uvicorn's protocol, closed where the client reads nothing."""

from __future__ import annotations

from asyncio import TimerHandle

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Pings keep it open, however long nobody says anything, and find a client that is gone."""

    _write_timer: TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client does not read: it may do so for a while."""
        super().pause_writing()
        limits = self.config.http.limits  # type: ignore[union-attr]
        self._write_timer = self.loop.call_later(limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
