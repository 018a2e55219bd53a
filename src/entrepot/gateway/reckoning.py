"""Budgets of a running worker against its ledger: at one instant both must say the same, to the last unit.

At an instant of the loop everything that was counted has been given to the ledger, as one step does both. So what was
counted then is compared with what the logs say up to the entry that comes next (`Ledger.mark`). What differs is put
right, and an entry says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec import structs

from entrepot.gateway.budgets import Budgets, Declared
from entrepot.ledger.entries import Degraded, encode
from entrepot.ledger.faults import LedgerUnavailable
from entrepot.ledger.ledger import Ledger, Place
from entrepot.limits.rate import DAY_MS, window_of
from entrepot.limits.reserve import Store, StoreBusy
from entrepot.projections.prices import exact
from entrepot.snapshot import Snapshot

log = logging.getLogger(__name__)

AT_ONCE = 1_000
"""Budgets that are looked at in one turn of the loop."""
LOOK_S = 0.25
PATIENT_S = 10.0
"""So long a checkpoint may take to cover what was written."""


class Row(msgspec.Struct, frozen=True):
    """A budget that is not untouched. Amounts are in 10^-12 of the currency's unit.

    `ledger` is what this gateway's logs say, `counted` what it had counted then; `left` is what all gateways together
    have left, with calls in flight.
    """

    scope: str
    name: str
    period: str
    currency: str
    amount: int
    ledger: int
    counted: int
    left: int

    @property
    def drift(self) -> int:
        return self.ledger - self.counted


class Reckoning(msgspec.Struct, frozen=True):
    """Of all workers of a gateway. `problems`: why some could not say."""

    budgets: tuple[Row, ...]
    problems: tuple[str, ...]


class _Seen(NamedTuple):
    """What was counted of some budgets at an instant, and where the ledger was then."""

    at_ms: int
    every: list[Declared]
    counted: list[int]
    mark: asyncio.Future[Place]


class Reckoner:
    """Of one worker; used by its loop, one `reckon` at a time."""

    def __init__(
        self, ledger: Ledger, store: Store, budgets: Budgets, settled: Callable[[], bool], clock_ms: Callable[[], int]
    ) -> None:
        """`settled` tells whether all calls that are over could be counted."""
        self._ledger = ledger
        self._store = store
        self._budgets = budgets
        self._settled = settled
        self._clock_ms = clock_ms
        self._otherwise: dict[bytes, tuple[int, int]] = {}

    async def reckon(self, snapshot: Snapshot) -> list[Row]:
        """Compare, and put right. Raises StoreBusy, LedgerUnavailable, ValueError, OSError: then it is not known."""
        every = await asyncio.to_thread(self._budgets.known, snapshot)
        if not every:
            return []
        # All are seen before any is read, each part at an instant of its own: the logs are read once, up to each.
        seen: list[_Seen] = []
        rows: list[Row] = []
        try:
            for at in range(0, len(every), AT_ONCE):
                seen.append(self._see(every[at : at + AT_ONCE]))
                await asyncio.sleep(0)
            for part in seen:
                rows += await self._compare(snapshot, part)
        finally:
            for part in seen:
                if not part.mark.cancel() and not part.mark.cancelled():
                    part.mark.exception()  # it has been raised once, or another has
        await self._store.tell_again()
        self.note()
        self._tell_what_was_otherwise({each.mark: each for each in every})
        await asyncio.to_thread(self._budgets.keep)
        return rows

    def _see(self, every: list[Declared]) -> _Seen:
        """In one step of the loop."""
        if not self._settled():
            raise StoreBusy("limits cannot be counted now")
        now_ms = self._clock_ms()
        counted = [self._store.counted(each.mark, each.bound.limit, now_ms) for each in every]
        return _Seen(now_ms, every, counted, self._ledger.mark())

    async def _compare(self, snapshot: Snapshot, seen: _Seen) -> list[Row]:
        place, ends_s = await seen.mark, asyncio.get_running_loop().time() + PATIENT_S
        while True:
            said = await asyncio.to_thread(self._budgets.spent_until, snapshot, seen.every, seen.at_ms, place)
            if said is not None:
                break
            if asyncio.get_running_loop().time() > ends_s:
                raise LedgerUnavailable("no checkpoint covers what was written; it is looked at again later")
            await asyncio.sleep(LOOK_S)
        now_ms, rows = self._clock_ms(), []
        for each, ledger, counted in zip(seen.every, said, seen.counted, strict=True):
            if ledger != counted:
                self._put_right(each, ledger - counted, seen.at_ms, now_ms)
            if ledger or counted:
                rows.append(self._row(each, ledger, counted, now_ms))
        return rows

    def _put_right(self, each: Declared, drift: int, at_ms: int, now_ms: int) -> None:
        """What was counted meanwhile stays. A window that has ended meanwhile has nothing to put right."""
        key, limit = each.mark, each.bound.limit
        if window_of(limit.window_ms, at_ms) != window_of(limit.window_ms, now_ms):
            return
        before = self._store.counted(key, limit, now_ms)
        self._store.restore(key, limit, max(0, before + drift), now_ms)
        self._note(f"{each.title}: {exact(before)} is {exact(before + drift)} {each.bound.currency}", at_ms, now_ms)

    def note(self) -> None:
        """What happened to the store since the last time becomes an entry."""
        now_ms = self._clock_ms()
        told, otherwise = self._store.put_right()
        self._otherwise |= otherwise
        for problem in told:  # the log has it already
            self._ledger.outcome(encode(Degraded(now_ms, problem, 0, now_ms, "budget")))

    def _tell_what_was_otherwise(self, every: dict[bytes, Declared]) -> None:
        now_ms = self._clock_ms()
        otherwise, self._otherwise = self._otherwise, {}
        for key, (before, after) in otherwise.items():
            each = every.get(key)
            if each is not None:
                what = f"{exact(before)} is {exact(after)} {each.bound.currency}"
                self._note(f"{each.title}, in the store of limits: {what}", now_ms, now_ms)

    def _note(self, problem: str, since_ms: int, now_ms: int) -> None:
        log.warning("a budget is put right by the ledger", extra={"fields": {"budget": problem}})
        self._ledger.outcome(encode(Degraded(now_ms, problem, 0, since_ms, "budget")))

    def _row(self, each: Declared, ledger: int, counted: int, now_ms: int) -> Row:
        state = self._store.state(each.mark, each.bound.limit, now_ms)
        return row_of(each, ledger, counted, state.remaining)


def row_of(each: Declared, ledger: int, counted: int, left: int) -> Row:
    bound = each.bound
    period = "day" if bound.limit.window_ms == DAY_MS else "month"
    return Row(bound.scope, each.name, period, bound.currency, bound.limit.burst, ledger, counted, left)


class Said(Protocol):
    """What a worker says."""

    @property
    def rows(self) -> tuple[Row, ...]: ...

    @property
    def problem(self) -> str | None: ...


def merged(answers: Sequence[Said]) -> Reckoning:
    """What workers say of the same budgets, added up. What is left is the least that one of them knows of."""
    found: dict[tuple[str, str, str, str], Row] = {}
    for answer in answers:
        for row in answer.rows:
            key = row.scope, row.name, row.period, row.currency
            before = found.get(key)
            found[key] = row if before is None else added(before, row)
    problems = tuple(answer.problem for answer in answers if answer.problem is not None)
    return Reckoning(tuple(found[key] for key in sorted(found)), problems)


def added(one: Row, other: Row) -> Row:
    ledger, counted = one.ledger + other.ledger, one.counted + other.counted
    return structs.replace(one, ledger=ledger, counted=counted, left=min(one.left, other.left))
