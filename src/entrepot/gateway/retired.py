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
        """A new whole is in force. The caller drops `compiled`; calls that began under it may go on for minutes."""
        # INVARIANT: whatever is freed last of all is freed here, so nothing is freed here while a call still holds it.
        self._free(compiled.parts(), self._generation)
        self._generation = []

    def _free(self, parts: list[Any], generation: list[ref[Snapshot]]) -> None:
        loop = asyncio.get_running_loop()
        if any(snapshot() is not None for snapshot in generation):
            loop.call_later(LOOK_S, self._free, parts, generation)
            return
        del parts[-SLICE:]
        if parts:
            loop.call_later(PAUSE_S, self._free, parts, generation)
