"""One append-only file: what was acknowledged, then zeros up to what was allocated ahead.

Blocks are allocated and zeroed ahead of their use, so that making an entry durable is a write of data and no change of
the file system's own records: about half the time of appending at the end of a file.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from entrepot.ledger.files import Files

AHEAD = 1 << 22
STEPS = 16
"""Room is made in so many steps, as a sync of an entry that comes meanwhile waits for the one under way."""


class Store:
    """INVARIANT: bytes `[0, end)` are durable and never written again; whatever stands after them was not acknowledged.

    After `poisoned` is set nothing may be written or synced here any more: what the disk holds behind `end` is unknown,
    and the kernel may call pages clean that never reached it.
    """

    def __init__(self, files: Files, path: Path, end: int) -> None:
        """Of an existing file whose bytes `[0, end)` are durable and whose rest is zeros or nothing."""
        self.path = path
        self.end = end
        self.poisoned = False
        self._files = files
        self._fd = files.open(path)
        # Room is made over a description of its own: the kernel tells a failure once to each, and the one that entries
        # are written over must not miss one.
        self._ahead = files.open(path)
        self._allocated = path.stat().st_size
        self._extending = Lock()  # held while room is made beside the appending
        self._awaited = False  # somebody waits for the lock, and one step more of room is enough

    @classmethod
    def create(cls, files: Files, path: Path, data: bytes) -> Store:
        """A new file that begins with `data`, durable with its name. Raises OSError."""
        files.replace(path, data)
        return cls(files, path, len(data))

    def has_room(self, length: int) -> bool:
        """For so many bytes more, without the file system's doing anything for them."""
        return self.end + length <= self._allocated

    def make_room(self, length: int) -> None:
        """Raises OSError; a full disk shows here, before anything of an entry is written."""
        if not self.has_room(length):
            # INVARIANT: nothing is written behind `_allocated` while room is made there: zeros would go over it.
            self._awaited = True
            with self._extending:
                self._awaited = False
                if not self.has_room(length):
                    self._allocate(self.end + length + AHEAD // STEPS)

    def put(self, data: bytes) -> int:
        """Write behind `end`, where there is room, to `keep` or `take_back`; the descriptor to sync. Raises OSError."""
        self._files.write(self._fd, data, self.end)
        return self._fd

    def keep(self, length: int) -> None:
        """What was put is durable: from here on it may be acknowledged."""
        self.end += length
        if self._allocated - self.end < AHEAD // 2 and self._extending.acquire(blocking=False):
            try:
                self._files.aside(self._extend)
            except RuntimeError:  # there is no thread to be had now; what is kept stays so, and `make_room` makes room
                self._extending.release()

    def take_back(self) -> None:
        """Forget what was put and not kept. Never fails; at worst the file is poisoned."""
        if self.poisoned:
            return
        try:
            self._files.cut(self._fd, self.end)
            self._allocated = self.end
        except OSError:
            self.poisoned = True

    def _allocate(self, to: int) -> None:
        """Zeros up to `to`."""
        try:
            self._files.write(self._fd, bytes(to - self._allocated), self._allocated)
        except OSError:
            self.take_back()  # what little there was is given back
            raise
        try:
            self._files.sync(self._fd)
        except OSError:
            self.poisoned = True
            raise
        self._allocated = to

    def _extend(self) -> None:
        """More room, made while entries are written before it. If it fails, `make_room` will try, and say so."""
        stop, step = self._allocated + AHEAD, AHEAD // STEPS
        try:
            while (start := self._allocated) < stop and not (self.poisoned or self._awaited):
                self._files.write(self._ahead, bytes(step), start)
                self._files.sync(self._ahead)
                if self._allocated == start:
                    self._allocated = start + step
        except OSError:
            return
        finally:
            self._extending.release()

    def close(self, *, final: bool = False) -> None:
        """`final`: give back what was allocated ahead; the file is not appended to any more. Raises OSError."""
        self._awaited = True
        with self._extending:
            try:
                if final and not self.poisoned:
                    self._files.cut(self._fd, self.end)
                    self._files.sync(self._fd)
            finally:
                self._files.close(self._fd)
                self._files.close(self._ahead)
