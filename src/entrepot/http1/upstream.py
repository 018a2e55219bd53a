"""One upstream connection and the answer that it is receiving: parsing, framing, flow control (RFC 9112 §§6, 8, 9).

Owns nothing of connecting, pooling or clocks: the pool judges deadlines and is told when a connection is free or gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from entrepot.http1.response import Fault, Response
from entrepot.http1.run import Wait
from entrepot.http1.whole import WholeAnswers

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrepot.http1.message import Headers
    from entrepot.http1.outbox import Outbox

HEAD_BYTES: Final = 65_536
"""Bound on the head of an answer, interim ones included, and on framing (extensions, trailers) between body bytes."""
BUFFER_BYTES: Final = 262_144
"""Past so many body bytes that nobody asked for yet, the connection is no longer read."""
MAX_INTERIM: Final = 8

# The second comes after a 101 and is not one of the first.
_PARSER_ERRORS: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)

FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding"})
MAX_NAMES: Final = 256


class _Excess(Exception):  # noqa: N818 - never leaves this module
    """Bytes after the end of an answer."""


class Names(dict[bytes, str | None]):
    """Field names as upstreams spell them → lower case, or None for a field that the caller does not want.

    Folding a name costs more than looking it up; there are few spellings, and the memory of them is bounded.
    """

    def __init__(self, wanted: frozenset[str] | None) -> None:
        """`wanted`: lower-case names; None wants all. What frames a message is always read."""
        super().__init__()
        self._wanted = None if wanted is None else wanted | FRAMING

    def __missing__(self, name: bytes) -> str | None:
        key = name.decode("latin-1").lower()
        found = key if self._wanted is None or key in self._wanted else None
        if len(self) < MAX_NAMES:
            self[name] = found
        return found


class Owner(Protocol):
    """The pool, as a connection sees it."""

    names: Names
    outbox: Outbox
    whole: WholeAnswers

    def free(self, connection: Connection) -> None:
        """The answer is whole and the connection fit for another request."""

    def leave(self, connection: Connection) -> None:
        """The connection begins to close, and is not to be used. Called once."""

    def lost(self, connection: Connection) -> None:
        """The connection is closed. Called once, after `leave`."""


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. Between exchanges `response` is None and any byte received ends it."""

    __slots__ = (
        "announced",
        "barren",
        "closed",
        "done",
        "excess",
        "head_by",
        "head_done",
        "headers",
        "heard",
        "heard_at",
        "held",
        "idle_since",
        "interim",
        "keep",
        "loop",
        "names",
        "on_body",
        "owner",
        "parser",
        "parts",
        "problem",
        "response",
        "room",
        "sink",
        "stopped",
        "to_eof",
        "total_by",
        "transport",
        "unsent",
        "whole",
        "without_body",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.owner = owner
        self.names = owner.names
        self.whole = owner.whole
        self.loop = loop
        self.closed = False
        self.response: Response | None = None
        self.sink: Callable[[bytes], None] | None = None
        self.parts: list[bytes] = []
        # llhttp appends straight into the list: no Python frame per body part.
        self.on_body = self.parts.append
        self.parser = httptools.HttpResponseParser(self)
        self.headers: Headers = {}
        self.room = HEAD_BYTES
        self.idle_since = self.heard_at = self.head_by = self.total_by = 0.0
        self.announced = self.barren = self.interim = 0
        self.head_done = self.done = False
        self.heard = self.held = self.stopped = False
        # What makes a connection unfit for another request is never set back.
        self.excess = self.to_eof = self.without_body = False
        self.keep = True
        self.problem = ""
        self.unsent = b""
        """The request, until the end of the loop's turn."""

    # Requests

    def begin(self, request: bytes, head_by: float, total_by: float) -> tuple[Response, Wait]:
        """Send `request` in one write. The wait is over when the head is complete or the call failed."""
        waiter = Wait(self.loop)
        self.response = response = Response(self, waiter)
        self.headers = response.headers
        self.head_by = head_by
        self.total_by = total_by
        self.head_done = self.done = False
        self.room = HEAD_BYTES
        self.unsent = request
        self.owner.outbox.put(self)
        return response, waiter

    def flush(self) -> None:
        """The outbox."""
        request = self.unsent
        if request:
            self.unsent = b""
            self.transport.write(request)

    @property
    def unheard(self) -> bool:
        """No byte of the answer has come."""
        return self.room == HEAD_BYTES

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.unsent:
            # INVARIANT: what comes before the request has left is no answer to it. It leaves over another connection.
            self.fail(Fault("cut", "the upstream spoke before it was asked", sent=False))
            return
        self.heard = True
        sink = self.sink
        if sink is None:
            self._receive(data)
            return
        failure: BaseException | None = None
        try:
            self.parser.feed_data(data)
        except _PARSER_ERRORS as error:
            failure = self._parse_failure(error)
        parts = self.parts
        if parts:
            self.barren = 0
            block = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            try:
                sink(block)
            except BaseException as error:  # noqa: BLE001 - raised again from relay(), where the caller is
                failure = error
        else:
            failure = failure or self._framing_failure(data)
        if failure is not None:
            self.fail(failure)
        elif self.done:
            self._complete()

    def eof_received(self) -> None:
        # Over TLS, on uvloop, this is a close_notify; a bare TCP end goes to connection_lost. So a stranger cannot
        # shorten a body that ends with the connection.
        if self.response is not None and self.head_done and self.to_eof:
            self.keep = False
            self._complete()
        else:
            self.fail(Fault("cut", "the upstream closed the connection before the answer was whole"))

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.owner.leave(self)
        self.fail(Fault("cut", "the connection to the upstream was lost before the answer was whole"))
        self.owner.lost(self)

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self.head_done:
            # INVARIANT: no byte of a second answer gets into the first. Raising stops llhttp here.
            raise _Excess

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the head these are trailers, which nobody asked for (RFC 9110 §6.5.1).
        if self.head_done:
            return
        key = self.names[name]
        if key is None:
            return
        # llhttp leaves white space at the end of a value (RFC 9110 §5.5).
        text = value.decode("latin-1").rstrip(" \t")
        headers = self.headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        if self.head_done:
            return
        status = self.parser.get_status_code()
        headers = self.headers
        if status == 200 and "content-length" in headers:
            # llhttp has refused all but one row of digits.
            self.announced = int(headers["content-length"])
        elif 200 <= status < 600:
            self._frame(status, headers)
        else:
            self._skip(status, headers)
            return
        if self.without_body:
            # llhttp cannot be told, and would wait for the body: this connection is not used again.
            self.done = True
            self.keep = False
        else:
            self.keep = self.parser.should_keep_alive()
        if self.response is not None:
            self.response.status = status
        self.head_done = True
        self.interim = self.barren = 0

    def on_message_complete(self) -> None:
        if self.head_done:
            self.done = True

    # Receiving, off the per-chunk path

    def _frame(self, status: int, headers: Headers) -> None:
        """How long the body is, where llhttp does not say or is too kind (RFC 9112 §6.3)."""
        bodyless = status in {204, 304}
        self.announced = 0 if bodyless else int(headers.get("content-length", "0"))
        coding = headers.get("transfer-encoding")
        if coding is None:
            self.to_eof = not bodyless and "content-length" not in headers
        elif coding.lower() != "chunked":
            self.problem = "a transfer coding other than chunked"
        elif self.parser.get_http_version() != "1.1":
            # RFC 9112 §6.1: the framing of such a message is faulty.
            self.problem = "a transfer coding in a message that is not HTTP/1.1"

    def _skip(self, status: int, headers: Headers) -> None:
        """An interim answer (RFC 9110 §15.2), or a status that is none."""
        self.interim += 1
        if status == 101 or not 100 <= status < 200:
            self.problem = f"unexpected status {status}"
        elif self.interim > MAX_INTERIM:
            self.problem = "too many interim answers"
        elif "content-length" in headers or "transfer-encoding" in headers:
            self.problem = "an interim answer with a body"
        headers.clear()

    def _receive(self, data: bytes) -> None:
        response = self.response
        if response is None:
            # Nothing was asked: whatever this is, it must not become the next call's answer.
            self.discard()
            return
        if self.room == HEAD_BYTES and not self.without_body and self._read_whole(response, data):
            self._complete()
            return
        failure = self._feed(data) if self.head_done else self._feed_head(data)
        parts = self.parts
        if parts:
            self.barren = 0
            # One block per read: an upstream that sends chunks of a byte or two does not multiply our memory.
            block = parts[0] if len(parts) == 1 else b"".join(parts)
            response._blocks.append(block)
            response._size += len(block)
            parts.clear()
        if failure is not None:
            self.fail(failure)
        elif self.done:
            self._complete()
        elif response._limit is not None:
            if response._size > response._limit:
                self.fail(Fault("too_large", f"the answer is larger than {response._limit} bytes"))
        elif self.head_done:
            if response._size > BUFFER_BYTES:
                self.regulate()
            self._wake(response)

    def _read_whole(self, response: Response, data: bytes) -> bool:
        """Whether that was the whole answer. llhttp has not seen it then, and is as it was: before an answer."""
        start = self.whole.read(data, response)
        if start == 0:
            return False
        self.room = 0
        self.announced = len(data) - start
        if self.announced:
            response._blocks.append(data[start:])
            response._size = self.announced
        self.head_done = self.done = True
        return True

    def _feed(self, data: bytes) -> Fault | None:
        try:
            self.parser.feed_data(data)
        except _PARSER_ERRORS as error:
            return self._parse_failure(error)
        return None if self.parts else self._framing_failure(data)

    def _feed_head(self, data: bytes) -> Fault | None:
        """Parse, but never more than a head may have: llhttp gathers a header of any length before it calls back."""
        room = self.room
        rest = b""
        if room == HEAD_BYTES and data[0] != 0x48:
            # `H`; llhttp also takes RTSP, ICE and empty lines.
            self.room = 0
            return Fault("protocol", "the upstream did not answer in HTTP/1.1")
        if len(data) > room:
            data, rest = data[:room], data[room:]
        self.room = room - len(data)
        try:
            self.parser.feed_data(data)
            if rest and self.head_done and not self.problem:
                self.parser.feed_data(rest)
        except _PARSER_ERRORS as error:
            return self._parse_failure(error)
        if self.problem:
            return Fault("protocol", f"the upstream answered with {self.problem}")
        if self.head_done:
            if self.without_body:
                self.parts.clear()
            return None
        return None if self.room else Fault("protocol", f"the head of the answer is larger than {HEAD_BYTES} bytes")

    def _parse_failure(self, error: Exception) -> Fault | None:
        if self.problem:
            return Fault("protocol", f"the upstream answered with {self.problem}")
        if self.done:
            # The answer is whole by its own framing and stands; what follows it is never read as another.
            self.excess = True
            return None
        # llhttp's reasons are fixed texts, without bytes of the answer.
        return Fault("protocol", f"the upstream's answer is not proper HTTP/1.1: {error}")

    def _framing_failure(self, data: bytes) -> Fault | None:
        self.barren += len(data)
        if self.barren <= HEAD_BYTES or self.done:
            return None
        return Fault("protocol", "the upstream sends chunk framing or trailers without end")

    # Ends

    def _wake(self, response: Response) -> None:
        # INVARIANT: the last thing that is done here: who waits goes on within the call, and may begin anything.
        waiter = response._waiter
        if waiter is not None:
            response._waiter = None
            waiter.wake()

    def _detach(self, response: Response) -> None:
        self.response = self.sink = response._connection = None

    def _complete(self) -> None:
        response = self.response
        if response is None:
            # The sink gave the call up with the last block.
            return
        self._detach(response)
        self.held = False
        if self.stopped:
            self.stopped = False
            self.transport.resume_reading()
        # An answer that overtook its request leaves request bytes on the way: not a connection to reuse.
        if self.keep and not self.excess and not self.closed and not self.transport.get_write_buffer_size():
            self.owner.free(self)
        else:
            self.discard()
        self._wake(response)

    def fail(self, failure: BaseException) -> None:
        """End the exchange, if one runs, with `failure`, and close the connection at once."""
        self.unsent = b""
        response = self.response
        if response is not None:
            response._failure = failure
            self._detach(response)
        if not self.closed:
            self.closed = True
            self.owner.leave(self)
            self.transport.abort()
        if response is not None:
            self._wake(response)

    def drop(self) -> None:
        """Close a connection that nothing was ever sent over: at once, as the loop may end with its caller."""
        self.fail(Fault("cut", "nobody wants the connection"))

    def discard(self) -> None:
        """Close an idle connection in order."""
        if not self.closed:
            self.closed = True
            self.owner.leave(self)
            self.transport.close()

    def regulate(self) -> None:
        """Read or not: not while the consumer holds, nor past the bound while nobody consumes."""
        response = self.response
        if response is None or self.closed:
            return
        unasked = self.sink is None and response._limit is None
        stop = self.held or (unasked and response._size > BUFFER_BYTES)
        if stop is not self.stopped:
            self.stopped = stop
            if stop:
                self.transport.pause_reading()
            else:
                # The upstream's silence counts from now.
                self.heard = True
                self.transport.resume_reading()
