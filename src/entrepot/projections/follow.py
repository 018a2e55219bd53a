"""Hands on the entries of all logs of a folder, and notices where some are missing. Proving is `ledger.verify`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from entrepot.ledger.read import Read, entries_of, folders_of
from entrepot.ledger.verify import FRAME, SEGMENT

# Called with bytes that were read, now and then.
Progress = Callable[[int], None]

_TOLD_EVERY = 1 << 20


class Logs:
    """Iterating reads everything from the start, log by log, each in the order of its entries.

    `gaps` says afterwards where entries were missing in between; what is missing at a log's end only `verify` can tell.
    """

    def __init__(self, ledger: Path, progress: Progress | None = None) -> None:
        self.ledger = ledger
        self.gaps: list[str] = []
        self._progress = progress

    def size(self) -> int:
        """In bytes, about: segments have room at their end."""
        return sum(path.stat().st_size for log in folders_of(self.ledger) for path in log.glob(SEGMENT))

    def __iter__(self) -> Iterator[Read]:
        self.gaps.clear()
        for log in folders_of(self.ledger):
            yield from self._log(log)

    def _log(self, log: Path) -> Iterator[Read]:
        expected = done = 0
        for read in entries_of(log):
            if read.number != expected:
                self.gaps.append(f"entries {expected} to {read.number - 1} of the log `{read.origin}` cannot be read")
            expected = read.number + 1
            done += FRAME.size + len(read.entry)
            if done >= _TOLD_EVERY:
                self._tell(done)
                done = 0
            yield read
        self._tell(done)

    def _tell(self, size: int) -> None:
        if self._progress is not None:
            self._progress(size)
