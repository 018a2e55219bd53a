"""How much of an organization the owners of a set of territories hold together. Exact, pure, in bounds.

What is not known is an interval: `(0, 1)` says that it may be nothing or all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Final

from entrepot.policy.membership import Listing, member
from entrepot.resources.model import UNKNOWN, Owner

Bounds = tuple[Fraction | int, Fraction | int]
# (`@s` or `@!s`, the members of s) → the least and the most that owners from it can hold, as parts of 1.
Holding = Callable[[str, Listing], Bounds]

_WHOLE_MICROS: Final = 100_000_000
UNKNOWN_BOUNDS: Final[Bounds] = (0, 1)

THRESHOLDS: Final[Mapping[str, tuple[Fraction, bool]]] = {
    "org.owned_25": (Fraction(1, 4), False),
    "org.owned_50": (Fraction(1, 2), False),
    "org.owned_over_50": (Fraction(1, 2), True),
}


def reaches(fact: str, bounds: Bounds) -> bool | None:
    """Whether holdings within `bounds` reach the threshold of the fact; None when it cannot be told."""
    least, most = (_passes(fact, share) for share in bounds)
    return least if least == most else None


def _passes(fact: str, share: Fraction | int) -> bool:
    threshold, above = THRESHOLDS[fact]
    return share > threshold if above else share >= threshold


def holding(owners: Iterable[Owner]) -> Holding:
    """The function that weighs these owners against a set, with its results kept."""
    known = tuple(owners)
    results: dict[tuple[str, Listing], Bounds] = {}

    def of(reference: str, members: Listing) -> Bounds:
        key = reference, members
        if key not in results:
            results[key] = held(known, reference, members)
        return results[key]

    return of


def held(owners: Iterable[Owner], reference: str, members: Listing) -> Bounds:
    """What owners from the set hold of the organization, directly and through chains, as parts of 1.

    Along a chain shares multiply; what passes through an owner of the set is counted once. A share or owner that is
    not known may be anything up to what is left. A holder without holders of its own is where a chain ends.
    """
    holders: dict[str | None, list[Owner]] = {}
    territories: dict[str, set[str]] = {}
    for owner in owners:
        holders.setdefault(owner.of, []).append(owner)
        territories.setdefault(owner.name, set()).add(owner.territory)
    if any(parent is not None and parent not in territories for parent in holders):
        return UNKNOWN_BOUNDS
    inside = {name: _inside(found, reference, members) for name, found in territories.items()}
    return _chain(holders.get(None, []), _resolve(inside, holders))


def _inside(territories: set[str], reference: str, members: Listing) -> bool | None:
    known = territories - {UNKNOWN}
    within = member(known.pop(), members) if len(known) == 1 else None
    return within if within is None or not reference.startswith("@!") else not within


def _resolve(inside: Mapping[str, bool | None], holders: Mapping[str | None, list[Owner]]) -> dict[str, Bounds]:
    """The bounds of every owner, from the ends of the chains inwards. What hangs on a cycle stays unknown."""
    bounds: dict[str, Bounds] = {name: (1, 1) for name, within in inside.items() if within}
    waiting = {name for name in inside if name not in bounds}
    while ready := [name for name in waiting if all(one.name in bounds for one in holders.get(name, []))]:
        for name in ready:
            least, most = _chain(holders[name], bounds) if name in holders else (0, 0)
            bounds[name] = (least, most if inside[name] is False else 1)
        waiting.difference_update(ready)
    return bounds | dict.fromkeys(waiting, UNKNOWN_BOUNDS)


def _chain(holders: Iterable[Owner], bounds: Mapping[str, Bounds]) -> Bounds:
    """What flows through these holders of one entity. The part that nobody is known to hold counts as possible."""
    least: Fraction | int = 0
    most: Fraction | int = 0
    declared = 0
    for owner in holders:
        if owner.share_micros is not None:
            declared += owner.share_micros
            low, high = bounds[owner.name]
            # Most chains end at once: whole numbers then do, which are much faster.
            least += owner.share_micros * low if low else 0
            most += owner.share_micros * high if high else 0
    if declared > _WHOLE_MICROS:
        return UNKNOWN_BOUNDS
    return Fraction(least, _WHOLE_MICROS), Fraction(most + _WHOLE_MICROS - declared, _WHOLE_MICROS)
