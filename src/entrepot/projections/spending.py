"""What the accounts of one writing process have spent, by day, kept up with its own logs: what its budgets rest on.

The state is a derived file, so that a start reads only what was written since. It can always be made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import UNSET

from entrepot.ledger.entries import Outcome
from entrepot.ledger.read import Read, covered, entries_of, personal_of
from entrepot.ledger.verify import ADMITTED, folder_name
from entrepot.projections.parts import REMEMBERED, Key, split
from entrepot.projections.prices import Prices, cost
from entrepot.projections.usage import OUTCOME
from entrepot.projections.window import DAY_MS

KEPT_DAYS = 32

Subject = tuple[str, str, str]
"""Account, model and version."""
Cell = tuple[str, str, int]
"""Of an account: name of its key (empty unless keys have budgets), currency, number of the day."""


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """An admitted decision that has no outcome yet."""

    at_ms: int
    subject: Subject
    key: str


class State(msgspec.Struct):
    """`origin` and `size`: the log and how many of its entries are in. `cells` are costs, in 10^-12 of a unit.

    `basis` is what the sums were made by: other prices, or budgets of keys, make them anew.
    """

    basis: str
    origin: str = ""
    size: int = 0
    cells: list[tuple[str, str, str, int, int]] = []
    waiting: dict[str, Waiting] = {}


class _Client(msgspec.Struct):
    account: str


class _Deployment(msgspec.Struct):
    model: str
    version: str


class _Decision(msgspec.Struct):
    client: _Client
    deployment: _Deployment


_decision = msgspec.json.Decoder(_Decision).decode
_outcome = msgspec.json.Decoder(Outcome).decode
_state = msgspec.json.Decoder(State).decode


class Spending:
    """Of the process `name` in the ledger of `data`. `keyed` are the accounts whose keys have budgets."""

    def __init__(
        self,
        data: Path,
        name: str,
        prices: Prices,
        keyed: Iterable[str] = (),
        basis: str = "",
        *,
        kept: bool = True,
    ) -> None:
        """Begins with what the file has, unless it is to be computed from nothing (`kept`)."""
        self._ledger = data / "ledger"
        self._file = data / "derived" / "limits" / f"{folder_name(name)}.json"
        self._own = re.compile(re.escape(folder_name(f"{name}/")) + r"(\d{4}-\d\d)_(\d+)")
        self._prices = prices
        self._keyed = frozenset(keyed)
        self._subjects: dict[Key, Subject] = {}
        self._personal: tuple[Path, dict[int, str]] | None = None
        self._basis = basis
        self._sums: dict[str, dict[Cell, int]] = {}
        self._state = (self._stored() if kept else None) or State(basis)
        for account, key, currency, day, amount in self._state.cells:
            self._sums.setdefault(account, {})[key, currency, day] = amount

    @property
    def place(self) -> tuple[str, int]:
        """The log and the number of the first entry that is not in the sums."""
        return self._state.origin, self._state.size

    def advance(self, now_ms: int, until: tuple[str, int] | None = None) -> None:
        """Take what was written since the last time, but nothing from the place `until` on, if it is given.

        Only what a checkpoint covers is taken. Raises Unproved, OSError.
        """
        for folder in self._logs(now_ms):
            origin, size = covered(folder)  # what is behind it may yet be taken back
            last = until is not None and until[0] == origin
            if last and until is not None:
                size = min(size, until[1])
            start = self._state.size if origin == self._state.origin else 0
            self._personal = None
            for read in islice(entries_of(folder, start), max(0, size - start)):
                self._take(folder, read)
                self._state.origin, self._state.size = origin, read.number + 1
            if last:
                break
        first = now_ms // DAY_MS - KEPT_DAYS
        for account, sums in list(self._sums.items()):
            if any(cell[2] < first for cell in sums):
                self._sums[account] = {cell: amount for cell, amount in sums.items() if cell[2] >= first}
        oldest = first * DAY_MS
        self._state.waiting = {at: one for at, one in self._state.waiting.items() if one.at_ms >= oldest}

    def total(self, accounts: Iterable[str], currency: str, since_day: int, key: str | None = None) -> int:
        """What these accounts have spent from a day on, or one of their keys has. In 10^-12 of the unit."""
        return sum(
            amount
            for account in accounts
            for (of, in_currency, day), amount in self._sums.get(account, {}).items()
            if in_currency == currency and day >= since_day and key in {None, of}
        )

    def keys(self) -> set[tuple[str, str]]:
        """Accounts and their keys that have spent something, where that is known."""
        return {(account, key) for account, sums in self._sums.items() for key, _, _ in sums if key}

    def keep(self) -> None:
        """In the file. Raises OSError."""
        self._state.cells = [
            (account, *cell, amount) for account, sums in self._sums.items() for cell, amount in sums.items()
        ]
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._file.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(self._state))
        beside.replace(self._file)

    def _logs(self, now_ms: int) -> list[Path]:
        """Own logs that may hold entries that are not in yet, in their order: of about the last month."""
        matches = ((self._own.fullmatch(path.name), path) for path in self._ledger.glob("[!.]*"))
        found = sorted((match[1], int(match[2]), path) for match, path in matches if match is not None)
        known = folder_name(self._state.origin) if self._state.origin else ""
        names = [path.name for _, _, path in found]
        if known in names:
            return [path for _, _, path in found[names.index(known) :]]
        month = datetime.fromtimestamp(now_ms / 1_000, UTC).strftime("%Y-%m")
        return [path for of, _, path in found if of >= month]  # a log ends with its month

    def _take(self, folder: Path, read: Read) -> None:
        entry = read.entry
        if entry.startswith(ADMITTED):
            at_ms, parts = split(entry)
            subject = self._subject(parts, entry)
            key = self._key(folder, read.number) if subject[0] in self._keyed else ""
            self._state.waiting[f"{read.origin}/{read.number}"] = Waiting(at_ms, subject, key)
        elif entry.startswith(OUTCOME):
            outcome = _outcome(entry[len(OUTCOME) - 1 : -1])
            waiting = self._state.waiting.pop(outcome.decision, None)
            if waiting is not None:
                self._book(waiting, outcome)

    def _book(self, waiting: Waiting, outcome: Outcome) -> None:
        account, model, version = waiting.subject
        price = self._prices.at(model, version, waiting.at_ms)
        if price is None:
            return
        amount = sum(
            cost(price, usage) for usage in (outcome.usage, *(leg.usage for leg in outcome.legs)) if usage is not UNSET
        )
        cell, sums = (waiting.key, price.currency, waiting.at_ms // DAY_MS), self._sums.setdefault(account, {})
        sums[cell] = sums.get(cell, 0) + amount

    def _subject(self, parts: Key, entry: bytes) -> Subject:
        found = self._subjects.get(parts)
        if found is None:
            if len(self._subjects) >= REMEMBERED:
                self._subjects.clear()
            told = _decision(entry[12:-1])
            found = self._subjects[parts] = told.client.account, told.deployment.model, told.deployment.version
        return found

    def _key(self, folder: Path, number: int) -> str:
        """Which key it was stands with the personal data; of an entry whose data was erased nobody knows."""
        if self._personal is None or self._personal[0] != folder:
            self._personal = folder, {at: one.key for at, one in personal_of(folder).items()}
        return self._personal[1].get(number, "")

    def _stored(self) -> State | None:
        try:
            state = _state(self._file.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return state if state.basis == self._basis else None
