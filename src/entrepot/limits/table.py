"""Levels shared by the processes of one machine: a memory-mapped file, one lock, nothing else installed.

Every process sees the same levels, so a limit is as exact as in one process and no worker owns a share of it. What a
process has reserved stands in a cell of its own: when it dies, whoever starts its successor empties it (`release`).

The lock is the kernel's record lock on the file: a process that is killed while it holds it lets go of it. One that
dies between two stores to a slot may leave a level a few calls old; it never leaves a lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from entrepot.limits.rate import Level, Limit, empty_at_ms, fits, leaked, poured, wait_ms
from entrepot.limits.reserve import Refusal, State, StoreBusy, Want, state_of

SLOTS = 1 << 18
WAYS = 16
"""Slots that a key may stand in, one after the other."""
BUSY_S = 0.2
"""So long a call waits for the lock."""
PATIENT_S = 2.0
"""So long who gives back what a dead process held."""

_MAGIC = b"entrepot-limits1"
_HEAD = struct.Struct("<16sQQ")
_SLOT = struct.Struct("<16sQqQ")  # key, level, at, empty at
_LEVEL = struct.Struct("<QqQ")
_CELL = struct.Struct("<Q")
_PAGE = 4096
_RELEASED_AT_ONCE = 1_024


class Table:
    """`number` is this process's cell, below `processes`. All openers give the same `processes` and `slots`.

    A slot has two cells for each process: what it has reserved, and, of a limit with a window, what it has used in it:
    so a process that comes back can put its own part right, and nobody else's.
    """

    degraded = False
    problem: str | None = None

    def __init__(self, path: Path, number: int, processes: int, slots: int = SLOTS) -> None:
        """Made if it is not there or of another form; it holds nothing that must survive the machine."""
        self._cell = _SLOT.size + number * _CELL.size
        self._cells = struct.Struct(f"<{processes}Q")
        self._width = _SLOT.size + 2 * self._cells.size
        self._used = self._cell + self._cells.size
        self._slots = slots
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = _PAGE + slots * self._width
        head = _HEAD.pack(_MAGIC, processes, slots)
        with self._locked():
            if os.fstat(self._fd).st_size != size or os.pread(self._fd, len(head), 0) != head:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, size)  # sparse: only the pages of limits in use take memory
                os.pwrite(self._fd, head, 0)
        self._map = mmap.mmap(self._fd, size)
        self._places: dict[bytes, int] = {}

    async def end(self) -> None:
        self.close()

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """Raises StoreBusy; then nothing is reserved."""
        with self._locked():
            taken: list[tuple[int, Limit, Level, int]] = []
            for index, (key, limit, units) in enumerate(wants):
                place = self._find(key, now_ms)
                self._renew(place, limit, now_ms)
                level, reserved = leaked(limit, self._level(place), now_ms), self._reserved(place)
                if not fits(limit, level.level, reserved, units):
                    return Refusal(index, wait_ms(limit, level.level, reserved, units, now_ms))
                if limit.charged:
                    taken.append((place, limit, poured(limit, level, units, now_ms), 0))
                else:
                    taken.append((place, limit, level, units))
            for place, limit, level, units in taken:
                self._write(place, limit, level, units)
        return None

    async def reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        return self.reserve(wants, now_ms)

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        """Raises StoreBusy; then nothing is settled, and it may be tried again."""
        with self._locked():
            for (key, limit, units), real in zip(wants, used, strict=True):
                if not limit.charged:
                    place = self._find(key, now_ms)
                    self._renew(place, limit, now_ms)
                    self._write(place, limit, poured(limit, self._level(place), real, now_ms), -units)
                    if limit.window_ms:
                        (mine,) = _CELL.unpack_from(self._map, place + self._used)
                        _CELL.pack_into(self._map, place + self._used, mine + real)

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        with self._locked(PATIENT_S):
            place = self._find(key, now_ms)
            self._renew(place, limit, now_ms)
            (mine,) = _CELL.unpack_from(self._map, place + self._used)
            level = self._level(place).level + (units - mine) * limit.period_ms
            self._write(place, limit, Level(max(0, level), now_ms), 0)
            _CELL.pack_into(self._map, place + self._used, units)
            return int(mine)

    def states(self, wants: Sequence[Want], now_ms: int) -> list[State]:
        """Read without the lock: another process may be writing, and a state is only told, never decided by."""
        found = []
        for key, limit, _ in wants:
            place = self._places.get(key)
            if place is None or self._map[place : place + 16] != key:
                with self._locked():
                    place = self._find(key, now_ms)
            level = leaked(limit, self._level(place), now_ms).level
            found.append(state_of(limit, level, self._reserved(place), now_ms))
        return found

    def forget(self, now_ms: int) -> None:
        """A slot whose limit is whole again is free by that."""

    def release(self, number: int) -> None:
        """Empty the cells of a process that has ended: what it had reserved is free again.

        The lock is held for some slots at a time. Raises StoreBusy; it may be done again.
        """
        step = _RELEASED_AT_ONCE * self._width
        for start in range(_PAGE, len(self._map), step):
            with self._locked(PATIENT_S):
                if self._map[start : start + step].strip(b"\0"):
                    for place in range(start, min(start + step, len(self._map)), self._width):
                        _CELL.pack_into(self._map, place + _SLOT.size + number * _CELL.size, 0)

    @contextmanager
    def _locked(self, patience_s: float = BUSY_S) -> Iterator[None]:
        self._lock(patience_s)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1)

    def _lock(self, patience_s: float) -> None:
        """Held for microseconds, unless its holder is not scheduled or stopped: then not for long, and StoreBusy."""
        ends, pause_s = 0.0, 0.0
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            except BlockingIOError:
                now = time.monotonic()
                ends = ends or now + patience_s
                if now > ends:
                    raise StoreBusy("the table of limits is locked by a process that does not go on") from None
                time.sleep(pause_s)  # the holder may wait for this very processor
                pause_s = min(pause_s + 0.000_02, 0.001)
            else:
                return

    def _find(self, key: bytes, now_ms: int) -> int:
        place = self._places.get(key)
        if place is not None and self._map[place : place + 16] == key:
            return place
        first = int.from_bytes(key[:8], "little")
        free = -1
        for way in range(WAYS):
            place = _PAGE + (first + way) % self._slots * self._width
            there = self._map[place : place + 16]
            if there == key:
                break
            if free < 0 and (there == _NO_KEY or self._idle(place, now_ms)):
                free = place
            if there == _NO_KEY:
                place = free
                break
        else:
            place = free
        if place < 0:
            raise StoreBusy("too many limits are in use at once")
        if self._map[place : place + 16] != key:
            _SLOT.pack_into(self._map, place, key, 0, now_ms, now_ms)
            for cells in (_SLOT.size, _SLOT.size + self._cells.size):
                self._cells.pack_into(self._map, place + cells, *[0] * (self._cells.size // _CELL.size))
        self._places[key] = place
        return place

    def _renew(self, place: int, limit: Limit, now_ms: int) -> None:
        """With a new window nobody has used anything."""
        if limit.window_ms and leaked(limit, self._level(place), now_ms).level < self._level(place).level:
            _LEVEL.pack_into(self._map, place + 16, 0, now_ms, now_ms)
            self._cells.pack_into(
                self._map, place + _SLOT.size + self._cells.size, *[0] * (self._cells.size // _CELL.size)
            )

    def _idle(self, place: int, now_ms: int) -> bool:
        empty_ms: int = _SLOT.unpack_from(self._map, place)[3]
        return empty_ms <= now_ms and not self._reserved(place)

    def _level(self, place: int) -> Level:
        _, level, at_ms, _ = _SLOT.unpack_from(self._map, place)
        return Level(level, at_ms)

    def _reserved(self, place: int) -> int:
        return sum(self._cells.unpack_from(self._map, place + _SLOT.size))

    def _write(self, place: int, limit: Limit, held: Level, units: int) -> None:
        _LEVEL.pack_into(self._map, place + 16, held.level, held.at_ms, empty_at_ms(limit, held))
        if units:
            (mine,) = _CELL.unpack_from(self._map, place + self._cell)
            _CELL.pack_into(self._map, place + self._cell, max(0, mine + units))


_NO_KEY = bytes(16)
