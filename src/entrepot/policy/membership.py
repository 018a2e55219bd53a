"""Whether a value satisfies a condition, in three values: yes, no, and not to be told (None)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import country_of


class Group(NamedTuple):
    """A reference as written, `@s` or `@!s`, and the members of `s` in the time at hand."""

    reference: str
    members: frozenset[str]

    @property
    def negated(self) -> bool:
        return self.reference.startswith("@!")


def member(value: str, members: frozenset[str]) -> bool | None:
    """Whether a territory is in a set: `UA-43` is where `UA` or `UA-43` is listed.

    `UA` where only a part of it is listed cannot be told: the call may come from that part.
    """
    if value == UNKNOWN:
        return None
    if value in members or country_of(value) in members:
        return True
    if "-" not in value and any(country_of(listed) == value for listed in members if "-" in listed):
        return None
    return False


def one_of(outcomes: Iterable[bool | None]) -> bool | None:
    """Or: yes if one is, else not to be told if one cannot be."""
    found: bool | None = False
    for outcome in outcomes:
        if outcome:
            return True
        if outcome is None:
            found = None
    return found
