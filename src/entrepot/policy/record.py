"""Everything that one decision depended on, so that it can be taken again under any release.

Holds no names of persons: owners are numbered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from entrepot.policy.derive import Facts
from entrepot.policy.ownership import holding
from entrepot.policy.program import Decision, Program
from entrepot.resources.model import Owner


class Record(msgspec.Struct, frozen=True):
    """The facts of a call at an instant. Sets are sorted, so that equal records are equal JSON; there are no floats."""

    at_ms: int
    facts: dict[str, str | tuple[str, ...]]
    owners: tuple[Owner, ...] = ()


class Flip(msgspec.Struct, frozen=True):
    """A recorded decision that comes out otherwise, or for other reasons, under another release."""

    index: int
    was: Decision
    now: Decision


def record(facts: Facts, owners: Iterable[Owner], at_ms: int) -> Record:
    plain = {name: value if isinstance(value, str) else tuple(sorted(value)) for name, value in sorted(facts.items())}
    return Record(at_ms, plain, numbered(owners))


def numbered(owners: Iterable[Owner]) -> tuple[Owner, ...]:
    """The same holdings with the owners' names replaced, in order of appearance. A missing link stays missing."""
    numbers: dict[str, str] = {}

    def number(name: str) -> str:
        return numbers.setdefault(name, str(len(numbers) + 1))

    return tuple(
        Owner(number(one.name), one.territory, one.share_micros, None if one.of is None else number(one.of))
        for one in owners
    )


def decide(program: Program, past: Record) -> Decision:
    """What the release decides on the recorded facts, at the recorded instant."""
    facts = {name: value if isinstance(value, str) else frozenset(value) for name, value in past.facts.items()}
    mask = program.mask(facts, holding(past.owners)) & program.segment(past.at_ms)[0]
    return program.decide(mask)


def replay(program: Program, past: Iterable[tuple[Record, Decision]]) -> Iterator[Flip]:
    """What would have been decided otherwise. `index` counts the records from 0."""
    for index, (each, was) in enumerate(past):
        now = decide(program, each)
        if (now.permit, now.rules, now.code) != (was.permit, was.rules, was.code):
            yield Flip(index, was, now)
