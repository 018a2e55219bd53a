"""Refusals: who was refused, by which rules, with which code, from where. Entries may come in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from entrepot.ledger.entries import Refusals as Aggregated
from entrepot.ledger.read import Read
from entrepot.ledger.verify import REFUSED
from entrepot.projections.births import NO_BIRTHS, born
from entrepot.projections.parts import REMEMBERED, Key, split
from entrepot.projections.window import ALWAYS, Window, day_of

DIMENSIONS = ("account", "rule", "code", "territory", "day")
AGGREGATED = b'{"refusals":{'
NO_PERMIT = "(no rule permits it)"


class Cell(NamedTuple):
    """`rule` holds all rules that refused some candidate, so that a refusal counts once; empty: it was no rule.

    `territory` is where the calls came from, empty where that was not recorded. `born_ms` is as in the usage's cells.
    """

    account: str
    rule: str
    code: str
    territory: str
    day: str
    born_ms: int | None = None


class _Client(msgspec.Struct):
    account: str


class _Origin(msgspec.Struct):
    territory: str


class _Candidate(msgspec.Struct):
    permit: bool
    rules: tuple[str, ...]


class _Decision(msgspec.Struct):
    candidates: tuple[_Candidate, ...]
    client: _Client
    origin: _Origin
    code: str = ""


_decision = msgspec.json.Decoder(_Decision).decode
_aggregated = msgspec.json.Decoder(Aggregated).decode


class Refusals:
    """Give it entries with `take`; `cells` are the finest counts."""

    def __init__(self, window: Window = ALWAYS, births: Mapping[str, int] = NO_BIRTHS) -> None:
        self.cells: dict[Cell, int] = {}
        self._window = window
        self._births = births
        self._known: dict[Key, tuple[str, str, str, str]] = {}

    def take(self, read: Read) -> None:
        """Raises msgspec.DecodeError for a refusal that is none."""
        entry = read.entry
        if entry.startswith(REFUSED):
            at_ms, key = split(entry)
            self._count(self._about(key, entry), at_ms, 1)
        elif entry.startswith(AGGREGATED):
            many = aggregated(entry)
            self._count((many.account, many.rule, many.code, ""), many.minute_ms, many.count)

    def _count(self, about: tuple[str, str, str, str], at_ms: int, number: int) -> None:
        if at_ms in self._window:
            cell = Cell(*about, day_of(at_ms), born(self._births, about[0], at_ms))
            self.cells[cell] = self.cells.get(cell, 0) + number

    def _about(self, key: Key, entry: bytes) -> tuple[str, str, str, str]:
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            decision = _decision(entry[12:-1])
            rule = refusing((one.permit, one.rules) for one in decision.candidates)
            found = decision.client.account, rule, decision.code, decision.origin.territory
            self._known[key] = found
        return found


def aggregated(entry: bytes) -> Aggregated:
    """Of an entry that begins with AGGREGATED. Raises msgspec.DecodeError."""
    return _aggregated(entry[len(AGGREGATED) - 1 : -1])


def refusing(candidates: Iterable[tuple[bool, Iterable[str]]]) -> str:
    """The rules that refused candidates, as one text."""
    rules = {rule for permit, each in candidates if not permit for rule in tuple(each) or (NO_PERMIT,)}
    return ", ".join(sorted(rules))


def grouped(cells: Mapping[Cell, int], by: Iterable[str]) -> dict[tuple[str, ...], int]:
    """The counts by some of the dimensions, sorted."""
    places = [DIMENSIONS.index(name) for name in by]
    groups: dict[tuple[str, ...], int] = {}
    for cell, number in cells.items():
        group = tuple(str(cell[place]) for place in places)
        groups[group] = groups.get(group, 0) + number
    return dict(sorted(groups.items()))
