"""The whole space of facts, cut into as few pieces as the rules tell apart. What analysis walks, exactly.

One bit for each distinct term of all releases given. Membership in a set-valued fact is a dimension for each name, and
ownership one for each set of owners; these are taken to be independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, product
from typing import Final, NamedTuple

import msgspec

from entrepot.policy.facts import FACTS, OTHER, Fact, domain
from entrepot.policy.membership import Group
from entrepot.policy.model import Effect, Pack, Rule
from entrepot.policy.ownership import Bounds, Holding, reaches
from entrepot.policy.program import Timeline
from entrepot.policy.rows import Asks, Table
from entrepot.policy.terms import Atom, Sets, decided_by, terms_of
from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import CODES, country_of

# Another part of a country of which some parts are named.
ANOTHER_PART: Final = "-*"
OWNERS: Final = "owners"
YES: Final = "yes"
NO: Final = "no"

# What owners can hold, as far as a threshold can tell: the least and the most of it.
_STEPS: Final[Mapping[Fraction, str]] = {
    Fraction(0): "under 25 %",
    Fraction(1, 4): "25 % to under 50 %",
    Fraction(1, 2): "50 %",
    Fraction(1): "over 50 %",
}


class Choice(msgspec.Struct, frozen=True):
    """Values that no rule tells apart. `weight`: how many there are. `row`: the terms that tolerate them."""

    values: tuple[str, ...]
    weight: int
    row: int


class Dimension(msgspec.Struct, frozen=True):
    """A fact, or one name of a set-valued fact, or one set of owners. `asked`: the terms that ask about it."""

    fact: str
    part: str
    choices: tuple[Choice, ...]
    asked: int
    weight: int

    @property
    def label(self) -> str:
        """`origin.territory`, `org.eligibility has x`, `owners in @s`."""
        if self.fact == OWNERS:
            return f"owners in {self.part}"
        return f"{self.fact} has {self.part}" if self.part else self.fact


class Shape(NamedTuple):
    """What a term asks, without its time: product-formed, so that dimensions are independent."""

    rule: str
    effect: Effect
    asks: tuple[tuple[str, tuple[Atom, ...]], ...]
    has: frozenset[tuple[str, str, bool]]


class Space:
    """The terms of one or more releases; a term that several have, under one rule id, is one bit.

    `rules[i]` is the id of the rule that bit i stands for, `times[k]` the bits that decide in release k.
    """

    def __init__(self, releases: Sequence[Sequence[Pack]], *, as_if_in_force: bool = False) -> None:
        self._bits: dict[Shape, int] = {}
        self.times: tuple[Timeline, ...] = tuple(self._release(packs, as_if_in_force) for packs in releases)
        self.sets = tuple(each for packs in releases[-1:] for pack in packs for each in pack.sets)
        self.rules = tuple(shape.rule for shape in self._bits)
        self.full = (1 << len(self._bits)) - 1
        self.forbid = sum(1 << at for shape, at in self._bits.items() if shape.effect == "forbid")
        self.permit = self.full ^ self.forbid
        self._tables = self._single_tables()
        self._owned = self._owned_asks()
        self.dimensions = tuple(self._dimensions())

    def bits_of(self, rule: str) -> int:
        return sum(1 << at for at, name in enumerate(self.rules) if name == rule)

    def named(self, mask: int) -> tuple[str, ...]:
        """The ids of the rules that have a bit in the mask."""
        return tuple(sorted({name for at, name in enumerate(self.rules) if mask >> at & 1}))

    def fixed(self, facts: Mapping[str, str | frozenset[str]], owners: Holding | None = None) -> int:
        """The terms that tolerate these facts."""
        mask = self.full
        for name, value in facts.items():
            if FACTS[name].kind == "names":
                mask &= self._having(name, frozenset((value,)) if isinstance(value, str) else value)
            else:
                mask &= self._tables[name][str(value)]
        if owners is not None:
            for group, asks in self._owned.items():
                mask &= _owned_row(asks, owners(group.reference, group.members), self.full)
        return mask

    def _release(self, packs: Sequence[Pack], as_if_in_force: bool) -> Timeline:
        sets = Sets(each for pack in packs for each in pack.sets)
        switches: dict[int, int] = {}
        alive = 0
        for rule in (rule for pack in packs for rule in pack.rules):
            for start, until, bits in self._terms(_enforced(rule) if as_if_in_force else rule, sets):
                alive |= bits if start is None else 0
                for cut in (start, until):
                    if cut is not None:
                        switches[cut] = switches.get(cut, 0)
                        switches[cut] ^= bits
        cuts = sorted(switches)
        masks = [alive]
        for cut in cuts:
            masks.append(masks[-1] ^ switches[cut])
        return Timeline(tuple(cuts), tuple(masks))

    def _terms(self, rule: Rule, sets: Sets) -> Iterator[tuple[int | None, int | None, int]]:
        """Each stretch of the rule's time with the bits of its terms."""
        stretches: dict[tuple[int | None, int | None], int] = {}
        for term in terms_of(0, rule, sets):
            key = term.from_ms, term.until_ms
            stretches.setdefault(key, 0)
            for shape in _shapes(rule, term.asks):
                stretches[key] |= 1 << self._bits.setdefault(shape, len(self._bits))
        yield from ((start, until, bits) for (start, until), bits in stretches.items())

    def _single_tables(self) -> dict[str, Table]:
        asks: dict[str, dict[tuple[Atom, ...], int]] = {}
        for shape, at in self._bits.items():
            for fact, atoms in shape.asks:
                if FACTS[fact].kind != "owned":
                    bits = asks.setdefault(fact, {})
                    bits[atoms] = bits.get(atoms, 0) | 1 << at
        single = (fact for fact in FACTS.values() if fact.kind not in {"names", "owned"})
        return {fact.name: Table(fact, list(asks.get(fact.name, {}).items()), self.full) for fact in single}

    def _owned_asks(self) -> dict[Group, list[Asks]]:
        found: dict[Group, list[Asks]] = {}
        for shape, at in self._bits.items():
            for fact, atoms in shape.asks:
                if FACTS[fact].kind == "owned":
                    found.setdefault(atoms[0].groups[0], []).append((atoms, 1 << at))
        return found

    def _having(self, fact: str, values: frozenset[str]) -> int:
        mask = self.full
        for shape, at in self._bits.items():
            if any(name == fact and (member in values) is not wanted for name, member, wanted in shape.has):
                mask &= ~(1 << at)
        return mask

    def _dimensions(self) -> Iterator[Dimension]:
        for fact in _ORDER:
            if fact.kind == "names":
                yield from self._memberships(fact)
            elif fact.kind != "owned":
                yield self._single(fact)
        for group, asks in sorted(self._owned.items(), key=lambda item: item[0].reference):
            values = [(name, 1, _owned_row(asks, bounds, self.full)) for name, bounds in levels().items()]
            yield _dimension(OWNERS, group.reference, values, self.full)

    def _single(self, fact: Fact) -> Dimension:
        table = self._tables[fact.name]
        values = [(value, 1, table.row(value)) for value in _universe(fact, table)]
        if fact.kind == "territory":
            rest = len(CODES - table.named().keys())
            values.append((OTHER, rest, table.row(OTHER)))
        elif fact.kind == "name":
            values.append((OTHER, 1, table.row(OTHER)))
        return _dimension(fact.name, "", values, self.full)

    def _memberships(self, fact: Fact) -> Iterator[Dimension]:
        names = sorted({name for shape in self._bits for of, name, _ in shape.has if of == fact.name})
        for name in names:
            rows = {True: self.full, False: self.full}
            for shape, at in self._bits.items():
                for wanted in (True, False):
                    if (fact.name, name, wanted) in shape.has:
                        rows[not wanted] &= ~(1 << at)
            yield _dimension(fact.name, name, [(YES, 1, rows[True]), (NO, 1, rows[False])], self.full)


# What narrows most comes first: a walk then dies early.
_FIRST: Final = ("target.provider", "account.channel", "operation", "target.model", "account.state", "org.kyc")
_ORDER: Final = (*(FACTS[name] for name in _FIRST), *(fact for name, fact in FACTS.items() if name not in _FIRST))


def _enforced(rule: Rule) -> Rule:
    return msgspec.structs.replace(rule, status="in_force", revives_ms=None)


def _universe(fact: Fact, table: Table) -> Iterator[str]:
    """Every value that a rule can tell apart, but for `*other*`."""
    if fact.kind == "closed":
        yield from domain(fact)
        return
    yield from sorted(table.named())
    if fact.kind == "territory":
        yield UNKNOWN
        yield from sorted({country_of(value) + ANOTHER_PART for value in table.named() if "-" in value})


def _dimension(fact: str, part: str, values: Iterable[tuple[str, int, int]], full: int) -> Dimension:
    """Values with the same row become one choice."""
    found: dict[int, tuple[list[str], int]] = {}
    for value, weight, row in values:
        known, total = found.get(row, ([], 0))
        found[row] = ([*known, value], total + weight)
    choices = tuple(Choice(tuple(names), weight, row) for row, (names, weight) in found.items())
    common = full
    for choice in choices:
        common &= choice.row
    return Dimension(fact, part, choices, full & ~common, sum(choice.weight for choice in choices))


def levels() -> dict[str, tuple[Fraction, Fraction]]:
    """Each state of knowledge about what owners from a set hold, by name: a step, or a range that is not narrowed."""
    found = {}
    for least, most in combinations_with_replacement(_STEPS, 2):
        name = _STEPS[least] if least == most else f"{_STEPS[least]} or more, at most {_STEPS[most]}"
        found[UNKNOWN if most - least == 1 else name] = (least, most)
    return found


def _owned_row(asks: Iterable[Asks], bounds: Bounds, full: int) -> int:
    for atoms, bits in asks:
        for atom in atoms:
            outcome = reaches(atom.fact, bounds)
            if not decided_by(atom, outcome, unknown=outcome is None):
                full &= ~bits
    return full


def _shapes(rule: Rule, asks: Iterable[tuple[str, tuple[Atom, ...]]]) -> Iterator[Shape]:
    """A term with its questions about sets of names taken apart, name by name."""
    plain = tuple((fact, atoms) for fact, atoms in asks if FACTS[fact].kind != "names")
    choices = [_memberships(atom) for fact, atoms in asks if FACTS[fact].kind == "names" for atom in atoms]
    for chosen in product(*choices):
        has = frozenset().union(*chosen)
        if not any((fact, name, not wanted) in has for fact, name, wanted in has):
            yield Shape(rule.id, rule.effect, plain, has)


_Has = frozenset[tuple[str, str, bool]]


def _memberships(atom: Atom) -> list[_Has]:
    """The atom in disjunctive form over `fact has name`."""
    named = set(atom.literals.values).union(*(one.members.values for one in atom.groups if not one.negated))
    absent = [one.members.values for one in atom.groups if one.negated]
    fact = atom.fact
    if not atom.negated:
        return [frozenset({(fact, name, True)}) for name in sorted(named)] + [
            frozenset((fact, name, False) for name in members) for members in absent
        ]
    none_of = frozenset((fact, name, False) for name in named)
    some_of = product(*(sorted(members) for members in absent))
    return [none_of | frozenset((fact, name, True) for name in chosen) for chosen in some_of]
