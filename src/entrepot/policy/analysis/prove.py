"""Proves invariants of a release over every combination of facts and every instant, or shows where they fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from entrepot.policy.analysis.diagram import NOTHING, Diagram, Label, Question, partition
from entrepot.policy.analysis.diff import Plain, plain, row_of
from entrepot.policy.analysis.segments import segments
from entrepot.policy.analysis.space import Space
from entrepot.policy.model import Invariant, Pack, in_effect

_FAILS: Final = "fails"


class Proof(msgspec.Struct, frozen=True):
    """`proved`, or a counterexample: for all of these facts, from `from_ms` on, it is not so; `rules` are at work.

    `vacuous`: no call is ever in the invariant's scope, so that it says nothing.
    """

    id: str
    claim: str
    proved: bool
    vacuous: bool = False
    from_ms: int | None = None
    until_ms: int | None = None
    facts: Plain = ()
    rules: tuple[str, ...] = ()


def prove(packs: Sequence[Pack]) -> Iterator[Proof]:
    """A proof for each invariant of the packs, in order of pack and file."""
    sets = [msgspec.structs.replace(pack, rules=(), cases=(), invariants=()) for pack in packs]
    for pack in packs:
        for invariant in pack.invariants:
            scope = Pack(f"{pack.id} {invariant.id}", invariant.place, rules=(invariant.scope,))
            yield _prove(invariant, Space([packs, [*sets, scope]]))


def serves(packs: Sequence[Pack]) -> bool:
    """Whether some rule permits something at some time. Where none does, every `never` is true and says nothing."""
    return any(rule.effect == "permit" and in_effect(rule) is not None for pack in packs for rule in pack.rules)


def _prove(invariant: Invariant, space: Space) -> Proof:
    vacuous = True
    known: set[tuple[int, ...]] = set()
    for segment in segments(space.times):
        deciding, scope = segment.masks
        vacuous = vacuous and not scope
        if segment.masks in known or not scope:
            continue
        known.add(segment.masks)
        diagram = Diagram(space.dimensions, _question(space, deciding, scope, permitted=invariant.want == "refuse"))
        box = next(diagram.boxes(diagram.build(deciding | scope)), None)
        if box is not None:
            mask = row_of(space, box[1]) & deciding
            at_work = mask & space.permit if invariant.want == "refuse" else mask & space.forbid
            return Proof(
                invariant.id,
                invariant.claim,
                proved=False,
                from_ms=segment.from_ms,
                until_ms=segment.until_ms,
                facts=plain(box[1]),
                rules=space.named(at_work),
            )
    return Proof(invariant.id, invariant.claim, proved=True, vacuous=vacuous)


def _question(space: Space, deciding: int, scope: int, *, permitted: bool) -> Question:
    """Which combinations are in scope and come out as they must not."""

    def leaf(left: int) -> Label:
        if not left & scope:
            return NOTHING
        ruling = left & deciding
        outcome = not ruling & space.forbid and bool(ruling & space.permit)
        return _FAILS if outcome == permitted else NOTHING

    def settled(left: int, certain: int) -> Label | None:
        refused = not left & deciding & space.permit or certain & deciding & space.forbid
        return NOTHING if not left & scope or (permitted and refused) else None

    return Question(partition((deciding, scope, space.forbid), deciding | scope), leaf, settled)
