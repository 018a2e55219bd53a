"""Writes that wait for the end of the loop's turn, so that a peer which sleeps is woken once for many of them.

To wake a process on another processor costs more than to send a kilobyte; most turns answer several calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sized

FEW: Final = 4
"""Exchanges under way, below which nothing waits: the next turn would only come later."""


class Sender(Protocol):
    def flush(self) -> None:
        """Hand what waits to the transport. Harmless when nothing does."""


class Outbox:
    """Of one loop. Who has something to send puts itself in, once until it is flushed."""

    __slots__ = ("_loop", "_under_way", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, under_way: Sized) -> None:
        """`under_way`: the exchanges of all who put themselves in."""
        self._loop = loop
        self._under_way = under_way
        self._waiting: list[Sender] = []

    def put(self, sender: Sender) -> None:
        if self._waiting:
            self._waiting.append(sender)
        elif len(self._under_way) < FEW:
            sender.flush()
        else:
            self._waiting.append(sender)
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            sender.flush()
