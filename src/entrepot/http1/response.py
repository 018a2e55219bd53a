"""An answer as its caller sees it, and what can go wrong with a call. The connection does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from entrepot.http1.run import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrepot.http1.message import Headers
    from entrepot.http1.upstream import Connection

FaultKind = Literal["connect", "tls", "first_byte", "idle", "total", "cut", "protocol", "too_large"]


class Fault(Exception):  # noqa: N818 - the upstream's fault, told apart from `errors.Error`
    """An upstream call failed.

    `kind`: `connect` (name, address, proxy), `tls`, the time limit that passed (`first_byte`, `idle`, `total`), `cut`
    (closed before the answer was whole), `protocol` (not a proper HTTP/1.1 answer), `too_large` (past the reader's
    limit). `sent`: bytes of the request left, so the upstream may have acted on it.
    The message names hosts and numbers only, never a credential or a part of a body.
    """

    def __init__(self, kind: FaultKind, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.kind: FaultKind = kind
        self.sent = sent


class Response:
    """An answer, from its head on. `headers` has lower-case names, repeated fields joined with `, ` (RFC 9110 §5.3).

    Exactly one of `read`, `relay` and `abort` must follow; an answer that nobody takes holds its connection until the
    total time limit or `Pool.close`.
    """

    __slots__ = ("_blocks", "_connection", "_failure", "_limit", "_size", "_waiter", "headers", "status")

    def __init__(self, connection: Connection, waiter: Wait) -> None:
        self.status = 0
        self.headers: Headers = {}
        self._connection: Connection | None = connection
        """None once the answer is whole or failed: from then on the connection belongs to others."""
        self._waiter: Wait | None = waiter
        self._failure: BaseException | None = None
        self._blocks: list[bytes] = []
        self._size = 0
        self._limit: int | None = None

    async def read(self, limit: int) -> bytes:
        """The whole body. Does not suspend if it has arrived. Past `limit` bytes raises Fault(too_large) and closes."""
        connection = self._connection
        if connection is not None:
            self._limit = limit
            if self._size > limit or connection.announced > limit:
                connection.fail(Fault("too_large", f"the answer is larger than {limit} bytes"))
            else:
                connection.regulate()
                await self._settled(connection)
        if self._failure is not None:
            raise self._failure
        if self._size > limit:
            raise Fault("too_large", f"the answer is larger than {limit} bytes")
        blocks = self._blocks
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def whole(self, limit: int) -> bytes | None:
        """The whole body if it has arrived, as that of a short answer does with its head; None: `read` it."""
        if self._connection is not None or self._failure is not None or self._size > limit:
            return None
        blocks = self._blocks
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    async def first(self) -> bool:
        """Whether the body has anything in it; returns once that is known. Raises Fault if it broke off before that."""
        while (connection := self._connection) is not None and not self._size:
            await self._settled(connection)
        if self._failure is not None and not self._size:
            raise self._failure
        return self._size > 0

    async def relay(self, sink: Callable[[bytes], None]) -> None:
        """Hand the body to `sink`, once per received block, called synchronously; what came earlier is the first block.

        Returns when the answer is whole. What arrived is delivered before a Fault is raised. An exception of `sink`
        closes the connection and is raised from here.
        """
        connection = self._connection
        blocks, self._blocks, self._size = self._blocks, [], 0
        if blocks:
            try:
                sink(blocks[0] if len(blocks) == 1 else b"".join(blocks))
            except BaseException:
                self.abort()
                raise
        # `sink` may have aborted.
        if connection is not None and self._connection is connection:
            connection.sink = sink
            connection.regulate()
            await self._settled(connection)
        if self._failure is not None:
            raise self._failure

    async def _settled(self, connection: Connection) -> None:
        self._waiter = waiter = Wait(connection.loop)
        try:
            await waiter
        except BaseException:
            self.abort()
            raise

    @property
    def received(self) -> bytes:
        """What has arrived of the body and was not relayed; it stays when the rest fails."""
        return b"".join(self._blocks)

    def pause(self) -> None:
        """Stop reading from this upstream. Its idle time limit stands still; the total limit does not."""
        if self._connection is not None:
            self._connection.held = True
            self._connection.regulate()

    def resume(self) -> None:
        """Go on reading."""
        if self._connection is not None:
            self._connection.held = False
            self._connection.regulate()

    def abort(self) -> None:
        """Close the connection now; who waits for this answer gets Fault(cut). Idempotent; nothing once it is whole."""
        if self._connection is not None:
            self._connection.fail(Fault("cut", "the call was given up"))
