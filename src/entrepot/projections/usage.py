"""Usage: who used how many tokens of which model where, what they cost, and how surely that is known.

A call belongs to the instant of its decision. Entries may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from entrepot.ledger import entries
from entrepot.ledger.entries import Leg, Outcome
from entrepot.ledger.read import Read
from entrepot.ledger.verify import ADMITTED
from entrepot.projections.births import NO_BIRTHS, born
from entrepot.projections.parts import REMEMBERED, Key, split
from entrepot.projections.prices import Prices, cost
from entrepot.projections.window import ALWAYS, Window, day_of
from entrepot.resources.model import UNKNOWN

DIMENSIONS = ("account", "deployment", "model", "region", "day")
OUTCOME = b'{"outcome":{'


class Cell(NamedTuple):
    """What a call is told apart by. `region` is where the model ran, empty where none did; `day` is in UTC.

    `born_ms` is when the account was made that has the name now, and had it at the call; None where that is not known.
    """

    account: str
    deployment: str
    model: str
    region: str
    day: str
    born_ms: int | None = None


class Sums(msgspec.Struct):
    """Calls by what became of them, tokens by how they were obtained.

    Tokens of tries that did not give the answer are among the others; `failed_legs` says once more how many there were.
    `cached` is part of the prompts, `reasoning` of the completions. `unpriced` tokens have no price in the world.
    `cost` is by currency, in 10^-12 of its unit.
    """

    calls: int = 0
    served: int = 0
    failed: int = 0
    cut: int = 0
    client_gone: int = 0
    lost: int = 0
    open: int = 0
    prompt_reported: int = 0
    completion_reported: int = 0
    prompt_counted: int = 0
    completion_counted: int = 0
    prompt_estimated: int = 0
    completion_estimated: int = 0
    cached: int = 0
    reasoning: int = 0
    failed_legs: int = 0
    prompt_failed_legs: int = 0
    completion_failed_legs: int = 0
    unpriced: int = 0
    cost: dict[str, int] = {}

    @property
    def prompt(self) -> int:
        return self.prompt_reported + self.prompt_counted + self.prompt_estimated

    @property
    def completion(self) -> int:
        return self.completion_reported + self.completion_counted + self.completion_estimated

    def add(self, other: Sums) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for currency, amount in other.cost.items():
            self.cost[currency] = self.cost.get(currency, 0) + amount


COUNTS = Sums.__struct_fields__[:-1]


class Subject(NamedTuple):
    """What a decision was about. `regions` is by upstream."""

    account: str
    deployment: str
    model: str
    version: str
    regions: Mapping[str, str]


class _Client(msgspec.Struct):
    account: str


class _Deployment(msgspec.Struct):
    model: str
    name: str
    version: str


class _Facts(msgspec.Struct):
    region: str = msgspec.field(name="target.region", default=UNKNOWN)


class _Candidate(msgspec.Struct):
    facts: _Facts
    upstream: str


class _Decision(msgspec.Struct):
    candidates: tuple[_Candidate, ...]
    client: _Client
    deployment: _Deployment


_decision = msgspec.json.Decoder(_Decision).decode
_outcome = msgspec.json.Decoder(Outcome).decode


class Usage:
    """Give it entries with `take`, then `finish`; `cells` are the finest sums, from which all others are added up.

    With prices, what tokens cost is summed too. `without_outcome` are then the admitted decisions that have no outcome,
    `without_decision` the outcomes that have none, or that have one that had its outcome already: not counted.
    `waiting` are the admitted decisions without an outcome so far, by their places, and `early` the outcomes without a
    decision so far: who adds up in steps keeps them from one to the next. `births` are those of the accounts that there
    are, by their names in lower case.
    """

    def __init__(
        self, prices: Prices | None = None, window: Window = ALWAYS, births: Mapping[str, int] = NO_BIRTHS
    ) -> None:
        self.cells: dict[Cell, Sums] = {}
        self.without_outcome: list[str] = []
        self.without_decision: list[str] = []
        self.waiting: dict[str, tuple[int, Subject]] = {}
        self.early: dict[str, list[Outcome]] = {}
        self._prices = prices
        self._window = window
        self._births = births
        self._subjects: dict[Key, Subject] = {}

    def take(self, read: Read) -> None:
        """Raises msgspec.DecodeError for a decision or outcome that is none."""
        entry = read.entry
        if entry.startswith(OUTCOME):
            outcome = _outcome(entry[len(OUTCOME) - 1 : -1])
            waiting = self.waiting.pop(outcome.decision, None)
            if waiting is None:
                self.early.setdefault(outcome.decision, []).append(outcome)
            else:
                self._book(*waiting, outcome)
        elif entry.startswith(ADMITTED):
            at_ms, key = split(entry)
            place, about = f"{read.origin}/{read.number}", (at_ms, self._subject(key, entry))
            early = self.early.get(place)
            if early is None:
                self.waiting[place] = about
                return
            self._book(*about, early.pop(0))
            if not early:
                del self.early[place]

    def finish(self) -> None:
        """Book the calls that have no outcome."""
        for place, (at_ms, subject) in self.waiting.items():
            if at_ms in self._window:
                sums = self._sums(subject, "", at_ms)
                sums.calls += 1
                sums.open += 1
                self.without_outcome.append(place)
        self.without_decision += [place for place, early in self.early.items() for _ in early]

    def _subject(self, key: Key, entry: bytes) -> Subject:
        found = self._subjects.get(key)
        if found is None:
            if len(self._subjects) >= REMEMBERED:
                self._subjects.clear()
            decision = _decision(entry[12:-1])
            given = decision.deployment
            regions = {one.upstream: one.facts.region for one in decision.candidates}
            found = Subject(decision.client.account, given.name, given.model, given.version, regions)
            self._subjects[key] = found
        return found

    def _sums(self, subject: Subject, upstream: str, at_ms: int) -> Sums:
        region = subject.regions.get(upstream, UNKNOWN) if upstream else ""
        model = f"{subject.model}@{subject.version}"
        born_ms = born(self._births, subject.account, at_ms)
        cell = Cell(subject.account, subject.deployment, model, region, day_of(at_ms), born_ms)
        found = self.cells.get(cell)
        if found is None:
            found = self.cells[cell] = Sums()
        return found

    def _book(self, at_ms: int, subject: Subject, outcome: Outcome) -> None:
        if at_ms not in self._window:
            return
        sums = self._sums(subject, answering(outcome.legs), at_ms)
        sums.calls += 1
        setattr(sums, outcome.result, getattr(sums, outcome.result) + 1)
        self._spend(sums, subject, at_ms, outcome.usage)
        for leg in outcome.legs:
            if leg.usage is not UNSET:
                sums = self._sums(subject, leg.upstream, at_ms)
                sums.failed_legs += 1
                sums.prompt_failed_legs += leg.usage.prompt
                sums.completion_failed_legs += leg.usage.completion
                self._spend(sums, subject, at_ms, leg.usage)

    def _spend(self, sums: Sums, subject: Subject, at_ms: int, usage: entries.Usage | UnsetType) -> None:
        if usage is UNSET:
            return
        if usage.source == "reported":
            sums.prompt_reported += usage.prompt
            sums.completion_reported += usage.completion
        elif usage.source == "counted":
            sums.prompt_counted += usage.prompt
            sums.completion_counted += usage.completion
        else:
            sums.prompt_estimated += usage.prompt
            sums.completion_estimated += usage.completion
        sums.cached += usage.cached
        sums.reasoning += usage.reasoning
        if self._prices is None:
            return
        price = self._prices.at(subject.model, subject.version, at_ms)
        if price is None:
            sums.unpriced += usage.prompt + usage.completion
        else:
            sums.cost[price.currency] = sums.cost.get(price.currency, 0) + cost(price, usage)


def answering(legs: Sequence[Leg]) -> str:
    """The upstream whose answer the client got, or the last that was tried; empty where none was."""
    answered = [leg.upstream for leg in legs if leg.result == "answered"]
    return (answered or [leg.upstream for leg in legs] or [""])[-1]


def grouped(cells: Mapping[Cell, Sums], by: Iterable[str]) -> dict[tuple[str, ...], Sums]:
    """The sums by some of the dimensions, sorted."""
    places = [DIMENSIONS.index(name) for name in by]
    groups: dict[tuple[str, ...], Sums] = {}
    for cell, sums in cells.items():
        groups.setdefault(tuple(str(cell[place]) for place in places), Sums()).add(sums)
    return dict(sorted(groups.items()))


def total(cells: Mapping[Cell, Sums]) -> Sums:
    sums = Sums()
    for each in cells.values():
        sums.add(each)
    return sums
