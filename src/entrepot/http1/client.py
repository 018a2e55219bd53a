"""The upstream side of the engine: a keep-alive pool per endpoint, its time limits, the one retry that is safe here.

Knows nothing of models and providers; requests come as a method, a target, rendered header lines and a body.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from entrepot.http1.connect import Connector, Endpoint, authority, client_tls
from entrepot.http1.outbox import Outbox
from entrepot.http1.response import Fault, FaultKind, Response
from entrepot.http1.upstream import Connection, Names
from entrepot.http1.whole import WholeAnswers

if TYPE_CHECKING:
    import ssl

    from entrepot.resources.model import Timeouts

__all__ = ["Endpoint", "Fault", "FaultKind", "Pool", "Response", "client_tls"]

SWEEP_S: Final = 0.1
"""Time limits of running calls are judged this often, so one may pass this much late."""
IDLE_SWEEP_S: Final = 1.0
CLOSE_S: Final = 1.0
MAX_LINES: Final = 64


def _discard_unwanted(opening: asyncio.Task[Connection]) -> None:
    """A connection that was open just when nobody wanted it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().drop()


class Pool:
    """Connections to one endpoint: as many as there are calls, at most `max_idle` kept between calls, for `idle_s`.

    Time limits (seconds): `connect_s` for name, TCP, proxy and TLS together; `first_byte_s` from handing over the
    request to the whole head of the answer; `idle_s` between two reads of a body, standing still while the consumer
    pauses; `total_s` from `send` to the last byte. A connection carries one call at a time, and is kept only if the
    answer ended cleanly. For one event loop; not for several threads.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
        *,
        wanted: frozenset[str] | None = None,
        max_idle: int = 512,
        idle_s: float = 30.0,
    ) -> None:
        """`tls` is needed for https. `wanted`: the fields that answers keep, in lower case; None keeps all.

        Raises ValueError for an endpoint that cannot be, without repeating a password.
        """
        self.names = Names(wanted)
        self.whole = WholeAnswers(self.names)
        self._timeouts = timeouts
        self._first_byte_s, self._total_s = timeouts.first_byte_s, timeouts.total_s
        self._connector = Connector(endpoint, tls)
        self._max_idle = max_idle
        self._idle_s = idle_s
        self._idle: list[Connection] = []
        """The longest idle first; calls take the last, so that what is not needed grows old."""
        self._busy: set[Connection] = set()
        self._open: set[Connection] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.outbox: Outbox
        self._timer: asyncio.TimerHandle | None = None
        self._brisk = False
        self._drained: asyncio.Event | None = None
        self._lines: dict[tuple[str, str], bytes] = {}
        self._prefix = ""
        self._proxy_head = b""
        if self._connector.proxy is not None and endpoint.scheme == "http":
            self._prefix = f"http://{authority(endpoint.host, endpoint.port).removesuffix(':80')}"
            self._proxy_head = self._connector.proxy.authorization

    async def send(self, method: str, target: str, head: bytes, body: bytes) -> Response:
        """Send a request and return when the head of the answer is complete; interim answers are skipped.

        `head`: rendered lines, `host` among them, each ending in CRLF; Content-Length is added, and no other framing
        may be in it. `target` in origin form, percent-encoded. Raises Fault. If a kept connection turns out closed
        without a byte of answer, the request goes once more over a fresh one. Cancelling closes the connection.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
            self.outbox = Outbox(loop, self._busy)
        line = self._lines.get((method, target)) or self._line(method, target)
        request = b"%b%d\r\n%b\r\n%b" % (line, len(body), head, body)
        now = loop.time()
        total_by = now + self._total_s
        again = False
        while True:
            reused = bool(self._idle) and not again
            if reused:
                connection = self._idle.pop()
            else:
                connection = await self._connect(loop, total_by, sent=again)
                now = loop.time()
            connection.without_body = method == "HEAD"
            if not self._brisk:
                self._hasten(loop)
            self._busy.add(connection)
            response, waiter = connection.begin(request, now + self._first_byte_s, total_by)
            try:
                await waiter
            except BaseException:
                response.abort()
                raise
            failure = response._failure
            if failure is None:
                return response
            if not (reused and self._stale(connection, failure)):
                raise failure
            again = True

    def _stale(self, connection: Connection, failure: BaseException) -> bool:
        """The peer had closed, or was closing, a kept connection; had it begun to answer, it would not be so."""
        return isinstance(failure, Fault) and failure.kind == "cut" and connection.unheard and not self._closed

    def _line(self, method: str, target: str) -> bytes:
        """The request line and what always follows it, up to the length of the body; the same few over and over."""
        # INVARIANT: one request leaves, whatever a client put into the target.
        if not (target.isascii() and target.isprintable() and target.startswith("/")) or " " in target:
            raise ValueError("the request target is not in origin form or not percent-encoded")
        line = f"{method} {self._prefix}{target} HTTP/1.1\r\n".encode() + self._proxy_head + b"content-length: "
        if len(self._lines) >= MAX_LINES:
            self._lines.clear()
        self._lines[method, target] = line
        return line

    async def _connect(self, loop: asyncio.AbstractEventLoop, total_by: float, *, sent: bool) -> Connection:
        """A new connection. `sent`: of this call, bytes have left already, over another."""
        if self._closed:
            raise Fault("connect", "the pool is closed", sent=sent)
        limit_s = max(min(self._timeouts.connect_s, total_by - loop.time()), 0.0)
        try:
            # In a Task of its own: its time limits need one, and the caller may be a Run.
            opening = loop.create_task(self._connector.open(lambda: Connection(self, loop), limit_s))
            connection = await opening
        except Fault as fault:
            fault.sent = sent
            raise
        except asyncio.CancelledError:
            if not opening.cancel():
                opening.add_done_callback(_discard_unwanted)
            raise
        if self._late(connection):
            connection.drop()
            raise Fault("connect", "the connection was closed as soon as it was open", sent=sent)
        # Only now: of a connection whose opening is cancelled, uvloop may report the making and not the loss.
        self._open.add(connection)
        return connection

    def _late(self, connection: Connection) -> bool:
        """Closed while it was being opened, by either side."""
        return self._closed or connection.closed

    async def close(self) -> None:
        """Abort every call with Fault(cut) and close every connection. Idempotent; later calls fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._open:
            return
        self._drained = asyncio.Event()
        for connection in tuple(self._open):
            connection.fail(Fault("cut", "the pool was closed"))
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._drained.wait()
        except TimeoutError:
            # A TLS peer that does not answer close_notify; the transport's own limit ends it.
            return

    # What connections report

    def free(self, connection: Connection) -> None:
        """The connection is fit for another call."""
        self._busy.discard(connection)
        if len(self._idle) >= self._max_idle or self._closed:
            connection.discard()
        else:
            connection.idle_since = connection.loop.time()
            self._idle.append(connection)

    def leave(self, connection: Connection) -> None:
        """The connection begins to close."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""
        self._open.discard(connection)
        if self._drained is not None and not self._open:
            self._drained.set()

    # Time limits: one timer for all calls, none per call

    def _hasten(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._brisk = True
        self._timer = loop.call_later(SWEEP_S, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self._busy):
            if connection in self._busy:  # one that is failed wakes its call, and that may end others
                self._judge(connection, now)
        for connection in tuple(self._idle):
            if now - connection.idle_since < self._idle_s:
                break
            connection.discard()
        self._brisk = bool(self._busy)
        if self._brisk:
            self._timer = loop.call_later(SWEEP_S, self._sweep, loop)
        elif self._idle:
            self._timer = loop.call_later(min(IDLE_SWEEP_S, self._idle_s + SWEEP_S), self._sweep, loop)
        else:
            self._timer = None

    def _judge(self, connection: Connection, now: float) -> None:
        if now >= connection.total_by:
            connection.fail(Fault("total", f"the call took longer than {self._total_s:g} s"))
        elif not connection.head_done:
            if now >= connection.head_by:
                connection.fail(Fault("first_byte", f"no answer within {self._first_byte_s:g} s"))
        elif connection.heard or connection.stopped:
            connection.heard = False
            connection.heard_at = now
        elif now - connection.heard_at >= self._timeouts.idle_s:
            connection.fail(Fault("idle", f"nothing came for {self._timeouts.idle_s:g} s"))
