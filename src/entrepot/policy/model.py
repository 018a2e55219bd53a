"""Packs as frozen structs: what a release consists of, after parsing and before compiling.

Instants are milliseconds since 1970 in UTC, intervals are half-open, and `None` leaves an end open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from entrepot.resources.model import Owner

Effect = Literal["permit", "forbid"]
Status = Literal["in_force", "proposed", "stayed", "announced_not_enforced", "rescinded", "contract_term"]
Want = Literal["allow", "refuse"]


class Place(msgspec.Struct, frozen=True):
    """Where something stands. Not part of a release: moving a rule to another file changes nothing."""

    file: str
    line: int | None = None


class Source(msgspec.Struct, frozen=True):
    """Where a rule or a list comes from; `retrieved` is an ISO 8601 date."""

    title: str
    url: str | None = None
    retrieved: str | None = None


class Member(msgspec.Struct, frozen=True):
    value: str
    from_ms: int | None = None
    until_ms: int | None = None


class Set(msgspec.Struct, frozen=True):
    """A named list. A member counts only within its own interval and that of the set.

    `excludes` are territories that are left out knowingly; it decides nothing.
    """

    name: str
    kind: Literal["territories", "names"]
    members: tuple[Member, ...]
    place: Place
    complete: bool = True
    from_ms: int | None = None
    until_ms: int | None = None
    source: Source | None = None
    as_of: str | None = None
    review: str | None = None
    note: str | None = None
    excludes: tuple[str, ...] = ()


class Condition(msgspec.Struct, frozen=True):
    """One fact and the values that satisfy it, any of them: literals, `@set` and `@!set`, sorted."""

    fact: str
    values: tuple[str, ...]


class Rule(msgspec.Struct, frozen=True):
    """Matches when all of `when`, one of `any` (if there are any) and none of the groups of `unless` hold."""

    id: str
    pack: str
    effect: Effect
    place: Place
    status: Status = "in_force"
    from_ms: int | None = None
    until_ms: int | None = None
    revives_ms: int | None = None
    when: tuple[Condition, ...] = ()
    any: tuple[Condition, ...] = ()
    unless: tuple[tuple[Condition, ...], ...] = ()
    unknown_passes: bool = False
    code: str | None = None
    reason: dict[str, str] = {}
    source: Source | None = None
    clause: str | None = None
    note: str | None = None


class Case(msgspec.Struct, frozen=True):
    """An example that a rule must decide as `want`. Facts that it does not name are free. `owners` None: free too."""

    rule: str
    want: Want
    at_ms: int
    facts: dict[str, str | tuple[str, ...]]
    place: Place
    owners: tuple[Owner, ...] | None = None


class Invariant(msgspec.Struct, frozen=True):
    """What has to be true of every call that `scope` matches: never permitted, or always.

    The scope of `never` takes unknown values in, as a forbid does; that of `always` leaves them out, as a permit does.
    """

    id: str
    claim: str
    want: Want
    scope: Rule
    place: Place


class Pack(msgspec.Struct, frozen=True):
    id: str
    place: Place
    owner: str | None = None
    source: Source | None = None
    about: str | None = None
    as_of: str | None = None
    review: str | None = None
    sets: tuple[Set, ...] = ()
    rules: tuple[Rule, ...] = ()
    cases: tuple[Case, ...] = ()
    invariants: tuple[Invariant, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """One mistake in a pack, and how to mend it. `subject` is the rule, set or case that it stands in."""

    file: str
    what: str
    fix: str
    line: int | None = None
    subject: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = f" {self.subject}:" if self.subject else ""
        return f"{place}:{subject} {self.what}; {self.fix}"


class PolicyInvalid(Exception):  # noqa: N818 - named for what it says
    """The packs do not load. `problems` holds every mistake that was found, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def in_effect(rule: Rule) -> tuple[int | None, int | None] | None:
    """The half-open interval in which the rule decides, or None when it never does.

    Only `in_force` and `contract_term` decide; a stayed rule does from the instant on at which it revives.
    """
    start = rule.from_ms
    if rule.status == "stayed" and rule.revives_ms is not None:
        start = rule.revives_ms if start is None else max(start, rule.revives_ms)
    elif rule.status not in {"in_force", "contract_term"}:
        return None
    if start is not None and rule.until_ms is not None and start >= rule.until_ms:
        return None
    return start, rule.until_ms


def conditions_of(rule: Rule) -> Iterator[Condition]:
    yield from rule.when
    yield from rule.any
    for group in rule.unless:
        yield from group
