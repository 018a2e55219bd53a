"""Where the processes of one gateway keep what is used of limits: one alone in its memory, several in a table."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from entrepot.limits.reserve import Memory, Store, StoreBusy
from entrepot.limits.table import Table

log = logging.getLogger(__name__)


def place_of(data: Path) -> Path:
    return data / "limits" / "table"


def fresh_table(data: Path, workers: int) -> Table:
    """For the parent, before any worker begins: what a gateway before had reserved or used up is over."""
    place = place_of(data)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    return Table(place, 0, workers)


def released(table: Table, number: int) -> None:
    """A worker has ended. Its successor does the same once more, so it does not matter if this cannot be done."""
    try:
        table.release(number)
    except StoreBusy:
        log.warning("what a worker had reserved is given back later", extra={"fields": {"worker": number}})


def store_for(data: Path, number: int, workers: int) -> Store:
    """A worker's own. Raises OSError, StoreBusy."""
    if workers == 1:
        return Memory()
    table = Table(place_of(data), number, workers)
    table.release(number)
    return table
