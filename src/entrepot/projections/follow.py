"""Hands on the entries of all logs of a folder, and tells how far it is. Proving them is `ledger.verify`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from entrepot.ledger.read import Read, all_folders_of, entries_of, folders_of
from entrepot.ledger.verify import FRAME, SEGMENT

# Called with bytes that were read, now and then.
Progress = Callable[[int], None]

_TOLD_EVERY = 1 << 20


class Logs:
    """Iterating reads everything from the start, log by log, each in the order of its entries.

    Raises Unproved where entries are damaged or missing, or a log that the list names.
    """

    def __init__(self, ledger: Path, progress: Progress | None = None) -> None:
        self.ledger = ledger
        self._progress = progress

    def size(self) -> int:
        """In bytes, about: segments have room at their end."""
        return sum(path.stat().st_size for log in folders_of(self.ledger) for path in log.glob(SEGMENT))

    def __iter__(self) -> Iterator[Read]:
        for log in all_folders_of(self.ledger):
            yield from self._log(log)

    def _log(self, log: Path) -> Iterator[Read]:
        done = 0
        for read in entries_of(log):
            done += FRAME.size + len(read.entry)
            if done >= _TOLD_EVERY:
                self._tell(done)
                done = 0
            yield read
        self._tell(done)

    def _tell(self, size: int) -> None:
        if self._progress is not None:
            self._progress(size)
