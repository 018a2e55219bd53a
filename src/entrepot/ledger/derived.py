"""What can be made again from the entries: their hashes and where they stand. Written beside them, never synced."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from entrepot.ledger.tree import HASH, LEVELS

OFFSET = 4


def hash_file(folder: Path, level: int) -> Path:
    return folder / f"hashes.{level}"


def offset_file(folder: Path) -> Path:
    return folder / "offsets"


class Derived:
    """Appends to the derived files of one log. A failure is kept quiet: readers check them and make them anew."""

    def __init__(self, folder: Path) -> None:
        """Begins them anew."""
        self._fds: list[int] = []
        self._waiting: list[list[bytes]] = [[] for _ in range(LEVELS + 1)]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*(hash_file(folder, level) for level in range(LEVELS)), offset_file(folder)):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
                self._fds.append(os.open(path, flags, 0o640))

    def add(self, hashes: Sequence[bytes], offsets: Sequence[int]) -> None:
        """`hashes` for each level, `offsets` of the entries' frames in their segment. Kept until they are written."""
        for waiting, data in zip(self._waiting, (*hashes, array("I", offsets).tobytes()), strict=True):
            if data:
                waiting.append(data)

    def flush(self) -> None:
        """Write what was added; while nobody else does either."""
        self.write(self.take())

    def take(self) -> list[list[bytes]]:
        """What was added, to be written; not while another thread adds."""
        taken, self._waiting = self._waiting, [[] for _ in range(LEVELS + 1)]
        return taken

    def write(self, taken: list[list[bytes]]) -> None:
        """In the order in which it was taken."""
        try:
            for fd, parts in zip(self._fds, taken, strict=False):
                if parts:
                    os.write(fd, b"".join(parts))
        except OSError:
            self.close()

    def close(self) -> None:
        """What was not written is made again by who needs it."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


class Stored:
    """Reads derived files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hashes(self, level: int, first: int, count: int) -> bytes:
        return _read(hash_file(self._folder, level), first * HASH, count * HASH)

    def offset(self, index: int) -> int:
        """Raises LookupError when it is not there."""
        raw = _read(offset_file(self._folder), index * OFFSET, OFFSET)
        if len(raw) < OFFSET:
            raise LookupError(f"the place of entry {index} is not stored")
        return array("I", raw)[0]


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)
    except OSError:
        return b""
