"""Levels shared by the processes of one machine: a memory-mapped file, one lock, nothing else installed.

Every process sees the same levels, so a limit is as exact as in one process and no worker owns a share of it. What a
process has reserved stands in a cell of its own: when it dies, whoever starts its successor empties it (`release`).

The lock is the kernel's, on the open file: a process that is killed while it holds it lets go of it.

INVARIANT: a process that is killed between two stores leaves a level too high, never too low: by what leaked since the
call before, or by what its own call reserved and poured. `release`, and `restore` of a limit with a window, mend it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path
from typing import Any

from entrepot.limits.rate import Level, Limit, empty_at_ms, fits, level_at, wait_ms
from entrepot.limits.reserve import Bucket, Refusal, State, StoreBusy, Want, state_of

SLOTS = 1 << 18
WAYS = 16
"""Slots that a key may stand in, one after the other."""
BUSY_S = 0.2
"""So long a call waits for the lock."""
PATIENT_S = 2.0
"""So long who gives back what a dead process held."""
REMEMBERED = 1 << 16
"""Places of keys; all are looked for again when there are more."""

_MAGIC = b"entrepot-limits2"
_HEAD = struct.Struct("=16sQQ")
_PAGE = 4096
_WORD = 8
_FORM = "=16sQQQ"
"""A slot: its key; when its limit is whole; the instant of the level; the level; cells reserved; cells used."""
_EMPTY, _AT, _LEVEL, _CELLS = 2, 3, 4, 5
_RELEASED_AT_ONCE = 1_024
_PAUSE_S = 0.000_1


class Table:
    """`number` is this process's cell, below `processes`. All openers give the same `processes` and `slots`.

    A slot has two cells for each process: what it has reserved, and, of a limit with a window, what it has used in it:
    so a process that comes back can put its own part right, and nobody else's. Of one thread.
    """

    degraded = False
    problem: str | None = None

    def __init__(self, path: Path, number: int, processes: int, slots: int = SLOTS) -> None:
        """Made if it is not there or of another form; it holds nothing that must survive the machine."""
        self._number = number
        self._processes = processes
        self._slots = slots
        self._width = (_CELLS + 2 * processes) * _WORD
        self._row = struct.Struct(f"{_FORM}{processes}Q").unpack_from
        self._places: dict[bytes, _Place] = {}
        self._met: list[_Place] = []
        self._told: Sequence[Want] | None = None
        self._told_ms = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = _PAGE + slots * self._width
        head = _HEAD.pack(_MAGIC, processes, slots)
        self._lock(BUSY_S)
        try:
            if os.fstat(self._fd).st_size != size or os.pread(self._fd, len(head), 0) != head:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, size)  # sparse: only the pages of limits in use take memory
                os.pwrite(self._fd, head, 0)
        finally:
            flock(self._fd, LOCK_UN)
        self._map = mmap.mmap(self._fd, size)
        self._words = memoryview(self._map).cast("Q")

    async def end(self) -> None:
        self.close()

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """Raises StoreBusy; then nothing is reserved."""
        self._told = None
        met: list[_Place] = []
        self._lock(BUSY_S)
        try:
            for index, want in enumerate(wants):
                held, units = self._now(want, now_ms), want.units
                # The common case of `fits`, written out: this runs for every call.
                if held.level + (held.reserved + units) * held.period_ms > held.capacity:
                    limit = held.limit
                    if not fits(limit, held.level, held.reserved, units):
                        return Refusal(index, wait_ms(limit, held.level, held.reserved, units, now_ms))
                met.append(held)
            for held, want in zip(met, wants, strict=True):
                units = want.units
                if held.charged:
                    self._pour(held, units)
                else:
                    held.reserved += units
                    self._words[held.mine] += units
        finally:
            flock(self._fd, LOCK_UN)
        self._met, self._told, self._told_ms = met, wants, now_ms
        return None

    async def reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        return self.reserve(wants, now_ms)

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        """Raises StoreBusy; then nothing is settled, and it may be tried again."""
        self._told = None
        self._lock(BUSY_S)
        try:
            for want, real in zip(wants, used, strict=True):
                held = self._now(want, now_ms)
                if not held.charged:
                    if real:
                        self._pour(held, real)
                    left = self._words[held.mine] - want.units
                    self._words[held.mine] = left if left > 0 else 0
        finally:
            flock(self._fd, LOCK_UN)

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        self._told = None
        self._lock(PATIENT_S)
        try:
            held = self._now(Want(key, limit, 0), now_ms)
            if held.stale:
                self._renew(held)
            before = self._words[held.used]
            self._words[held.used] = units
            first = held.used - self._number
            held.level = sum(self._words[first : first + self._processes]) * held.period_ms
            self._pour(held, 0)
            return before
        finally:
            flock(self._fd, LOCK_UN)

    def counted(self, key: bytes, limit: Limit, now_ms: int) -> int:
        self._told = None
        self._lock(PATIENT_S)
        try:
            held = self._now(Want(key, limit, 0), now_ms)
            return 0 if held.stale else int(self._words[held.used])
        finally:
            flock(self._fd, LOCK_UN)

    async def tell_again(self) -> None:
        """All others read the same table."""

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        return [], {}

    def states(self, wants: Sequence[Want], now_ms: int) -> list[State]:
        """After `reserve` of the same wants what that saw; else read without the lock, as it is only told."""
        if wants is not self._told or now_ms != self._told_ms:
            return [self._state(want, now_ms) for want in wants]
        return [state_of(held.limit, held.level, held.reserved, now_ms) for held in self._met]

    def forget(self, now_ms: int) -> None:  # noqa: ARG002 - a slot whose limit is whole again is free by that
        if len(self._places) > REMEMBERED:
            self._places.clear()

    def release(self, number: int) -> None:
        """Empty the cells of a process that has ended: what it had reserved is free again.

        The lock is held for some slots at a time. Raises StoreBusy; it may be done again.
        """
        self._told = None
        step = _RELEASED_AT_ONCE * self._width
        for start in range(_PAGE, len(self._map), step):
            self._lock(PATIENT_S)
            try:
                if self._map[start : start + step].strip(b"\0"):
                    for place in range(start, min(start + step, len(self._map)), self._width):
                        self._words[place // _WORD + _CELLS + number] = 0
            finally:
                flock(self._fd, LOCK_UN)

    def _lock(self, patience_s: float) -> None:
        """Held for microseconds, unless its holder is not scheduled or stopped: then not for long, and StoreBusy."""
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            self._wait(patience_s)

    def _wait(self, patience_s: float) -> None:
        """Tries at the same short pace however long it has waited, so that whoever comes later is not served sooner.

        It sleeps in between, as the holder may need this very processor.
        """
        ends = time.monotonic() + patience_s
        while True:
            time.sleep(_PAUSE_S)
            try:
                flock(self._fd, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise StoreBusy("the table of limits is locked by a process that does not go on") from None
            else:
                return

    def _now(self, want: Want, now_ms: int) -> _Place:
        """What the table holds, with its level brought to now, under the limit as it is declared now. With the lock."""
        key = want.key
        held = self._places.get(key)
        if held is None:
            held = self._find(want, now_ms)
        row = self._row(self._map, held.place)
        if row[0] != key:
            held = self._find(want, now_ms)
            row = self._row(self._map, held.place)
        if held.limit is not want.limit:
            held.adopt(want.limit)
        held.read(row, now_ms)
        return held

    def _state(self, want: Want, now_ms: int) -> State:
        key = want.key
        held = self._places.get(key)
        if held is None or self._map[held.place : held.place + len(key)] != key:
            self._lock(BUSY_S)
            try:
                held = self._find(want, now_ms)
            finally:
                flock(self._fd, LOCK_UN)
        if held.limit is not want.limit:
            held.adopt(want.limit)
        held.read(self._row(self._map, held.place), now_ms)
        return state_of(held.limit, held.level, held.reserved, now_ms)

    def _pour(self, held: _Place, units: int) -> None:
        """INVARIANT: the level is stored last. Until then the one before stands at a later instant: it is too high."""
        if held.stale:
            self._renew(held)
        at_ms = held.at_ms
        held.level = level = held.level + units * held.period_ms
        if held.amount and not held.windowed:  # the common case of `empty_at_ms`, written out
            empty_ms = at_ms - (-level // held.amount)
        else:
            empty_ms = empty_at_ms(held.limit, Level(level, at_ms))
        words, word = self._words, held.word
        words[word + _EMPTY] = empty_ms
        words[word + _AT] = at_ms
        words[word + _LEVEL] = level
        if held.windowed:
            words[held.used] += units

    def _renew(self, held: _Place) -> None:
        """In a new window nobody has used anything. The level goes last: until then the window is known to be over."""
        held.stale = False
        first = held.used - self._number
        for cell in range(first, first + self._processes):
            self._words[cell] = 0
        self._words[held.word + _LEVEL] = 0

    def _find(self, want: Want, now_ms: int) -> _Place:
        """With the lock. Raises StoreBusy where every slot that the key may stand in is in use."""
        key = want.key
        first = int.from_bytes(key[:8], "little")
        free = -1
        for way in range(WAYS):
            place = _PAGE + (first + way) % self._slots * self._width
            row = self._row(self._map, place)
            if row[0] == key:
                break
            if free < 0 and row[1] <= now_ms and not any(row[4:]):
                free = place
            if row[0] == _NO_KEY:
                place = self._new(key, free, now_ms)
                break
        else:
            if free < 0:
                raise StoreBusy("too many limits are in use at once")
            place = self._new(key, free, now_ms)
        held = self._places[key] = _Place(place, self._number, self._processes, want.limit)
        return held

    def _new(self, key: bytes, place: int, now_ms: int) -> int:
        """The key last: until then the slot is that of a limit which is whole."""
        words, word = self._words, place // _WORD
        words[word + _LEVEL] = 0
        words[word + _EMPTY] = words[word + _AT] = now_ms
        for cell in range(word + _CELLS, word + self._width // _WORD):
            words[cell] = 0
        self._map[place : place + len(key)] = key
        return place


class _Place(Bucket):
    """Where a limit stands, and what the table said of it last."""

    __slots__ = ("mine", "place", "stale", "used", "word")

    def __init__(self, place: int, number: int, processes: int, limit: Limit) -> None:
        super().__init__(limit, 0)
        self.place = place
        self.word = place // _WORD
        self.mine = self.word + _CELLS + number
        self.used = self.mine + processes
        self.stale = False

    def read(self, row: tuple[Any, ...], now_ms: int) -> None:
        """A slot's words. `stale`: its window is over, and its cells are of the one before."""
        since: int = row[2]
        level: int = row[3]
        self.stale = False
        if now_ms > since:
            if level:
                if self.windowed:
                    level = level_at(self.limit, level, since, now_ms)
                    self.stale = level == 0
                else:  # the common case of `level_at`, written out
                    left = level - (now_ms - since) * self.amount
                    level = left if left > 0 else 0
            since = now_ms
        self.level, self.at_ms, self.reserved = level, since, sum(row[4:])


_NO_KEY = bytes(16)
