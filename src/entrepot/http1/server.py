"""The server side of the HTTP/1.1 engine: listeners, the tasks of handlers, and the orderly end.

It knows nothing of what is served: it is handed a handler, and how to render an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from entrepot.http1.clock import Clock
from entrepot.http1.connection import LINGER_S, Connection
from entrepot.http1.exchange import ENDED, Exchange
from entrepot.http1.head import HeadParser
from entrepot.http1.outbox import Outbox
from entrepot.http1.run import END, Run

if TYPE_CHECKING:
    import socket
    import ssl

    from entrepot.resources.model import Limits

__all__ = ["Exchange", "Handle", "RenderError", "Server"]

_log = logging.getLogger(__name__)

Handle = Callable[[Exchange], Coroutine[Any, Any, None]]
RenderError = Callable[[str, int, str], tuple[bytes, bytes]]
"""(path, empty if it could not be read; status; message) -> (rendered header lines, body)."""

_SETTLE_S = 1.0
"""What cancelled handlers get to settle in when a drain is over."""


class Observer(Protocol):
    """Is told of every connection, whether or not a request ever comes over it."""

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Server:
    """Serves any number of listening sockets. To be made and used inside a running event loop.

    A handler whose client is gone is cancelled. One that raises is answered for with 500, or cut if it had begun.
    Handlers are driven by `Run`, not by Tasks: see there what that asks of them.
    """

    def __init__(
        self, handle: Handle, render_error: RenderError, limits: Limits, observer: Observer | None = None
    ) -> None:
        self.limits = limits
        self.heads = HeadParser(limits)
        self.loop = asyncio.get_running_loop()
        self.clock = Clock(self.loop)
        self.draining = False
        self._handle = handle
        self._observer = observer
        self._render_error = render_error
        self._listeners: list[asyncio.Server] = []
        self._open: set[Connection] = set()
        self._running: dict[Exchange, Run] = {}
        self.outbox = Outbox(self.loop, self._running)
        self._quiet = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def running(self) -> int:
        """Handlers that have not come to their end, those included whose answer is complete."""
        return len(self._running)

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accepts on a bound socket, which belongs to the server from now on."""
        secure = tls is not None
        listener = await self.loop.create_server(
            lambda: Connection(self, secure),
            sock=sock,
            ssl=tls,
            backlog=2_048,
            ssl_handshake_timeout=self.limits.header_s if secure else None,
            ssl_shutdown_timeout=LINGER_S if secure else None,
        )
        self._listeners.append(listener)

    async def drain(self, timeout_s: float, rest_s: float = 0.0) -> None:
        """Stops accepting, closes idle connections, lets running exchanges finish, and cuts what is left then.

        What comes on idle connections within `rest_s` is answered, with `Connection: close`: a client may have sent it
        before it could know (RFC 9112 §9.6).
        """
        self.draining = True
        for listener in self._listeners:
            listener.close()
        if rest_s and await self._quiet_within(rest_s):
            self.clock.stop()
            return
        for connection in list(self._open):
            connection.drain()
        if not await self._quiet_within(timeout_s):
            for connection in list(self._open):
                connection.cut()
            for exchange in list(self._running):
                self.cancel(exchange)
            await self._quiet_within(_SETTLE_S)
        self.clock.stop()

    async def _quiet_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._open or self._running:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    # What connections call.

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._observer is not None:
            self._observer.opened(connection)

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._observer is not None:
            self._observer.closed(connection)
        if self.draining:
            self._quiet.set()

    def begin(self, exchange: Exchange) -> None:
        run = self._running[exchange] = Run(self._run(exchange))
        run.step()

    def cancel(self, exchange: Exchange) -> None:
        run = self._running.get(exchange)
        if run is not None:
            run.cancel()

    def render(self, path: str, status: int, message: str) -> tuple[bytes, bytes]:
        try:
            return self._render_error(path, status, message)
        except Exception:  # noqa: BLE001  # an edge: the client gets at least the status
            _log.exception("an error could not be rendered")
            return b"", b""

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._handle(exchange)
        except Exception:  # noqa: BLE001  # an edge: the other connections must survive
            _log.exception("a handler failed")
        finally:
            if exchange.state != ENDED and not exchange.gone:
                self._give_up(exchange)
            self._forget(exchange)
        await END

    def _forget(self, exchange: Exchange) -> None:
        self._running.pop(exchange, None)
        if self.draining:
            self._quiet.set()

    def _give_up(self, exchange: Exchange) -> None:
        if exchange.started:
            exchange.abort()
        else:
            head, body = self.render(exchange.request.path, 500, "the request could not be handled")
            exchange.respond(500, head, body)
