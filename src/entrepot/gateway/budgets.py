"""Budgets and the ledger: at a start, and when a budget is new, what was spent is what the worker's own logs say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec

from entrepot.gateway.bounds import Bound, Scope, budget_bound
from entrepot.ledger.verify import Unproved
from entrepot.limits.rate import DAY_MS, window_of, window_start_ms
from entrepot.limits.reserve import Store
from entrepot.projections.prices import Prices, exact
from entrepot.projections.spending import Spending
from entrepot.resources.model import Quota
from entrepot.snapshot import Snapshot


class Declared(NamedTuple):
    """A budget, and whose calls draw from it: those of `accounts`, of one of their keys if it is a key's."""

    bound: Bound
    accounts: tuple[str, ...]
    key: str | None = None


class Budgets:
    """Of the worker whose logs are called `name`. `spent` and `advance` read files; any thread may call them."""

    def __init__(self, data: Path, name: str, store: Store) -> None:
        self._data = data
        self._name = name
        self._store = store
        self._known: frozenset[bytes] = frozenset()
        self._spending: Spending | None = None
        self._basis = ""
        self._turn = Lock()

    def spent(self, snapshot: Snapshot, now_ms: int) -> dict[bytes, tuple[Declared, int]] | None:
        """What the logs say of each budget; None if all of them are known. Raises ValueError, OSError.

        Calls under way are not in it yet, nor those of the last moment before a budget that is added while calls go on.
        """
        with self._turn:
            if {each.bound.key for each in declared_in(snapshot, ())} <= self._known:
                return None
            spending, found = self._read(snapshot, now_ms), {}
            for each in declared_in(snapshot, spending.keys()):
                bound = each.bound
                window_ms = bound.limit.window_ms
                since_day = window_start_ms(window_ms, window_of(window_ms, now_ms)) // DAY_MS
                units = spending.total(each.accounts, bound.currency, since_day, each.key)
                found[bound.key] = each, units
            return found

    def restore(self, spent: dict[bytes, tuple[Declared, int]], now_ms: int) -> list[str]:
        """Set the budgets that were not known; tells which had been counted otherwise. Raises StoreBusy."""
        drift = []
        for key, (each, units) in spent.items():
            if key not in self._known:
                bound = each.bound
                before = self._store.restore(key, bound.limit, units, now_ms)
                if before not in {0, units}:
                    whose = f"{bound.scope} {each.accounts[0]}"
                    drift.append(f"{whose}: {exact(before)} is {exact(units)} {bound.currency}")
        self._known = frozenset(spent)
        return drift

    def advance(self, now_ms: int) -> None:
        """Keep the derived file young, so that a start has little to read. Raises ValueError, OSError."""
        with self._turn:
            if self._spending is not None and self._known:
                self._advanced(self._spending, now_ms)

    def _read(self, snapshot: Snapshot, now_ms: int) -> Spending:
        keyed = sorted(each.name for each in snapshot.accounts.values() if each.given.key_limits.budgets)
        prices = [(model.name, model.version, model.prices) for model in snapshot.models.values() if model.prices]
        basis = sha256(msgspec.json.encode((keyed, prices))).hexdigest()
        if self._spending is None or basis != self._basis:
            self._basis = basis
            self._spending = Spending(self._data, self._name, Prices(snapshot.models.values()), keyed, basis)
        return self._advanced(self._spending, now_ms)

    def _advanced(self, spending: Spending, now_ms: int) -> Spending:
        try:
            spending.advance(now_ms)
        except (Unproved, msgspec.DecodeError) as wrong:
            raise ValueError(f"what was spent cannot be read from the ledger: {wrong}") from wrong
        return spending


def declared_in(snapshot: Snapshot, keys: Iterable[tuple[str, str]]) -> Iterator[Declared]:
    """All budgets. `keys` are accounts and their keys that have called, for principals who call as keys do."""
    called: dict[str, set[str]] = {}
    for name, key in keys:
        called.setdefault(name, set()).add(key)
    members: dict[str, tuple[Quota, list[str]]] = {}
    for account in snapshot.accounts.values():
        name, organization = account.name, account.organization
        if account.given.limits.budgets:
            yield from _of("account", name, account.given.limits, (name,))
        if account.given.key_limits.budgets:
            for key in sorted({"key1", "key2"} | called.get(name, set())):
                yield from _of("key", f"{name}/{key}", account.given.key_limits, (name,), key)
        if organization.limits.budgets:
            members.setdefault(organization.name, (organization.limits, []))[1].append(name)
    for organization_name, (quota, accounts) in members.items():
        yield from _of("organization", organization_name, quota, tuple(accounts))


def _of(scope: Scope, name: str, quota: Quota, accounts: tuple[str, ...], key: str | None = None) -> Iterator[Declared]:
    for budget in quota.budgets:
        yield Declared(budget_bound(scope, name, budget), accounts, key)
