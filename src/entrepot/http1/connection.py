"""One client's connection: reads requests one after the other, hands each to the server, and keeps the time limits.

While an answer runs it goes on reading, because neither event loop reports a closed client while reading is paused.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from entrepot.http1.chunked import ChunkedBody
from entrepot.http1.clock import NEVER
from entrepot.http1.exchange import Exchange
from entrepot.http1.head import CHUNKED, Head, RequestError
from entrepot.http1.message import Request, status_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrepot.http1.server import Server

HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
PIPELINE_BYTES: Final = 64 * 1024
"""What a client may send ahead while an answer runs."""
LINGER_S: Final = 2.0
"""How long a refused client may go on sending; closing at once would reset the connection and lose the answer."""

_HEAD: Final = 0
_BODY: Final = 1
_BUSY: Final = 2
_LINGERING: Final = 3
_CLOSING: Final = 4


class Connection(asyncio.Protocol):
    """The states follow each other: head, body, busy, head …; lingering and closing are final."""

    __slots__ = (
        "_backlog",
        "_buffer",
        "_chunked",
        "_exchange",
        "_head",
        "_pause",
        "_paused",
        "_peer",
        "_resume",
        "_seen",
        "_state",
        "_transport",
        "_write",
        "deadline",
        "secure",
        "server",
        "slot",
    )

    def __init__(self, server: Server, secure: bool) -> None:
        self.server = server
        self.secure = secure
        self.deadline = NEVER
        self.slot = 0
        self._transport: asyncio.Transport
        self._write: Callable[[bytes], None]
        self._peer = ""
        self._state = _HEAD
        self._buffer: bytes | bytearray = b""
        """What has been received and not used. INVARIANT: bounded by the limit of the state."""
        self._seen = 0
        """Octets of an unfinished head that were checked."""
        self._head: Head | None = None
        self._chunked: ChunkedBody | None = None
        self._exchange: Exchange | None = None
        self._paused = False
        self._backlog = 0
        """While writing is paused: the least that was unsent, to tell a slow reader from a dead one."""
        self._pause: Callable[[], None] | None = None
        self._resume: Callable[[], None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        self._write = transport.write
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = address[0].partition("%")[0]
        self.server.opened(self)
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.idle_s)

    def data_received(self, data: bytes) -> None:
        if self._state >= _LINGERING:
            return
        buffer = self._buffer
        if not buffer:
            self._buffer = data
        elif isinstance(buffer, bytearray):
            buffer += data
        else:
            self._buffer = bytearray(buffer) + data
        self._advance()

    def eof_received(self) -> None:
        # The loop closes the transport after this, unsent octets first; nobody waits for the rest of an answer.
        if self._state == _BUSY:
            self._transport.abort()
            self._lose()
        self._state = _CLOSING
        self._watch_closing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._state = _CLOSING
        self._lose()
        self._buffer = b""
        self._head = self._chunked = self._pause = self._resume = None
        self.server.clock.forget(self)
        self.server.closed(self)

    def pause_writing(self) -> None:
        self._paused = True
        self._backlog = self._transport.get_write_buffer_size()
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.write_stall_s)
        if self._pause is not None:
            self._pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._resume is not None:
            self._resume()
        if self._state == _HEAD:
            self._rest()
        elif self._state == _BUSY:
            self.deadline = NEVER

    def expire(self) -> None:
        """The clock: a time limit was reached."""
        unsent = self._transport.get_write_buffer_size()
        if self._state == _LINGERING:
            self._close()
        elif self._paused or self._state == _CLOSING:
            if unsent < self._backlog:
                self._backlog = unsent
                self.server.clock.watch(self, self.server.clock.now + self.server.limits.write_stall_s)
            else:
                self.cut()
        elif self._state == _BODY:
            assert self._head is not None
            self._refuse(RequestError(408, "the request body did not arrive in time", self._head.path))
        elif self._buffer:
            self._refuse(RequestError(408, "the request head did not arrive in time"))
        elif unsent:
            self.cut()
        else:
            self._close()

    # What exchanges and the server call.

    def send(self, data: bytes) -> None:
        if self._paused:
            self._backlog += len(data)
        self._write(data)

    def answered(self, keep: bool) -> None:
        """The answer has been handed over; the next request may be read."""
        self._exchange = self._pause = self._resume = None
        if not keep:
            self._close()
            return
        self._state = _HEAD
        if not self._paused:
            self._rest()

    def flow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        if self._paused:
            pause()

    def cut(self) -> None:
        """Closes with a reset: a connection that only ends would look like the end of an HTTP/1.0 answer."""
        self._state = _CLOSING
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def drain(self) -> None:
        """Closes if nothing has been asked."""
        if self._state == _HEAD and not self._buffer:
            self._close()

    # Reading.

    def _advance(self) -> None:
        """Goes on with what has been received, as far as that leads. Does nothing if called once too often."""
        if self._state == _HEAD and not self._paused:
            self._read_head()
        elif self._state == _BODY:
            self._read_body()
        elif len(self._buffer) > PIPELINE_BYTES:
            self.cut()
            self._lose()

    def _read_head(self) -> None:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(self._seen - 3, 0)) + 4
        heads = self.server.heads
        try:
            if end == 3:
                heads.check_part(buffer, self._seen)
                if not self._seen:
                    self.server.clock.watch(self, self.server.clock.now + self.server.limits.header_s)
                self._seen = len(buffer)
                return
            head = heads.parse(bytes(buffer[:end]))
        except RequestError as refusal:
            self._refuse(refusal)
            return
        self._seen = 0
        self._buffer = rest = buffer[end:]
        if not head.length:
            self._begin(head, b"")
            return
        self._head = head
        if head.length == CHUNKED:
            self._chunked = ChunkedBody(self.server.limits.body_bytes, head.path)
        elif len(rest) >= head.length:
            self._read_body()
            return
        self._state = _BODY
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.body_s)
        if rest:
            self._read_body()
        elif head.expects:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self) -> None:
        head = self._head
        assert head is not None
        buffer = self._buffer
        if self._chunked is not None:
            try:
                complete, used = self._chunked.feed(buffer)
            except RequestError as refusal:
                self._refuse(refusal)
                return
            self._buffer = buffer[used:]
            if complete:
                body = self._chunked.body
                self._chunked = None
                self._begin(head, body)
        elif len(buffer) >= head.length:
            with memoryview(buffer) as view:
                body = bytes(view[: head.length])
            self._buffer = buffer[head.length :]
            self._begin(head, body)

    def _begin(self, head: Head, body: bytes) -> None:
        self._state = _BUSY
        self._head = None
        self.deadline = NEVER
        request = Request(head.method, head.path, head.query, head.headers, body, self._peer, self.secure)
        exchange = self._exchange = Exchange(request, head, self)
        self.server.begin(exchange)
        if len(self._buffer) > PIPELINE_BYTES:
            self.cut()
            self._lose()

    # Between and after requests.

    def _rest(self) -> None:
        """Waits for the next request, or goes on with one that has come already."""
        clock = self.server.clock
        self.deadline = deadline = clock.now + self.server.limits.idle_s
        if not self.slot:
            clock.watch(self, deadline)
        if self._buffer:
            self.server.loop.call_soon(self._advance)

    def _refuse(self, refusal: RequestError) -> None:
        """Answers what cannot be served, and closes once the client has had the time to read that."""
        head, body = self.server.render(refusal.path, refusal.status, refusal.message)
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self._state = _LINGERING
        self._buffer = b""
        self._head = self._chunked = None
        self._write(b"".join((status_line(refusal.status), self.server.clock.date, head, length, body)))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.server.clock.watch(self, self.server.clock.now + LINGER_S)

    def _close(self) -> None:
        """Closes once everything is sent."""
        self._state = _CLOSING
        self._buffer = b""
        self._transport.close()
        self._watch_closing()

    def _watch_closing(self) -> None:
        self._backlog = self._transport.get_write_buffer_size()
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.write_stall_s)

    def _lose(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            exchange.lose()
            self.server.cancel(exchange)
