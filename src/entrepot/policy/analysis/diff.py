"""What a new release changes: exactly, over every combination of facts and every instant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from entrepot.policy.analysis.diagram import NOTHING, Box, Diagram, Label, Question, merged, partition
from entrepot.policy.analysis.segments import Segment, during, joined, segments
from entrepot.policy.analysis.show import sentence
from entrepot.policy.analysis.space import Dimension, Space
from entrepot.policy.model import Pack

REFUSED: Final = "allowed → refused"
ALLOWED: Final = "refused → allowed"

Plain = tuple[tuple[str, tuple[str, ...]], ...]


class Change(msgspec.Struct, frozen=True):
    """One box: all combinations of `facts` come out differently in `[from_ms, until_ms)`.

    A fact that is not in `facts` does not matter. `count`: how many combinations that is. `text` says it in words.
    """

    direction: str
    from_ms: int | None
    until_ms: int | None
    count: int
    facts: Plain
    rules: tuple[str, ...] = ()
    text: str = ""


class Difference(msgspec.Struct, frozen=True):
    """`counts`: combinations of facts by direction, in the segment of time where there are most of them."""

    changes: tuple[Change, ...]
    counts: dict[str, int]

    @property
    def empty(self) -> bool:
        return not self.changes


def diff(old: Sequence[Pack], new: Sequence[Pack], at_ms: int | None = None) -> Difference:
    """Every change from one release to the other; with `at_ms`, only those at that instant."""
    space = Space([old, new])
    stretches = [one for one in segments(space.times) if at_ms is None or during(one.from_ms, one.until_ms, at_ms)]
    return differences(space, stretches, space.dimensions, space.full)


class _Found:
    def __init__(self, box: Box) -> None:
        self.box = box
        self.rules: set[str] = set()
        self.intervals: list[tuple[int | None, int | None]] = []


def differences(space: Space, stretches: Iterable[Segment], free: Sequence[Dimension], mask: int) -> Difference:
    """The changes among the combinations of `free` facts that agree with the mask."""
    when: dict[tuple[int, ...], list[tuple[int | None, int | None]]] = {}
    for segment in stretches:
        if segment.masks[0] != segment.masks[1]:
            when.setdefault(segment.masks, []).append((segment.from_ms, segment.until_ms))
    found: dict[tuple[str, Plain], _Found] = {}
    most: dict[str, int] = {}
    for (before, after), intervals in when.items():
        diagram = Diagram(free, question(space, before, after))
        root = diagram.build(mask & (before | after))
        for label, count in diagram.counts(root).items():
            most[label] = max(most.get(label, 0), count)
        for label, box in merged(diagram.boxes(root), free):
            key = label, plain(box)
            known = found.setdefault(key, _Found(box))
            known.rules.update(_blamed(space, before, after, label, mask & row_of(space, box)))
            known.intervals.extend(intervals)
    changes = [
        Change(
            label,
            start,
            until,
            weight_of(free, one.box),
            facts,
            tuple(sorted(one.rules)),
            sentence(one.box, space.sets),
        )
        for (label, facts), one in found.items()
        for start, until in joined(one.intervals)
    ]
    return Difference(tuple(sorted(changes, key=_order)), dict(sorted(most.items())))


def question(space: Space, before: int, after: int) -> Question:
    """Which combinations come out otherwise when these terms decide instead of those."""
    changed, common, either = before ^ after, before & after, before | after

    def permits(mask: int) -> bool:
        return not mask & space.forbid and bool(mask & space.permit)

    def leaf(left: int) -> Label:
        was, now = permits(left & before), permits(left & after)
        if was == now:
            return NOTHING
        return REFUSED if was else ALLOWED

    def settled(left: int, certain: int) -> Label | None:
        # Alike: only common terms are left. Refused before and after: nothing permits, or a common forbid holds.
        if not left & changed or not left & space.permit & either or certain & space.forbid & common:
            return NOTHING
        return None

    return Question(partition((before, after, space.forbid), either), leaf, settled)


def _blamed(space: Space, before: int, after: int, label: Label, mask: int) -> tuple[str, ...]:
    """The rules that differ and bear on a box: forbids of the side that refuses, permits of the side that allows."""
    refusing, allowing = (after, before) if label == REFUSED else (before, after)
    bits = mask & (before ^ after)
    return space.named(bits & (space.forbid & refusing | space.permit & allowing))


def row_of(space: Space, box: Box) -> int:
    """The terms that tolerate some combination of the box."""
    mask = space.full
    for dimension, ats in box:
        row = 0
        for at in ats:
            row |= dimension.choices[at].row
        mask &= row
    return mask


def plain(box: Box) -> Plain:
    return tuple(
        (dimension.label, tuple(value for at in ats for value in dimension.choices[at].values))
        for dimension, ats in box
    )


def weight_of(free: Sequence[Dimension], box: Box) -> int:
    chosen = {id(dimension): sum(dimension.choices[at].weight for at in ats) for dimension, ats in box}
    weight = 1
    for dimension in free:
        weight *= chosen.get(id(dimension), dimension.weight)
    return weight


def _order(change: Change) -> tuple[bool, int, str, int, Plain]:
    """By time, and the general before the particular."""
    return change.from_ms is not None, change.from_ms or 0, change.direction, len(change.facts), change.facts
