"""Whether a value satisfies a condition, in three values: yes, no, and not to be told (None)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import country_of


class Listing(NamedTuple):
    """Listed values, and for territories the countries that parts are listed of."""

    values: frozenset[str]
    parts: frozenset[str]


class Group(NamedTuple):
    """A reference as written, `@s` or `@!s`, and the members of `s` in the time at hand."""

    reference: str
    members: Listing

    @property
    def negated(self) -> bool:
        return self.reference.startswith("@!")


def listing(values: Iterable[str]) -> Listing:
    found = frozenset(values)
    return Listing(found, frozenset(country_of(value) for value in found if "-" in value))


def member(value: str, listed: Listing) -> bool | None:
    """Whether a territory is in a set: `UA-43` is where `UA` or `UA-43` is listed.

    `UA` where only a part of it is listed cannot be told: the call may come from that part.
    """
    if value == UNKNOWN:
        return None
    if value in listed.values or ("-" in value and country_of(value) in listed.values):
        return True
    return None if value in listed.parts else False


def one_of(outcomes: Iterable[bool | None]) -> bool | None:
    """Or: yes if one is, else not to be told if one cannot be."""
    found: bool | None = False
    for outcome in outcomes:
        if outcome:
            return True
        if outcome is None:
            found = None
    return found
