"""Rules as terms: conjunctions of atoms, one bit each. A rule matches when one of its terms does.

Whatever depends on time is cut here: within a term's interval the sets that it names do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

from entrepot.policy.conditions import is_reference, set_name
from entrepot.policy.membership import Group, Listing, listing
from entrepot.policy.model import Condition, Rule, Set, conditions_of, in_effect
from entrepot.policy.ownership import THRESHOLDS
from entrepot.resources.model import UNKNOWN


class Atom(NamedTuple):
    """One condition, ready to be asked. `refusing`: what cannot be told is taken to hold. `negated` turns it over."""

    fact: str
    literals: Listing
    groups: tuple[Group, ...]
    names_unknown: bool
    refusing: bool
    negated: bool


class Term(NamedTuple):
    """`asks` has, for each fact, the atoms that all have to hold. Alive in `[from_ms, until_ms)`."""

    rule: int
    from_ms: int | None
    until_ms: int | None
    asks: tuple[tuple[str, tuple[Atom, ...]], ...]


class Sets:
    """The named sets of a release, and their members at an instant."""

    def __init__(self, sets: Iterable[Set]) -> None:
        self._sets = {each.name: each for each in sets}
        self._cuts = {name: _cuts(each) for name, each in self._sets.items()}
        self._known: dict[tuple[str, int | None], Listing] = {}

    def cuts(self, name: str) -> frozenset[int]:
        return self._cuts[name]

    def members(self, name: str, at_ms: int | None) -> Listing:
        """`at_ms` None: before every cut."""
        key = name, max((cut for cut in self._cuts[name] if at_ms is not None and cut <= at_ms), default=None)
        if key not in self._known:
            found = self._sets[name]
            alive = _holds(found.from_ms, found.until_ms, at_ms)
            self._known[key] = listing(
                one.value for one in found.members if alive and _holds(one.from_ms, one.until_ms, at_ms)
            )
        return self._known[key]


def _cuts(found: Set) -> frozenset[int]:
    starts = {found.from_ms, *(one.from_ms for one in found.members)}
    ends = {found.until_ms, *(one.until_ms for one in found.members)}
    return frozenset(end for end in starts | ends if end is not None)


def _holds(start: int | None, until: int | None, at_ms: int | None) -> bool:
    if at_ms is None:
        return start is None
    return (start is None or start <= at_ms) and (until is None or at_ms < until)


def terms_of(index: int, rule: Rule, sets: Sets) -> Iterator[Term]:
    """The terms of a rule that decides at some time, else none."""
    interval = in_effect(rule)
    if interval is None:
        return
    for start, until in _stretches(rule, interval, sets):
        seen = set()
        for asks in _alternatives(rule, sets, start):
            if asks not in seen:
                seen.add(asks)
                yield Term(index, start, until, asks)


def _stretches(
    rule: Rule, interval: tuple[int | None, int | None], sets: Sets
) -> Sequence[tuple[int | None, int | None]]:
    """The rule's interval, cut wherever a set that it names changes."""
    first, last = interval
    names = {set_name(value) for one in conditions_of(rule) for value in one.values if is_reference(value)}
    inner = sorted(
        cut
        for cut in frozenset[int]().union(*map(sets.cuts, names))
        if (first is None or cut > first) and (last is None or cut < last)
    )
    return list(pairwise([first, *inner, last]))


def _alternatives(rule: Rule, sets: Sets, at_ms: int | None) -> Iterator[tuple[tuple[str, tuple[Atom, ...]], ...]]:
    """The rule in disjunctive form: `when`, one of `any`, and of each group of `unless` one condition that fails.

    Unknown falls on the refusing side: a forbid's conditions and a permit's exceptions are taken to hold.
    """
    forbids = rule.effect == "forbid"
    asked = forbids and not rule.unknown_passes
    excepted = not forbids
    always = [_atom(one, sets, at_ms, refusing=asked) for one in rule.when]
    choices: list[list[Atom]] = []
    if rule.any:
        choices.append([_atom(one, sets, at_ms, refusing=asked) for one in rule.any])
    choices.extend([_atom(one, sets, at_ms, refusing=excepted, negated=True) for one in group] for group in rule.unless)
    for chosen in product(*choices):
        yield _by_fact([*always, *chosen])


def _atom(condition: Condition, sets: Sets, at_ms: int | None, *, refusing: bool, negated: bool = False) -> Atom:
    return Atom(
        condition.fact,
        listing(value for value in condition.values if not is_reference(value) and value != UNKNOWN),
        tuple(Group(value, sets.members(set_name(value), at_ms)) for value in condition.values if is_reference(value)),
        UNKNOWN in condition.values,
        refusing,
        negated,
    )


def _by_fact(atoms: Iterable[Atom]) -> tuple[tuple[str, tuple[Atom, ...]], ...]:
    """Ownership is asked set by set: what one set holds says nothing about what another does."""
    found: dict[tuple[str, str], dict[Atom, None]] = {}
    for atom in atoms:
        pool = atom.groups[0].reference if atom.fact in THRESHOLDS else ""
        found.setdefault((atom.fact, pool), {})[atom] = None
    return tuple((fact, tuple(found[fact, pool])) for fact, pool in sorted(found))


def decided_by(atom: Atom, outcome: bool | None, *, unknown: bool) -> bool:
    """The truth of an atom from the outcome of its literals and sets; `unknown`: the value itself is unknown."""
    if unknown and atom.names_unknown:
        outcome = True
    return (atom.refusing if outcome is None else outcome) is not atom.negated
