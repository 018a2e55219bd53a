"""For each fact and value an integer whose bit i says that term i tolerates the value.

Total: a value that no rule names has the row `*other*`, and what is no value at all has the row of `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from entrepot.policy.facts import OTHER, Fact
from entrepot.policy.membership import Group, member, one_of
from entrepot.policy.ownership import Holding, reaches
from entrepot.policy.terms import Atom, Term, decided_by
from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import CODES, country_of, normalise_territory

# Atoms on one fact that all have to hold, and the terms that ask exactly these. Two asks share no term.
Asks = tuple[tuple[Atom, ...], int]


def asks_of(terms: Iterable[Term]) -> dict[str, list[Asks]]:
    """What is asked of each fact, and by which terms."""
    found: dict[str, dict[tuple[Atom, ...], int]] = {}
    for at, term in enumerate(terms):
        for fact, atoms in term.asks:
            bits = found.setdefault(fact, {})
            bits[atoms] = bits.get(atoms, 0) | 1 << at
    return {fact: list(asks.items()) for fact, asks in found.items()}


class Table(dict[str, int]):
    """The rows of a fact that has one value. `table[value]` never fails."""

    def __init__(self, fact: Fact, asks: list[Asks], full: int) -> None:
        super().__init__()
        self._fact = fact
        self._asks = asks
        self._mentions = _mentions(fact, asks)
        self._base = self._row(full, OTHER, asks)
        self[UNKNOWN] = self._row(full, UNKNOWN, asks)
        self.update(dict.fromkeys(CODES if fact.kind == "territory" else fact.values, self._base))
        for value in self._mentions:
            self[value] = self._changed(value)
        self.other = self[UNKNOWN] if fact.kind in {"closed", "territory"} else self._base

    def __missing__(self, value: str) -> int:
        if self._fact.kind == "territory" and normalise_territory(value) == value:
            return self._changed(value)
        return self.other

    def named(self) -> Mapping[str, list[Asks]]:
        """The values that some rule names, and the countries whose parts are named."""
        return self._mentions

    def row(self, value: str) -> int:
        """As `table[value]`; also for `*other*` and for `UA-*`, a part of a country that no rule names."""
        return self[value] if value in self else self._changed(value)

    def _row(self, full: int, value: str, asks: Iterable[Asks]) -> int:
        for atoms, bits in asks:
            if not all(_holds(self._fact, atom, value) for atom in atoms):
                full ^= bits
        return full

    def _changed(self, value: str) -> int:
        """The row of a value, from that of `*other*`: only asks that mention the value can differ."""
        row = self._base
        for atoms, bits in self._mentioning(value):
            holds = all(_holds(self._fact, atom, value) for atom in atoms)
            row = row | bits if holds else row & ~bits
        return row

    def _mentioning(self, value: str) -> Iterable[Asks]:
        found = self._mentions.get(value)
        if found is None and self._fact.kind == "territory":
            found = self._mentions.get(country_of(value))
        return found or ()


def _mentions(fact: Fact, asks: list[Asks]) -> dict[str, list[Asks]]:
    """For each value the asks that name it; a subdivision mentions its country, and is mentioned with it."""
    found: dict[str, dict[int, Asks]] = {}
    for at, ask in enumerate(asks):
        for atom in ask[0]:
            for value in atom.literals.values.union(*(group.members.values for group in atom.groups)):
                found.setdefault(value, {})[at] = ask
                if fact.kind == "territory":
                    found.setdefault(country_of(value), {})[at] = ask
    if fact.kind == "territory":
        for value in found:
            found[value] |= found[country_of(value)]
    return {value: list(named.values()) for value, named in found.items()}


def _holds(fact: Fact, atom: Atom, value: str) -> bool:
    if fact.kind == "territory":
        literal = member(value, atom.literals)
        groups = (_turn(group, member(value, group.members)) for group in atom.groups)
    else:
        known = None if value == UNKNOWN else True
        literal = known and value in atom.literals.values
        groups = (_turn(group, known and value in group.members.values) for group in atom.groups)
    return decided_by(atom, one_of((literal, *groups)), unknown=value == UNKNOWN)


def _turn(group: Group, inside: bool | None) -> bool | None:
    return inside if inside is None or not group.negated else not inside


class SetTable:
    """The rows of a fact that is a set of names; computed when a resource changes, not per call."""

    def __init__(self, fact: Fact, asks: list[Asks], full: int) -> None:
        self._asks = asks
        self._full = full
        self._mentions = _mentions(fact, asks)
        self._empty = self._row(frozenset(), asks, full)

    def row(self, values: frozenset[str]) -> int:
        """`unknown` among the values: there may be more of them than are known."""
        if UNKNOWN in values:
            return self._row(values, self._asks, self._full)
        row = self._empty
        for atoms, bits in {id(ask): ask for value in values for ask in self._mentions.get(value, ())}.values():
            holds = all(_intersects(atom, values) for atom in atoms)
            row = row | bits if holds else row & ~bits
        return row

    def named(self) -> frozenset[str]:
        """The names that some rule asks for."""
        return frozenset(self._mentions)

    @staticmethod
    def _row(values: frozenset[str], asks: Iterable[Asks], full: int) -> int:
        for atoms, bits in asks:
            if not all(_intersects(atom, values) for atom in atoms):
                full ^= bits
        return full


def _intersects(atom: Atom, values: frozenset[str]) -> bool:
    """`@s`: some member is in s; `@!s`: no member is in s."""
    maybe = None if UNKNOWN in values else False
    literal = bool(values & atom.literals.values) or (maybe if atom.literals.values else False)
    groups = (_turn(group, bool(values & group.members.values) or maybe) for group in atom.groups)
    return decided_by(atom, one_of((literal, *groups)), unknown=False)


class OwnedTable:
    """The rows of an ownership fact. Each ask is about one set; a term may have several."""

    def __init__(self, fact: Fact, asks: list[Asks], full: int) -> None:
        self._fact = fact
        self._full = full
        self.asks = asks

    def row(self, holding: Holding) -> int:
        row = self._full
        for atoms, bits in self.asks:
            if not all(self._reached(atom, holding) for atom in atoms):
                row &= ~bits
        return row

    def _reached(self, atom: Atom, holding: Holding) -> bool:
        (group,) = atom.groups
        outcome = reaches(self._fact.name, holding(group.reference, group.members))
        return decided_by(atom, outcome, unknown=outcome is None)
