"""Follows ledgers into the control plane's database: each entry once, and none that is not proved."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from entrepot.errors import Error
from entrepot.ledger import entries as e
from entrepot.ledger.read import Read, folders_of
from entrepot.ledger.verify import ADMITTED, Key, Tree, Unproved, decision_of, folder_name, read_key
from entrepot.projections.births import born
from entrepot.projections.parts import account_of, is_decision
from entrepot.projections.refusals import AGGREGATED, Refusals, aggregated
from entrepot.projections.tail import Tail
from entrepot.projections.usage import DIMENSIONS, OUTCOME, Cell, Subject, Sums, Usage
from entrepot.projections.window import day_of
from entrepot.storage import Tenancy
from entrepot.storage.projected import Early, Followed, OpenCall, Projected, Step
from entrepot.storage.tables import COUNTS as KEPT

# So many entries make up a step: some milliseconds of the loop, and of SQLite's one writer.
STEP = 500

_HASH = 32
_AGAIN_S = 30.0

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """A folder of logs, and the key that those below its name have to be signed with; others there are passed over.

    A copy that is `shipped` here may be behind what was taken elsewhere; it cannot be cut back, and logs may come late.
    """

    ledger: Path
    key: Key
    shipped: bool = False

    def folders(self) -> list[Path]:
        """Raises OSError."""
        prefix = folder_name(f"{self.key.name}/")
        return [folder for folder in folders_of(self.ledger) if folder.name.startswith(prefix)]


def sources_in(datas: Iterable[Path]) -> list[Source]:
    """The ledgers of data folders with the keys that stand beside them. Raises Unproved, OSError."""
    keys = ((data, path) for data in datas for path in sorted((data / "keys").glob("*.vkey")))
    return [
        Source(data / "ledger", read_key(path.read_text(encoding="utf-8", errors="replace"))) for data, path in keys
    ]


class Follower:
    """`problems` says of each log why nothing more is taken from it; it is tried again after `again_s`."""

    def __init__(self, projected: Projected, sources: Callable[[], Sequence[Source]]) -> None:
        """`sources` is asked each time, in a thread: gateways come and go."""
        self.problems: dict[str, str] = {}
        self.again_s = _AGAIN_S
        self.taken = 0
        """How many entries, since it was made."""
        self.done_s = time.monotonic()
        """When it last came to the end of all logs."""
        self._projected = projected
        self._sources = sources
        self._tails: dict[tuple[Path, Key], Tail] = {}
        self._again: dict[str, float] = {}

    async def run(self, poll_s: float = 1.0) -> None:
        """Until it is cancelled."""
        told = ""
        while True:
            try:
                self.taken += await self.follow()
                self.done_s, told = time.monotonic(), ""
            except Error as error:
                if error.message != told:
                    log.error("the follower cannot go on", extra={"fields": {"problem": error.message}})
                told = error.message
            except Exception:  # must survive what a ledger's files may hold
                log.exception("the follower failed")
                await asyncio.sleep(self.again_s)
            await asyncio.sleep(poll_s)

    async def follow(self) -> int:
        """Take what is new and signed in all logs. How many entries. Raises Error while the database is away."""
        known = await self._projected.followed()
        taken = 0
        for source in await asyncio.to_thread(self._sources):
            there = await asyncio.to_thread(source.folders)
            for folder in there:
                taken += await self._careful(folder, source, known)
            if not source.shipped:
                self._look_for_missing(source, {folder.name for folder in there}, known)
        return taken

    async def _careful(self, folder: Path, source: Source, known: dict[str, Followed]) -> int:
        if self._again.get(folder.name, 0.0) > time.monotonic():
            return 0
        tail = self._tails.setdefault((folder, source.key), Tail(folder, source.key))
        try:
            taken = await self._log(tail, known, behind=source.shipped)
        except (Unproved, OSError, msgspec.DecodeError) as exc:
            self._found(folder.name, str(exc))
            return 0
        self.problems.pop(folder.name, None)
        return taken

    def _found(self, name: str, problem: str) -> None:
        if self.problems.get(name) != problem:
            log.error("a log is not followed", extra={"fields": {"log": name, "problem": problem}})
        self.problems[name] = problem
        self._again[name] = time.monotonic() + self.again_s

    def _look_for_missing(self, source: Source, there: set[str], known: dict[str, Followed]) -> None:
        for origin in known:
            name = folder_name(origin)
            if origin.startswith(f"{source.key.name}/") and name not in there:
                self._found(name, "it is missing, and was followed before")

    async def _log(self, tail: Tail, known: dict[str, Followed], *, behind: bool) -> int:
        signed = await asyncio.to_thread(tail.signed)
        if signed is None:
            return 0
        at = known.get(signed.origin, Followed(signed.origin))
        tree = Tree()
        tree.size, tree.edge = at.size, _edge(at)
        if signed.size == at.size and tree.root() == signed.root:
            return 0
        if behind and signed.size < at.size:
            return 0  # another control plane over this database has more of it
        hashes = await asyncio.to_thread(tail.prove, at.size, _edge(at), signed)
        for start in range(0, len(hashes), STEP):
            some = hashes[start : start + STEP]
            entries = await asyncio.to_thread(tail.take, at.size, some)
            reads = [Read(signed.origin, index, entry) for index, entry in enumerate(entries, at.size)]
            tree.extend(some)
            after = Followed(signed.origin, tree.size, b"".join(tree.edge))
            async with self._projected.step() as step:
                # INVARIANT: position and sums change in one transaction, from the position that was read; so an entry
                # counts once, whoever follows beside us and wherever either is killed.
                if await step.followed(signed.origin) != at:
                    return start
                await _project(step, reads)
                await step.advance(after)
            at = after
        return len(hashes)


async def _project(step: Step, reads: Sequence[Read]) -> None:
    """Add entries to the sums. Raises msgspec.DecodeError for an entry of another form, which no gateway writes."""
    waiting = await step.waiting(
        [f"{of[0]}/{of[1]}" for read in reads if read.entry.startswith(OUTCOME) and (of := decision_of(read.entry))]
    )
    births = await step.births({*(call.account for call in waiting), *_accounts(reads)})
    usage, refusals = Usage(births=births), Refusals(births=births)
    begun = [f"{read.origin}/{read.number}" for read in reads if read.entry.startswith(ADMITTED)]
    for call in waiting:
        subject = Subject(call.account, call.deployment, call.model, call.version, call.regions)
        usage.waiting[call.place] = (call.at_ms, subject)
    for one in await step.early(begun):
        usage.early.setdefault(one.place, []).append(_outcome(one.entry))
    for read in reads:
        usage.take(read)
        refusals.take(read)
    await step.wait(
        OpenCall(place, at_ms, *subject, born(births, subject.account, at_ms))
        for place, (at_ms, subject) in usage.waiting.items()
    )
    await step.keep(Early(place, e.encode(one)) for place, early in usage.early.items() for one in early)
    await step.add_usage({cell: {name: getattr(sums, name) for name in KEPT} for cell, sums in usage.cells.items()})
    await step.add_refusals({tuple(cell): number for cell, number in refusals.cells.items()})


def _accounts(reads: Sequence[Read]) -> set[str]:
    """Whose decisions and refusals these are."""
    found = {account_of(read.entry) for read in reads if is_decision(read.entry)}
    return found | {aggregated(read.entry).account for read in reads if read.entry.startswith(AGGREGATED)}


async def usage_of(projected: Projected, tenancy: Tenancy) -> dict[Cell, Sums]:
    """The sums as `Usage` makes them from the entries, without costs: those in the database, and the open calls."""
    cells: dict[Cell, Sums] = {}
    for row in await projected.usage(tenancy):
        cell = Cell(*(row[name] for name in DIMENSIONS))
        cells.setdefault(cell, Sums()).add(Sums(**{name: row[name] for name in KEPT}))
    for call in await projected.open_calls(tenancy):
        cell = Cell(call.account, call.deployment, f"{call.model}@{call.version}", "", day_of(call.at_ms))
        sums = cells.setdefault(cell, Sums())
        sums.calls += 1
        sums.open += 1
    return cells


def _edge(at: Followed) -> list[bytes]:
    return [at.edge[start : start + _HASH] for start in range(0, len(at.edge), _HASH)]


def _outcome(entry: bytes) -> e.Outcome:
    outcome = e.decode(entry)
    assert isinstance(outcome, e.Outcome), "only outcomes are kept as early"
    return outcome
