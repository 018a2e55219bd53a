"""What has to go on in a gateway's processes goes on, whatever one turn of it came to."""

from __future__ import annotations

import asyncio
import socket

import pytest

from entrepot.gateway import hand as hands
from entrepot.gateway.channel import Channel, Load
from entrepot.gateway.hand import Hand
from entrepot.gateway.worker import every
from entrepot.snapshot import Revision


def test_what_is_due_now_and_then_is_due_again_after_it_failed() -> None:
    turns = 0

    async def chore() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise RuntimeError("one turn fails")
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(every(0.0, chore))
    assert turns == 2


def test_a_worker_that_cannot_be_started_again_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start it ends the gateway, which says why; later the workers beside it serve on."""
    monkeypatch.setattr(hands, "RESTART_FIRST_S", 0.0)
    monkeypatch.setattr(hands, "RESTART_LAST_S", 0.0)
    listener, starts = socket.socket(), 0

    async def current() -> Load:
        return Load(Revision(0, 1), whole=True, data=b"")

    class Starting(Hand):
        async def _start(self) -> Channel:
            nonlocal starts
            starts += 1
            if starts not in {1, 3}:
                raise OSError(11, "Resource temporarily unavailable")
            ours, theirs = socket.socketpair()
            theirs.close()  # it ends at once
            if starts == 3:
                self._stopping = True
            return await Channel.over(ours)

    async def run() -> None:
        await Starting(listener, (), current, lambda: None, lambda: None).keep()

    asyncio.run(run())
    assert starts == 3
    starts = 3  # the next one fails, and is the first
    with pytest.raises(OSError, match="temporarily"):
        asyncio.run(run())
    listener.close()
