"""Changes that were committed and whose entry may not stand in the ledger: found there, or appended. Once each.

INVARIANT: the id of a change names the signing key of the ledger that it belongs to; only the control plane with that
key looks for it and appends it, so that several control planes over one database never write an entry twice.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from entrepot.ledger.entries import Change, decode
from entrepot.ledger.faults import LedgerUnavailable
from entrepot.ledger.files import Files
from entrepot.ledger.keys import find_signer
from entrepot.ledger.ledger import Ledger
from entrepot.ledger.read import entries_of, folders_of
from entrepot.ledger.verify import folder_name
from entrepot.storage import Recorded, Store

_BACK = 10_000

log = logging.getLogger(__name__)


class Outbox:
    """Of one control plane, whose logs are below `name` in the ledger of the folder `data`. Made where it may block."""

    def __init__(self, store: Store, ledger: Ledger, data: Path, name: str) -> None:
        self._store = store
        self._ledger = ledger
        self._folder = data / "ledger"
        self._name = name
        # Two folders never share a key, whatever the names of their ledgers are.
        key = find_signer(data, name, Files()).key
        self.owner: Final = f"{key.name}-{key.id.hex()}"

    def new_id(self) -> str:
        return f"{self.owner}.{uuid.uuid4().hex}"

    async def drain(self) -> int:
        """Bring the ledger to what is committed. How many entries were missing there.

        Raises LedgerUnavailable, OSError, Unproved, or Error when the database does not answer.
        """
        waiting = [each for each in await self._store.unplaced() if self._is_own(each)]
        if not waiting:
            return 0
        if self._ledger.problem is not None:
            # Until a trial succeeds a file may hold what was not acknowledged and will be set aside.
            raise LedgerUnavailable(self._ledger.problem)
        last = await self._last_placed(waiting[0].n)
        held = await asyncio.to_thread(self._find, frozenset(each.id for each in waiting), last)
        places: dict[int, str] = {}
        for each in waiting:
            places[each.n] = held.get(each.id) or str(await self._ledger.append(each.entry))
        await self._store.placed(places)
        missing = sum(each.id not in held for each in waiting)
        log.info("changes were brought to the ledger", extra={"fields": {"waiting": len(waiting), "missing": missing}})
        return missing

    def _is_own(self, recorded: Recorded) -> bool:
        return recorded.id.rpartition(".")[0] == self.owner

    async def _last_placed(self, n: int) -> str | None:
        """Where the last entry of ours before change `n` stands; None where none is near."""
        for before in range(n - 1, max(0, n - _BACK), -1):
            recorded = await self._store.recorded(before)
            if recorded is not None and recorded.place is not None and self._is_own(recorded):
                return recorded.place
        return None

    def _find(self, ids: frozenset[str], after: str | None) -> dict[str, str]:
        """Where those of the entries stand that are in our logs, behind the place `after`."""
        found: dict[str, str] = {}
        for log_folder, start in self._logs(after):
            for read in entries_of(log_folder, start):
                if read.entry.startswith(b'{"change":'):
                    change = _change(read.entry)
                    if change is not None and change.id in ids:
                        found[change.id] = f"{read.origin}/{read.number}"
        return found

    def _logs(self, after: str | None) -> Iterator[tuple[Path, int]]:
        origin, _, number = (after or "").rpartition("/")
        passed = not origin
        for folder in folders_of(self._folder):
            if not folder.name.startswith(folder_name(f"{self._name}/")):
                continue
            if folder.name == folder_name(origin):
                passed = True
                yield folder, int(number) + 1
            elif passed:
                yield folder, 0


def _change(entry: bytes) -> Change | None:
    try:
        found = decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, Change) else None
