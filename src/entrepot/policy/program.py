"""A release, compiled: a decision is the AND of a few integers, and its set bits are all the rules that determine it.

Immutable but for the bounded memory of decisions, which are a pure function of the mask.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import xor
from typing import Final

import msgspec

from entrepot.policy.derive import EXPIRING, Target, stretches, target_facts
from entrepot.policy.facts import CODES, FACTS
from entrepot.policy.model import Pack, Rule
from entrepot.policy.ownership import Holding, holding
from entrepot.policy.release import release_of
from entrepot.policy.rows import OwnedTable, SetTable, Table, asks_of
from entrepot.policy.terms import Sets, Term, terms_of
from entrepot.resources.model import UNKNOWN, Account, Organization

# Later than every instant: what is in force without end.
FOREVER: Final = 2**63 - 1
_REMEMBERED: Final = 4096


class Decision(msgspec.Struct, frozen=True):
    """`rules`: the ids of all forbids that matched, else of all permits; sorted. Empty: nothing permits it.

    `code` and `reason` are those of the one forbid that the client is told of.
    """

    permit: bool
    rules: tuple[str, ...] = ()
    code: str | None = None
    reason: Mapping[str, str] = {}
    rule: str | None = None


class Timeline(msgspec.Struct, frozen=True):
    """Masks over time: `masks[i]` holds in `[cuts[i - 1], cuts[i])`."""

    cuts: tuple[int, ...]
    masks: tuple[int, ...]

    def at(self, at_ms: int) -> tuple[int, int]:
        """The mask at an instant, and the instant until which it holds (`FOREVER`: always)."""
        index = bisect_right(self.cuts, at_ms)
        return self.masks[index], self.cuts[index] if index < len(self.cuts) else FOREVER


class Program:
    """`permitted = not mask & forbid and mask & permit`; the gateway multiplies the masks and calls `decide`."""

    def __init__(self, packs: Sequence[Pack], rules: Sequence[Rule], terms: Sequence[Term]) -> None:
        self.release = release_of(packs)
        self.packs = tuple(packs)
        self.rules = tuple(rules)
        self.full = (1 << len(terms)) - 1
        self.forbid = _bits(at for at, term in enumerate(terms) if rules[term.rule].effect == "forbid")
        self.permit = self.full ^ self.forbid
        self.times = _timeline(terms)
        self.tables: dict[str, Table] = {}
        self.sets: dict[str, SetTable] = {}
        self.owned: dict[str, OwnedTable] = {}
        every = asks_of(terms)
        for fact in FACTS.values():
            asks = every.get(fact.name, [])
            if fact.kind == "names":
                self.sets[fact.name] = SetTable(fact, asks, self.full)
            elif fact.kind == "owned":
                self.owned[fact.name] = OwnedTable(fact, asks, self.full)
            else:
                self.tables[fact.name] = Table(fact, asks, self.full)
        self._rule_of = tuple(term.rule for term in terms)
        self._decisions: dict[int, Decision] = {}

    def of(self, fact: str, value: str) -> int:
        """The mask of one value of a fact that has one value."""
        return self.tables[fact][value]

    def mask(self, facts: Mapping[str, str | frozenset[str]], owners: Holding | None = None) -> int:
        """The AND over exactly the given facts; a fact that is not given does not constrain."""
        mask = self.full
        for name, value in facts.items():
            if name in self.sets:
                mask &= self.sets[name].row(frozenset((value,)) if isinstance(value, str) else value)
            else:
                mask &= self.tables[name][value if isinstance(value, str) else UNKNOWN]
        if owners is not None:
            for table in self.owned.values():
                mask &= table.row(owners)
        return mask

    def segment(self, at_ms: int) -> tuple[int, int]:
        """The mask of the rules that are in effect at an instant, and the instant until which that is so."""
        return self.times.at(at_ms)

    def refused_from(self, mask: int, at_ms: int, within_ms: int) -> int | None:
        """When a rule that takes effect within that time first refuses a call; None if none does.

        `mask` is the product of the call's facts without the time's. Costs next to nothing while no rule is about to.
        """
        cuts, masks = self.times.cuts, self.times.masks
        for index in range(bisect_right(cuts, at_ms), bisect_right(cuts, at_ms + within_ms)):
            if not self.decide(mask & masks[index + 1]).permit:
                return cuts[index]
        return None

    def principal(self, organization: Organization, account: Account) -> Timeline:
        """The masks of all that is known of the client, changing by themselves when an approval expires.

        INVARIANT: nothing counts but what `stretches` gives and the owners.
        """
        cuts, facts = stretches(organization, account)
        owners = holding(organization.owners)
        lasting = self.mask({name: value for name, value in facts[0].items() if name not in EXPIRING}, owners)
        return Timeline(cuts, tuple(lasting & self.mask({name: each[name] for name in EXPIRING}) for each in facts))

    def target(self, target: Target) -> int:
        return self.mask(target_facts(target))

    def decide(self, mask: int) -> Decision:
        found = self._decisions.get(mask)
        if found is None:
            if len(self._decisions) >= _REMEMBERED:
                self._decisions.clear()
            found = self._decisions[mask] = self._explain(mask)
        return found

    def _explain(self, mask: int) -> Decision:
        forbids = self.matched(mask & self.forbid)
        if not forbids:
            permits = self.matched(mask & self.permit)
            return Decision(permit=bool(permits), rules=tuple(rule.id for rule in permits))
        told = min(forbids, key=_prominence)
        return Decision(
            permit=False, rules=tuple(rule.id for rule in forbids), code=told.code, reason=told.reason, rule=told.id
        )

    def matched(self, mask: int) -> list[Rule]:
        """The rules that have a bit in the mask, by id."""
        found = set()
        while mask:
            low = mask & -mask
            found.add(self._rule_of[low.bit_length() - 1])
            mask ^= low
        return [self.rules[index] for index in sorted(found)]


def compile(packs: Sequence[Pack]) -> Program:  # noqa: A001 - as in `re.compile`
    """The program of a release. Its bits are in the order of rule ids, so the order of files and rules is nothing.

    Permits come first: the mask of a call that nothing forbids is then a short integer, and quick to hash.
    """
    rules = sorted((rule for pack in packs for rule in pack.rules), key=lambda rule: (rule.effect == "forbid", rule.id))
    sets = Sets(each for pack in packs for each in pack.sets)
    terms = [term for index, rule in enumerate(rules) for term in terms_of(index, rule, sets)]
    return Program(packs, rules, terms)


def _prominence(rule: Rule) -> tuple[int, str]:
    """Known codes in the order of `CODES`, then other codes, then none; among equals the id decides."""
    if rule.code in CODES:
        return CODES.index(rule.code), rule.id
    return len(CODES) + (rule.code is None), rule.id


def _bits(indexes: Iterable[int]) -> int:
    bits = 0
    for index in indexes:
        bits |= 1 << index
    return bits


def _timeline(terms: Sequence[Term]) -> Timeline:
    """Which terms are alive when. A term is switched on and off once each."""
    alive = _bits(at for at, term in enumerate(terms) if term.from_ms is None)
    switches: dict[int, int] = {}
    for at, term in enumerate(terms):
        for cut in (term.from_ms, term.until_ms):
            if cut is not None:
                switches[cut] = switches.get(cut, 0) ^ 1 << at
    cuts = sorted(switches)
    return Timeline(tuple(cuts), tuple(accumulate((switches[cut] for cut in cuts), xor, initial=alive)))
