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
from entrepot.http1.head import CHUNKED, Incoming, RequestError
from entrepot.http1.message import status_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrepot.http1.server import Server

HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
PIPELINE_BYTES: Final = 64 * 1024
"""What a client may send ahead while an answer runs."""
LINGER_S: Final = 2.0
"""How long a client may go on sending after the last answer (RFC 9112 §9.6)."""

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_BUSY: Final = 3
_LINGERING: Final = 4
_CLOSING: Final = 5


class Connection(asyncio.Protocol):
    """The states follow each other: idle, head, body, busy, idle …; lingering and closing are final."""

    __slots__ = (
        "_buffer",
        "_chunked",
        "_exchange",
        "_pause",
        "_peer",
        "_request",
        "_resume",
        "_seen",
        "_state",
        "_transport",
        "_unsent",
        "backlog",
        "deadline",
        "paused",
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
        self._unsent = b""
        """What goes to the transport at the end of this turn of the loop."""
        self._peer = ""
        self._state = _IDLE
        self._buffer: bytes | bytearray = b""
        """What has been received and not used. INVARIANT: bounded by the limit of the state."""
        self._seen = 0
        """Octets of an unfinished head that were checked."""
        self._request: Incoming | None = None
        self._chunked: ChunkedBody | None = None
        self._exchange: Exchange | None = None
        self.paused = False
        self.backlog = 0
        """While writing is paused: the least that was unsent, to tell a slow reader from a dead one."""
        self._pause: Callable[[], None] | None = None
        self._resume: Callable[[], None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = address[0].partition("%")[0]
        self.server.opened(self)
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.idle_s)

    def data_received(self, data: bytes) -> None:
        if self._state == _IDLE and not self._buffer and not self.paused:
            self._read_head(data)
        elif self._state < _LINGERING:
            buffer = self._buffer
            if not isinstance(buffer, bytearray):
                buffer = self._buffer = bytearray(buffer)
            buffer += data
            self._advance()

    def eof_received(self) -> None:
        # The loop closes the transport after this, unsent octets first; nobody waits for the rest of an answer.
        self.flush()
        if self._state == _BUSY:
            self._transport.abort()
            self._lose()
        self._state = _CLOSING
        self._watch_closing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._state = _CLOSING
        self._unsent = b""
        self._lose()
        self._buffer = b""
        self._request = self._chunked = self._pause = self._resume = None
        self.server.clock.forget(self)
        self.server.closed(self)

    def pause_writing(self) -> None:
        self.paused = True
        self.backlog = self._transport.get_write_buffer_size()
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.write_stall_s)
        if self._pause is not None:
            self._pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._resume is not None:
            self._resume()
        if self._state == _IDLE:
            self._rest()
        elif self._state == _BUSY:
            self.deadline = NEVER

    def expire(self) -> None:
        """The clock: a time limit was reached."""
        self.flush()
        unsent = self._transport.get_write_buffer_size()
        if self._state == _LINGERING:
            self._close()
        elif self.paused or self._state == _CLOSING:
            if unsent < self.backlog:
                self.backlog = unsent
                self.server.clock.watch(self, self.server.clock.now + self.server.limits.write_stall_s)
            else:
                self.cut()
        elif self._state == _BODY:
            assert self._request is not None
            self._refuse(RequestError(408, "the request body did not arrive in time", self._request.path))
        elif self._state == _HEAD:
            self._refuse(RequestError(408, "the request head did not arrive in time"))
        elif unsent:
            self.cut()
        else:
            self._close()

    # What exchanges and the server call.

    def send(self, data: bytes) -> None:
        if self.paused:
            self.backlog += len(data)
        self.write(data)

    def write(self, data: bytes) -> None:
        unsent = self._unsent
        self._unsent = unsent + data if unsent else data
        if len(self._unsent) > HIGH_WATER:
            self.flush()  # so that the transport can say at once that it is too much
        elif not unsent:
            self.server.outbox.put(self)

    def flush(self) -> None:
        """The server's outbox, or something that must come behind what was written."""
        data = self._unsent
        if data:
            self._unsent = b""
            self._transport.write(data)

    def answered(self, keep: bool) -> None:
        """The answer has been handed over; the next request may be read."""
        self._exchange = self._pause = self._resume = None
        if not keep:
            if self._transport.can_write_eof():
                self._linger()
            else:
                self._close()
            return
        self._state = _IDLE
        if not self.paused:
            self._rest()

    def flow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        if self.paused:
            pause()

    def break_off(self, framed: bool) -> None:
        """Ends in the middle of an answer; one that is not `framed` could be taken for complete but for a reset."""
        self._exchange = self._pause = self._resume = None
        if framed:
            self._close()
        else:
            self.cut()

    def cut(self) -> None:
        """Closes with a reset and cancels the handler; what is unsent is dropped."""
        self._state = _CLOSING
        self.flush()
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        self._lose()

    def drain(self) -> None:
        """Closes if nothing has been asked."""
        if self._state == _IDLE and not self._buffer:
            self._close()

    # Reading.

    def _advance(self) -> None:
        """Goes on with what has been received, as far as that leads. Does nothing if called once too often."""
        if self._state <= _HEAD and not self.paused:
            if self._buffer:
                self._read_head(self._buffer)
        elif self._state == _BODY:
            self._read_body()
        elif len(self._buffer) > PIPELINE_BYTES:
            self.cut()

    def _read_head(self, buffer: bytes | bytearray) -> None:
        end = buffer.find(b"\r\n\r\n", self._seen) + 4
        try:
            if end == 3:
                self._buffer = buffer
                self._await_head(buffer)
                return
            if isinstance(buffer, bytearray):
                buffer = bytes(buffer)
            request = self.server.heads.parse(buffer[:end], self._peer, self.secure)
        except RequestError as refusal:
            self._refuse(refusal)
            return
        self._seen = 0
        body_end = end + request.length
        if end <= body_end <= len(buffer):
            request.body = buffer[end:body_end]
            self._buffer = buffer[body_end:]
            self._begin(request)
        else:
            self._buffer = buffer[end:]
            self._await_body(request)

    def _await_head(self, part: bytes | bytearray) -> None:
        self.server.heads.check_part(part, self._seen)
        if self._state == _IDLE:
            self._state = _HEAD
            self.server.clock.watch(self, self.server.clock.now + self.server.limits.header_s)
        self._seen = max(len(part) - 3, 0)

    def _await_body(self, request: Incoming) -> None:
        self._state = _BODY
        self._request = request
        limits = self.server.limits
        if request.length == CHUNKED:
            self._chunked = ChunkedBody(limits.body_bytes, request.path)
        self.server.clock.watch(self, self.server.clock.now + limits.body_s)
        if self._buffer:
            self._read_body()
        elif request.expects:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self) -> None:
        request = self._request
        assert request is not None
        buffer = self._buffer
        if self._chunked is not None:
            try:
                complete, used = self._chunked.feed(buffer)
            except RequestError as refusal:
                self._refuse(refusal)
                return
            self._buffer = buffer[used:]
            if not complete:
                return
            request.body = self._chunked.body
        elif len(buffer) >= request.length:
            with memoryview(buffer) as view:
                request.body = bytes(view[: request.length])
            self._buffer = buffer[request.length :]
        else:
            return
        self._request = self._chunked = None
        self._begin(request)

    def _begin(self, request: Incoming) -> None:
        if len(self._buffer) > PIPELINE_BYTES:
            self.cut()
            return
        self._state = _BUSY
        self.deadline = NEVER
        exchange = self._exchange = Exchange(request, self)
        # INVARIANT: the last thing done here: the handler runs within this call, and may have answered after it.
        self.server.begin(exchange)

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
        self.write(b"".join((status_line(refusal.status), self.server.clock.date, head, length, body)))
        self._linger()

    def _linger(self) -> None:
        """Says that this was all, and lets the client read it: closing while it still sends would reset it away."""
        self._state = _LINGERING
        self._buffer = b""
        self._request = self._chunked = None
        self.flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.server.clock.watch(self, self.server.clock.now + LINGER_S)

    def _close(self) -> None:
        """Closes once everything is sent."""
        self._state = _CLOSING
        self._buffer = b""
        self.flush()
        self._transport.close()
        self._watch_closing()

    def _watch_closing(self) -> None:
        self.backlog = self._transport.get_write_buffer_size()
        self.server.clock.watch(self, self.server.clock.now + self.server.limits.write_stall_s)

    def _lose(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            exchange.lose()
            self.server.cancel(exchange)
