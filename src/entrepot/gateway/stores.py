"""Where a worker keeps what is used of limits: its own memory, a table with other workers, a store with machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from entrepot.config import Config
from entrepot.limits.reserve import Memory, Store, StoreBusy
from entrepot.limits.table import Table
from entrepot.resources.model import Gateway

log = logging.getLogger(__name__)

BUSY_S = 0.1


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


async def store_for(config: Config, gateway: Gateway, name: str, number: int, workers: int) -> Store:
    """A worker's own; `name` is that of its logs. Raises Error for a reference to nothing, OSError."""
    there = gateway.limit_store
    if there is not None:
        from entrepot.limits.shared import Shared  # noqa: PLC0415 - a client that most gateways do without

        url = config.resolve_secret(there.url) if there.url.startswith(("env:", "file:")) else there.url
        shared = Shared(url, name, there.budgets)
        await shared.start()
        return shared
    if workers == 1:
        return Memory()
    while True:
        try:
            table = Table(place_of(config.data), number, workers)
            table.release(number)
        except StoreBusy:  # a worker beside this one is stuck; its parent ends it
            await asyncio.sleep(BUSY_S)
        else:
            return table
