"""Time, cut where any of several timelines changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from entrepot.policy.program import Timeline


class Segment(NamedTuple):
    """`[from_ms, until_ms)`, open where None, and the mask of each timeline in it."""

    from_ms: int | None
    until_ms: int | None
    masks: tuple[int, ...]


def segments(timelines: Sequence[Timeline]) -> Iterator[Segment]:
    cuts: list[int | None] = [None, *sorted({cut for timeline in timelines for cut in timeline.cuts}), None]
    for start, until in pairwise(cuts):
        at_ms = start if start is not None else (until - 1 if until is not None else 0)
        yield Segment(start, until, tuple(timeline.at(at_ms)[0] for timeline in timelines))


def during(start: int | None, until: int | None, at_ms: int) -> bool:
    """Whether an instant is in a half-open interval, open where None."""
    return (start is None or start <= at_ms) and (until is None or at_ms < until)


def joined(intervals: Sequence[tuple[int | None, int | None]]) -> list[tuple[int | None, int | None]]:
    """Intervals in order of time, those that touch made one."""
    found: list[tuple[int | None, int | None]] = []
    for start, until in sorted(intervals, key=lambda each: (each[0] is not None, each[0] or 0)):
        if found and found[-1][1] == start and start is not None:
            found[-1] = found[-1][0], until
        else:
            found.append((start, until))
    return found
