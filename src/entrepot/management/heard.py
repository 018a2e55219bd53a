"""How long a client of the management listener may take to say what it wants: who says nothing holds no connection."""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S: Final = 30.0
"""For the whole head of a request, from the connection's beginning or the head's first byte."""
BODY_S: Final = 30.0
"""Between two parts of a body."""


class Heard(H11Protocol):
    """Closes connections on which the client owes bytes for too long. Between requests uvicorn's own time holds."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_S)

    def data_received(self, data: bytes) -> None:
        before = self.conn.their_state
        super().data_received(data)
        now = self.conn.their_state
        if now is h11.SEND_BODY:
            self._wait(BODY_S)
        elif now is not h11.IDLE:
            self._forget()
        elif self._late is None or before is not h11.IDLE:
            self._wait(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _wait(self, limit_s: float) -> None:
        self._forget()
        self._late = self.loop.call_later(limit_s, self._let_go)

    def _let_go(self) -> None:
        if self.flow.read_paused:  # it is we who do not take it now
            self._wait(BODY_S)
        else:
            self.transport.close()

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
