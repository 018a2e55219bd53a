"""Runs the cases of packs: each is judged on its own rule, with all facts that it does not name left free.

A forbid is judged with an assumed permit; a rule whose status does not decide is run as if it were in force.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from entrepot.policy.analysis.diagram import NOTHING, Box, Diagram, Question
from entrepot.policy.analysis.space import OWNERS, Space
from entrepot.policy.model import Case, Pack, Rule, Want
from entrepot.policy.ownership import holding

_MATCHES = "matches"
_MISSES = "misses"


class Verdict(msgspec.Struct, frozen=True):
    """`contrary`: facts that the case leaves open, with the values under which it comes out otherwise."""

    pack: str
    case: Case
    passed: bool
    contrary: dict[str, tuple[str, ...]] = {}


def run_cases(packs: Sequence[Pack]) -> Iterator[Verdict]:
    sets = [msgspec.structs.replace(pack, rules=(), cases=()) for pack in packs]
    for pack in packs:
        rules = {rule.id: rule for rule in pack.rules}
        alone: dict[str, Space] = {}
        for case in pack.cases:
            rule = rules[case.rule]
            if rule.id not in alone:
                own = msgspec.structs.replace(pack, id=f"{pack.id} alone", sets=(), rules=(rule,), cases=())
                alone[rule.id] = Space([[*sets, own]], as_if_in_force=True)
            yield _judge(pack, rule, case, alone[rule.id])


def _judge(pack: Pack, rule: Rule, case: Case, space: Space) -> Verdict:
    wanted = _MATCHES if (case.want == "refuse") == (rule.effect == "forbid") else _MISSES
    facts = {name: value if isinstance(value, str) else frozenset(value) for name, value in case.facts.items()}
    owners = None if case.owners is None else holding(case.owners)
    mask = space.fixed(facts, owners) & space.times[0].at(case.at_ms)[0]
    free = [
        dimension
        for dimension in space.dimensions
        if dimension.fact not in facts and not (dimension.fact == OWNERS and owners is not None)
    ]

    def leaf(left: int) -> str:
        outcome = _MATCHES if left else _MISSES
        return NOTHING if outcome == wanted else outcome

    def settled(left: int, certain: int) -> str | None:
        return leaf(left) if certain or not left else None

    diagram = Diagram(free, Question((space.full,), leaf, settled))
    contrary = next(diagram.boxes(diagram.build(mask)), None)
    return Verdict(pack.id, case, contrary is None, readable(contrary[1]) if contrary else {})


def readable(box: Box) -> dict[str, tuple[str, ...]]:
    """Names and values of a box, for people."""
    return {
        dimension.label: tuple(value for at in ats for value in dimension.choices[at].values) for dimension, ats in box
    }


def untested(packs: Sequence[Pack]) -> Iterator[tuple[Rule, Want]]:
    """The rules that lack a case, and what it would have to want."""
    for pack in packs:
        tested = {(case.rule, case.want) for case in pack.cases}
        for rule in pack.rules:
            yield from ((rule, want) for want in _WANTS if (rule.id, want) not in tested)


_WANTS: tuple[Want, ...] = ("allow", "refuse")
