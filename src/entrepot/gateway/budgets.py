"""Budgets and the ledger: what was spent is what the worker's own logs say, at a start and ever after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec

from entrepot.gateway.bounds import Bound, Scope, budget_bound, key_of
from entrepot.ledger.ledger import Place
from entrepot.ledger.verify import Unproved
from entrepot.limits.rate import DAY_MS, window_of, window_start_ms
from entrepot.limits.reserve import Store
from entrepot.projections.prices import Prices, exact
from entrepot.projections.spending import Spending
from entrepot.resources.model import Account, Model, Organization, Quota
from entrepot.snapshot import Snapshot


class Declared(NamedTuple):
    """A budget, and whose calls draw from it: those of `accounts`, of one of their keys if it is a key's.

    `mark` names it in every process. `name` is that of the account, of `account/key`, of the organization.
    """

    mark: bytes
    bound: Bound
    name: str
    accounts: tuple[str, ...]
    key: str | None = None

    @property
    def title(self) -> str:
        return f"{self.bound.scope} {self.name}"


class Budgets:
    """Of the worker whose logs are called `name`. `spent` and `advance` read files; any thread may call them.

    `left` are the logs of workers that there are no more: what they spent is this one's to count.
    """

    def __init__(self, data: Path, name: str, store: Store, left: Sequence[str] = ()) -> None:
        self._data = data
        self._name = name
        self._names_left = left
        self._left: list[Spending] = []
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
            if {each.mark for each in declared_in(clients_of(snapshot), ())} <= self._known:
                return None
            spending = self._advanced(snapshot, now_ms, None)
            every = declared_in(clients_of(snapshot), self._keys(spending))
            return {each.mark: (each, self._sum(spending, each, now_ms)) for each in every}

    def restore(self, spent: dict[bytes, tuple[Declared, int]], now_ms: int) -> list[str]:
        """Set the budgets that were not known; tells which had been counted otherwise. Raises StoreBusy."""
        drift = []
        for key, (each, units) in spent.items():
            if key not in self._known:
                bound = each.bound
                before = self._store.restore(key, bound.limit, units, now_ms)
                if before not in {0, units}:
                    drift.append(f"{each.title}: {exact(before)} is {exact(units)} {bound.currency}")
        self._known = frozenset(spent)
        return drift

    def known(self, snapshot: Snapshot) -> list[Declared]:
        """All budgets, also those of keys that only principals have; of each there is at least one call or a sum."""
        with self._turn:
            keys = () if self._spending is None else self._keys(self._spending)
            return list(declared_in(clients_of(snapshot), keys)) if self._known else []

    def spent_until(self, snapshot: Snapshot, every: list[Declared], now_ms: int, place: Place) -> list[int] | None:
        """What the logs say of each up to a place in them, in the window that `now_ms` is in.

        None if a checkpoint does not cover the place yet, or more is in the sums already. Raises ValueError, OSError.
        """
        with self._turn:
            until = place.origin, place.number
            spending = self._advanced(snapshot, now_ms, until)
            if spending.place != until:
                return None
            return [self._sum(spending, each, now_ms) for each in every]

    def keep(self) -> None:
        """Keep the derived file young, so that a start has little to read. Raises OSError."""
        with self._turn:
            if self._spending is not None:
                self._spending.keep()

    def _advanced(self, snapshot: Snapshot, now_ms: int, until: tuple[str, int] | None) -> Spending:
        keyed, basis = basis_of((each.given for each in snapshot.accounts.values()), snapshot.models.values())
        try:
            if self._spending is None or basis != self._basis:
                prices = Prices(snapshot.models.values())
                self._spending, self._basis = Spending(self._data, self._name, prices, keyed, basis), basis
                self._left = [Spending(self._data, name, prices, keyed, basis) for name in self._names_left]
            for each in self._left:
                each.advance(now_ms)
            self._spending.advance(now_ms, until)
        except (Unproved, msgspec.DecodeError) as wrong:
            raise ValueError(f"what was spent cannot be read from the ledger: {wrong}") from wrong
        return self._spending

    def _keys(self, spending: Spending) -> set[tuple[str, str]]:
        return spending.keys().union(*(each.keys() for each in self._left))

    def _sum(self, spending: Spending, each: Declared, now_ms: int) -> int:
        return sum(spent_of(one, each, now_ms) for one in (spending, *self._left))


def spent_of(spending: Spending, each: Declared, now_ms: int) -> int:
    """In the budget's day or month, in 10^-12 of the currency's unit."""
    window_ms = each.bound.limit.window_ms
    since_day = window_start_ms(window_ms, window_of(window_ms, now_ms)) // DAY_MS
    return spending.total(each.accounts, each.bound.currency, since_day, each.key)


def basis_of(accounts: Iterable[Account], models: Iterable[Model]) -> tuple[list[str], str]:
    """Accounts whose keys have budgets, and the mark of all that sums are made by."""
    keyed = sorted(each.name for each in accounts if each.key_limits.budgets)
    prices = sorted((each.name, each.version, each.prices) for each in models if each.prices)
    return keyed, sha256(msgspec.json.encode((keyed, prices))).hexdigest()


def clients_of(snapshot: Snapshot) -> Iterator[tuple[Account, Organization]]:
    return ((each.given, each.organization) for each in snapshot.accounts.values())


def declared_in(clients: Iterable[tuple[Account, Organization]], keys: Iterable[tuple[str, str]]) -> Iterator[Declared]:
    """All budgets. `keys` are accounts and their keys that have called, for principals who call as keys do."""
    called: dict[str, set[str]] = {}
    for name, key in keys:
        called.setdefault(name, set()).add(key)
    members: dict[str, tuple[Quota, list[str]]] = {}
    for account, organization in clients:
        name = account.name
        if account.limits.budgets:
            yield from _of("account", name, account.limits, (name,))
        if account.key_limits.budgets:
            for key in sorted({"key1", "key2"} | called.get(name, set())):
                yield from _of("key", f"{name}/{key}", account.key_limits, (name,), key)
        if organization.limits.budgets:
            members.setdefault(organization.name, (organization.limits, []))[1].append(name)
    for organization_name, (quota, accounts) in members.items():
        yield from _of("organization", organization_name, quota, tuple(accounts))


def _of(scope: Scope, name: str, quota: Quota, accounts: tuple[str, ...], key: str | None = None) -> Iterator[Declared]:
    for budget in quota.budgets:
        bound = budget_bound(scope, budget)
        yield Declared(key_of(scope, name, bound.mark), bound, name, accounts, key)
