"""What a snapshot leaves behind is freed a little at a time: tens of thousands of accounts at once would be a pause."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import ref

from entrepot.snapshot import Compiled, Snapshot

SLICE = 256
PAUSE_S = 0.002
LOOK_S = 1.0


class Retired:
    """Of one event loop. Snapshots of one generation share accounts: they come from one whole by changes."""

    def __init__(self) -> None:
        self._generation: list[ref[Snapshot]] = []

    def track(self, snapshot: Snapshot) -> None:
        """It is in force; calls may keep it longer."""
        self._generation = [*(each for each in self._generation if each() is not None), ref(snapshot)]

    def retire(self, compiled: Compiled) -> None:
        """A new whole is in force, and the caller lets go of `compiled`. Calls under it may go on for minutes."""
        self._free([*compiled.tables()], self._generation)
        self._generation = []

    def _free(self, tables: list[dict[Any, Any]], generation: list[ref[Snapshot]]) -> None:
        loop = asyncio.get_running_loop()
        # INVARIANT: these tables are emptied only when no snapshot is left that could be asked by them.
        if any(snapshot() is not None for snapshot in generation):
            loop.call_later(LOOK_S, self._free, tables, generation)
            return
        left = SLICE
        while tables and left:
            if tables[-1]:
                tables[-1].popitem()
                left -= 1
            else:
                tables.pop()
        if tables:
            loop.call_later(PAUSE_S, self._free, tables, generation)
