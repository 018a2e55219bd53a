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
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path
from typing import Any, Final, cast

from entrepot.limits.rate import Limit, window_end_ms
from entrepot.limits.reserve import Asked, Bucket, Refusal, State, StoreBusy

SLOTS: Final = 1 << 18
WAYS: Final = 16
"""Slots that a key may stand in, one after the other."""
BUSY_S: Final = 0.2
"""So long a call waits for the lock."""
PATIENT_S: Final = 2.0
"""So long who gives back what a dead process held."""
REMEMBERED: Final = 1 << 16
"""Places of keys; all are looked for again when there are more."""

_MAGIC: Final = b"entrepot-limits2"
_HEAD = struct.Struct("=16sQQ")
_PAGE: Final = 4096
_WORD: Final = 8
_FORM: Final = "=16sQQQ"
"""A slot: its key; when its limit is whole; the instant of the level; the level; cells reserved; cells used."""
_EMPTY: Final = 2
_AT: Final = 3
_LEVEL: Final = 4
_CELLS: Final = 5
_RELEASED_AT_ONCE: Final = 1_024
_PAUSE_S: Final = 0.000_1


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

    def reserve(self, asked: Asked, now_ms: int) -> Refusal | None:
        """Raises StoreBusy; then nothing is reserved."""
        keys, limits, all_units = asked.keys, asked.limits, asked.units
        refusal: Refusal | None = None
        met: list[Bucket] = []
        self._lock(BUSY_S)
        try:
            for index in range(len(all_units)):
                held = self._now(keys[index], limits[index], met, now_ms)
                met.append(held)
                if refusal is None and not held.has_room(all_units[index]):
                    refusal = held.refusal(index, all_units[index], now_ms)
            if refusal is None:
                for index, bucket in enumerate(met):
                    self._take(cast(_Place, bucket), all_units[index])
        finally:
            flock(self._fd, LOCK_UN)
        asked.met = met
        return refusal

    async def reserve_there(self, asked: Asked, now_ms: int) -> Refusal | None:
        return self.reserve(asked, now_ms)

    def settle(self, asked: Asked, used: list[int], now_ms: int) -> None:
        """Raises StoreBusy; then nothing is settled, and it may be tried again."""
        self._lock(BUSY_S)
        try:
            for index, bucket in enumerate(asked.met):
                units, real = asked.units[index], used[index]
                if bucket.charged or not (units or real):
                    continue
                held = self._read(cast(_Place, bucket), asked.keys[index], asked.met, now_ms)
                if real:
                    self._pour(held, real)
                left: int = self._words[held.mine] - units
                self._words[held.mine] = left if left > 0 else 0
        finally:
            flock(self._fd, LOCK_UN)

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        self._lock(PATIENT_S)
        try:
            held = self._now(key, limit, [], now_ms)
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
        self._lock(PATIENT_S)
        try:
            held = self._now(key, limit, [], now_ms)
            return 0 if held.stale else int(self._words[held.used])
        finally:
            flock(self._fd, LOCK_UN)

    async def tell_again(self) -> None:
        """All others read the same table."""

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        return [], {}

    def state(self, key: bytes, limit: Limit, now_ms: int) -> State:
        self._lock(BUSY_S)
        try:
            return self._now(key, limit, [], now_ms).state(now_ms)
        finally:
            flock(self._fd, LOCK_UN)

    def forget(self, now_ms: int) -> None:  # noqa: ARG002 - a slot whose limit is whole again is free by that
        if len(self._places) > REMEMBERED:
            self._places.clear()

    def release(self, number: int) -> None:
        """Empty the cells of a process that has ended: what it had reserved is free again.

        The lock is held for some slots at a time. Raises StoreBusy; it may be done again.
        """
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

    def _now(self, key: bytes, limit: Limit, met: list[Bucket], now_ms: int) -> _Place:
        """What the table holds, with its level brought to now, under the limit as it is declared now. With the lock.

        `met` is what the same call has found already: slots that may be free still.
        """
        held = self._places.get(key)
        if held is None:
            held = self._find(key, limit, met, now_ms)
        elif held.limit is not limit:
            held.adopt(limit)
        return self._read(held, key, met, now_ms)

    def _read(self, held: _Place, key: bytes, met: list[Bucket], now_ms: int) -> _Place:
        """The same of what was found before: its slot may be another's by now. With the lock."""
        row = self._row(self._map, held.place)
        if row[0] != key:
            held = self._find(key, held.limit, met, now_ms)
            row = self._row(self._map, held.place)
        held.read(row, now_ms)
        return held

    def _take(self, held: _Place, units: int) -> None:
        if held.charged:
            self._pour(held, units)
        else:
            held.reserved += units
            self._words[held.mine] += units

    def _pour(self, held: _Place, units: int) -> None:
        """INVARIANT: the level is stored last. Until then the one before stands at a later instant: it is too high."""
        if held.stale:
            self._renew(held)
        held.pour(units)
        words, word = self._words, held.word
        words[word + _EMPTY] = held.empty_ms()
        words[word + _AT] = held.at_ms
        words[word + _LEVEL] = held.level
        if held.windowed:
            words[held.used] += units

    def _renew(self, held: _Place) -> None:
        """In a new window nobody has used anything. The level goes last: until then the window is known to be over."""
        held.stale = False
        first = held.used - self._number
        for cell in range(first, first + self._processes):
            self._words[cell] = 0
        self._words[held.word + _LEVEL] = 0

    def _find(self, key: bytes, limit: Limit, met: list[Bucket], now_ms: int) -> _Place:
        """With the lock. Raises StoreBusy where every slot that the key may stand in is in use."""
        taken = {cast(_Place, each).place for each in met}
        first = int.from_bytes(key[:8], "little")
        free = -1
        for way in range(WAYS):
            place = _PAGE + (first + way) % self._slots * self._width
            row = self._row(self._map, place)
            if row[0] == key:
                break
            if free < 0 and row[1] <= now_ms and place not in taken and not any(row[4:]):
                free = place
            if row[0] == _NO_KEY:
                place = self._new(key, free, now_ms)
                break
        else:
            if free < 0:
                raise StoreBusy("too many limits are in use at once")
            place = self._new(key, free, now_ms)
        held = self._places[key] = _Place(place, self._number, self._processes, limit)
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

    __slots__ = ("ends_ms", "mine", "place", "stale", "used", "word")

    def __init__(self, place: int, number: int, processes: int, limit: Limit) -> None:
        super().__init__(limit, 0)
        self.place = place
        self.word = place // _WORD
        self.mine = self.word + _CELLS + number
        self.used = self.mine + processes
        self.stale = False
        self.ends_ms = 0
        """Of the window that was poured into last: it is not reckoned for each call."""

    def read(self, row: tuple[Any, ...], now_ms: int) -> None:
        """A slot's words. `stale`: its window is over, and its cells are of the one before."""
        level: int = row[3]
        self.at_ms, self.level = row[2], level
        reserved = 0
        for index in range(4, len(row)):
            cell: int = row[index]
            reserved += cell
        self.reserved = reserved
        self.pass_to(now_ms)
        self.stale = self.windowed and level > 0 and self.level == 0

    def empty_ms(self) -> int:
        """As `rate.empty_at_ms` has it."""
        if not self.level:
            return self.at_ms
        if not self.windowed:
            return self.at_ms - (-self.level // self.amount) if self.amount else self.at_ms
        if self.at_ms >= self.ends_ms:
            self.ends_ms = window_end_ms(self.window_ms, self.at_ms)
        return self.ends_ms


_NO_KEY: Final = bytes(16)
