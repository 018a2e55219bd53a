"""The specification as a slow interpreter: no bits, no terms, no tables. The compiled program is tested against it.

Shares nothing with the compiler but the structs: a mistake in one is not a mistake in the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from entrepot.policy.model import Condition, Pack, Rule, Set
from entrepot.resources.model import Owner

Value = str | frozenset[str]


class Call:
    """Everything that a decision may depend on. A fact that is missing is unknown."""

    def __init__(self, facts: Mapping[str, Value], owners: Sequence[Owner], at_ms: int) -> None:
        self.facts = facts
        self.owners = owners
        self.at_ms = at_ms


def decide(packs: Sequence[Pack], call: Call) -> tuple[bool, tuple[str, ...]]:
    """Whether the call is permitted, and the ids of all rules that determine it."""
    sets = {each.name: each for pack in packs for each in pack.sets}
    matching = [rule for pack in packs for rule in pack.rules if matches(rule, sets, call)]
    forbids = sorted(rule.id for rule in matching if rule.effect == "forbid")
    permits = sorted(rule.id for rule in matching if rule.effect == "permit")
    return (False, tuple(forbids)) if forbids else (bool(permits), tuple(permits))


def matches(rule: Rule, sets: Mapping[str, Set], call: Call) -> bool:
    if not _decides(rule, call.at_ms):
        return False
    # A condition that leads to refusal takes the unknown in, one that leads to permission leaves it out.
    strict = rule.effect == "permit" or rule.unknown_passes
    exemption = rule.effect == "forbid"

    def holds(condition: Condition, *, unknown_counts: bool) -> bool:
        answer = _answer(condition, sets, call)
        return unknown_counts if answer is None else answer

    if not all(holds(one, unknown_counts=not strict) for one in rule.when):
        return False
    if rule.any and not any(holds(one, unknown_counts=not strict) for one in rule.any):
        return False
    return not any(all(holds(one, unknown_counts=not exemption) for one in group) for group in rule.unless)


def _decides(rule: Rule, at_ms: int) -> bool:
    if rule.status == "stayed":
        if rule.revives_ms is None or at_ms < rule.revives_ms:
            return False
    elif rule.status not in ("in_force", "contract_term"):
        return False
    return _during(rule.from_ms, rule.until_ms, at_ms)


def _during(start: int | None, until: int | None, at_ms: int) -> bool:
    return (start is None or at_ms >= start) and (until is None or at_ms < until)


def _answer(condition: Condition, sets: Mapping[str, Set], call: Call) -> bool | None:
    """Yes, no, or None: it cannot be told."""
    answers = [_one(condition.fact, value, sets, call) for value in condition.values]
    if "unknown" in condition.values and condition.fact.startswith("org.owned_") and None in answers:
        return True
    if True in answers:
        return True
    return None if None in answers else False


def _one(fact: str, wanted: str, sets: Mapping[str, Set], call: Call) -> bool | None:
    """The answer for one listed value: a literal, `@s` or `@!s`."""
    if fact.startswith("org.owned_"):
        return False if wanted == "unknown" else _owned(fact, wanted, sets, call)
    value = call.facts.get(fact, "unknown")
    if wanted.startswith("@!"):
        inside = _inside(fact, value, _listed(sets[wanted[2:]], call.at_ms))
        return None if inside is None else not inside
    if wanted.startswith("@"):
        return _inside(fact, value, _listed(sets[wanted[1:]], call.at_ms))
    if wanted == "unknown":
        return value == "unknown"
    return _inside(fact, value, [wanted])


def _listed(found: Set, at_ms: int) -> list[str]:
    if not _during(found.from_ms, found.until_ms, at_ms):
        return []
    return [one.value for one in found.members if _during(one.from_ms, one.until_ms, at_ms)]


def _inside(fact: str, value: Value, listed: list[str]) -> bool | None:
    if isinstance(value, frozenset):
        if any(one in listed for one in value if one != "unknown"):
            return True
        return None if "unknown" in value else False
    if value == "unknown":
        return None
    if value in listed:
        return True
    if fact.endswith(".territory"):
        return _part_of(value, listed)
    return False


def _part_of(value: str, listed: list[str]) -> bool | None:
    """A part is in a set that lists its country; a country of which only parts are listed cannot be told."""
    if "-" in value:
        return value.split("-", maxsplit=1)[0] in listed
    return None if any(one.startswith(value + "-") for one in listed) else False


def _owned(fact: str, reference: str, sets: Mapping[str, Set], call: Call) -> bool | None:
    outside = reference.startswith("@!")
    listed = _listed(sets[reference[2:] if outside else reference[1:]], call.at_ms)
    low, high = _shares(call.owners, listed, outside=outside)
    if fact == "org.owned_over_50":
        answers = {low > Fraction(1, 2), high > Fraction(1, 2)}
    else:
        least = Fraction(1, 4) if fact == "org.owned_25" else Fraction(1, 2)
        answers = {low >= least, high >= least}
    return answers.pop() if len(answers) == 1 else None


def _shares(owners: Sequence[Owner], listed: list[str], *, outside: bool) -> tuple[Fraction, Fraction]:
    """The least and the most that owners inside (or outside) the list hold, by following every chain."""
    names = {owner.name for owner in owners}
    anything = Fraction(0), Fraction(1)
    if any(owner.of is not None and owner.of not in names for owner in owners):
        return anything

    def counts(name: str) -> bool | None:
        places = {owner.territory for owner in owners if owner.name == name and owner.territory != "unknown"}
        inside = _inside(".territory", places.pop(), listed) if len(places) == 1 else None
        return inside if inside is None else inside != outside

    def circular(name: str, path: tuple[str, ...]) -> bool:
        if counts(name):
            return False
        above = {owner.name for owner in owners if owner.of == name}
        return name in path or any(circular(one, (*path, name)) for one in above)

    def flows(entity: str | None) -> tuple[Fraction, Fraction]:
        known = [owner for owner in owners if owner.of == entity and owner.share_micros is not None]
        parts = [(Fraction(owner.share_micros or 0, 100_000_000), weight(owner.name)) for owner in known]
        total = sum((share for share, _ in parts), Fraction(0))
        if total > 1:
            return anything
        least = sum((share * low for share, (low, _) in parts), Fraction(0))
        return least, sum((share * high for share, (_, high) in parts), 1 - total)

    def weight(name: str) -> tuple[Fraction, Fraction]:
        if counts(name):
            return Fraction(1), Fraction(1)
        if circular(name, ()):
            return anything
        ends = not any(owner.of == name for owner in owners)
        low, high = (Fraction(0), Fraction(0)) if ends else flows(name)
        return low, Fraction(1) if counts(name) is None else high

    return flows(None)
