"""What a gateway's parent and its workers say to each other: MessagePack, each message behind its length.

A publication goes in parts: ten megabytes copied at one go are a pause for the calls of a worker.
"""

from __future__ import annotations

import asyncio
import socket

import msgspec

from entrepot.gateway.reckoning import Row
from entrepot.snapshot import Revision
from entrepot.telemetry.metrics import Report

PART = 262_144


class Load(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: compile this publication and serve it. The parent has compiled the same already.

    `data` is the last of what `snapshot.encode` made, of a Published if `whole`, else of a Delta. The rest came before.
    """

    revision: Revision
    whole: bool
    data: bytes


class Part(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: the beginning of the next `Load`'s data, or more of it."""

    data: bytes


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: report."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: accept nothing more, finish what is in flight within `timeout_s`, exit."""

    timeout_s: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: calls that arrive from now on are decided by this revision."""

    revision: Revision


class Behind(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the Delta was not one to what is served here; send the whole."""


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the revision did not compile here; the one before stays."""

    revision: Revision
    problem: str


class Reckon(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: compare what is counted of budgets with the ledger."""


class Reckoned(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the answer to `Reckon`. `problem` is why it could not be done now."""

    rows: tuple[Row, ...] = ()
    problem: str | None = None


class Status(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the answer to `Ask`. No revision: it does not serve yet."""

    revision: Revision | None
    connections: int
    unhealthy: tuple[str, ...]
    geo_problem: str | None
    ledger_problem: str | None
    limits_problem: str | None
    report: Report


Message = Load | Part | Ask | Drain | Loaded | Behind | Rejected | Reckon | Reckoned | Status

_decoder = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end. `receive` returns None when the other end has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._loading = asyncio.Lock()

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        return cls(*await asyncio.open_connection(sock=sock))

    async def send(self, message: Message) -> None:
        """ConnectionError when the other end has gone, or this one has been closed."""
        if self._writer.is_closing():  # to write on it would be a RuntimeError, of uvloop
            raise ConnectionResetError("the channel is closed")
        data = msgspec.msgpack.encode(message)
        self._writer.write(len(data).to_bytes(4, "big") + data)
        await self._writer.drain()

    async def load(self, message: Load) -> None:
        """Send a publication, in parts."""
        last = max(0, len(message.data) - 1) // PART * PART
        async with self._loading:  # parts of two must not mix
            for at in range(0, last, PART):
                await self.send(Part(message.data[at : at + PART]))
            await self.send(Load(message.revision, message.whole, message.data[last:]))

    async def receive(self) -> Message | None:
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: Message = _decoder.decode(data)
        return message

    def close(self) -> None:
        self._writer.close()
