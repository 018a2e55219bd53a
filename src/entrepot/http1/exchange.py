"""One request and the way to answer it: what a handler holds. How octets reach the socket is the connection's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from entrepot.http1.message import status_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrepot.http1.connection import Connection
    from entrepot.http1.head import Incoming

NEW: Final = 0
STREAMING: Final = 1
ENDED: Final = 2

_CLOSE: Final = b"connection: close\r\n\r\n"
_KEEP: Final = b"connection: keep-alive\r\n\r\n"
_END: Final = b"\r\n"


class Exchange:
    """Answer either with one `respond`, or with `start`, any number of `write`, and `finish`.

    Nothing here waits. Once the client is gone, all of it does nothing; the handler's task is being cancelled then.
    A call out of order is a RuntimeError.
    """

    __slots__ = ("_chunked", "_connection", "_empty", "request", "started", "state")

    def __init__(self, request: Incoming, connection: Connection) -> None:
        self.request = request
        self.started = False
        """A status line has been handed to the transport."""
        self._connection: Connection | None = connection
        self.state = NEW
        self._chunked = False
        self._empty = False

    @property
    def gone(self) -> bool:
        """The client is."""
        return self._connection is None and self.state != ENDED

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """The whole answer. `head` is rendered lines, each with its CRLF; Content-Length and Date are added."""
        if self.state != NEW:
            raise RuntimeError("the exchange has been answered already")
        self.state = ENDED
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        self.started = True
        request = self.request
        keep = request.persistent and not connection.server.draining
        options = (_KEEP if request.http10 else _END) if keep else _CLOSE
        date = connection.server.clock.date
        if status == 204 or status == 304:  # noqa: PLR1714  # twice as fast as `in`
            answer = b"".join((status_line(status), date, head, options))
        else:
            size = b"content-length: %d\r\n" % len(body)
            if request.method == "HEAD":
                body = b""
            answer = b"".join((status_line(status), date, head, size, options, body))
        connection.write(answer)
        connection.answered(keep)

    def start(self, status: int, head: bytes) -> None:
        """Begins a chunked answer; to a client of HTTP/1.0 it ends with the connection instead."""
        if self.state != NEW:
            raise RuntimeError("the exchange has been answered already")
        self.state = STREAMING
        connection = self._connection
        if connection is None:
            return
        self.started = True
        request = self.request
        self._empty = request.method == "HEAD" or status in (204, 304)
        self._chunked = not request.http10
        if connection.server.draining or (request.http10 and not self._empty):
            request.persistent = False
        options = (_KEEP if request.http10 else _END) if request.persistent else _CLOSE
        coding = b"transfer-encoding: chunked\r\n" if self._chunked and status not in (204, 304) else b""
        connection.send(b"".join((status_line(status), connection.server.clock.date, head, coding, options)))

    def write(self, data: bytes) -> None:
        """One chunk. Nothing for no data."""
        if self.state != STREAMING:
            raise RuntimeError("the exchange has no answer in progress")
        connection = self._connection
        if connection is None or self._empty or not data:
            return
        connection.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """Ends a chunked answer."""
        if self.state != STREAMING:
            raise RuntimeError("the exchange has no answer in progress")
        self.state = ENDED
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        if self._chunked and not self._empty:
            connection.send(b"0\r\n\r\n")
        connection.answered(self.request.persistent and not connection.server.draining)

    def abort(self) -> None:
        """Ends so that the client sees an incomplete answer. Harmless after the end.

        What was written still goes out if its framing shows that more was to come; otherwise the connection is reset.
        """
        self.state = ENDED
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.break_off(self._chunked and not self._empty)

    def flow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """`pause` is called when the client reads too slowly, `resume` when it caught up; at once if it is so now."""
        connection = self._connection
        if connection is not None:
            connection.flow(pause, resume)

    def lose(self) -> None:
        """For the connection: the client is gone."""
        self._connection = None
