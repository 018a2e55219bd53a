"""Time in steps of 100 ms for one listener: a cached instant, the `date` line, and the deadlines of its connections.

A timer per connection or request would cost more than the request; here a deadline that only moves later is one store.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

STEP_S: Final = 0.1
NEVER: Final = float("inf")


class Timed(Protocol):
    """What has a deadline. `slot` is the clock's: the step at which it looks next, 0 for none."""

    deadline: float
    slot: int

    def expire(self) -> None:
        """The deadline has passed. It may be set anew."""


class Clock:
    """Calls `expire` at most two steps after a deadline. A step costs only the entries that are due in it."""

    __slots__ = ("_loop", "_slots", "_step", "_timer", "_wall_s", "date", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._step = int(loop.time() / STEP_S)
        self._wall_s = 0
        self.now = loop.time()
        """The loop's time at the last step, in seconds."""
        self.date = b""
        """The header line `date`, with its CRLF (RFC 9110 §6.6.1)."""
        self._tell_date()
        self._timer = loop.call_later(STEP_S, self._tick)

    def watch(self, timed: Timed, deadline: float) -> None:
        """Sets the deadline. One that is not before the next look is only stored: it is seen to at that look."""
        timed.deadline = deadline
        slot = max(int(deadline / STEP_S), self._step) + 1
        if timed.slot:
            if timed.slot <= slot:
                return
            self._slots[timed.slot].discard(timed)
        timed.slot = slot
        self._slots.setdefault(slot, set()).add(timed)

    def forget(self, timed: Timed) -> None:
        timed.deadline = NEVER
        if timed.slot:
            self._slots[timed.slot].discard(timed)
            timed.slot = 0

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self.now = self._loop.time()
        self._timer = self._loop.call_later(STEP_S, self._tick)
        self._tell_date()
        first, self._step = self._step + 1, int(self.now / STEP_S)
        due = [timed for step in range(first, self._step + 1) for timed in self._slots.pop(step, ())]
        for timed in due:
            timed.slot = 0
        for timed in due:
            if timed.deadline <= self.now:
                timed.deadline = NEVER
                timed.expire()
            elif timed.deadline != NEVER:
                self.watch(timed, timed.deadline)

    def _tell_date(self) -> None:
        wall_s = int(time.time())
        if wall_s != self._wall_s:
            self._wall_s = wall_s
            self.date = b"date: %b\r\n" % formatdate(wall_s, usegmt=True).encode("ascii")
