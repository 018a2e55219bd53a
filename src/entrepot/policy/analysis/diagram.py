"""Decision diagrams over a space: every combination of facts, in the few nodes that differ. Exact counts and boxes.

A node is the remaining question once some facts are known; equal questions are one node, whatever led there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from entrepot.policy.analysis.space import Dimension

# What a combination comes to; NOTHING is of no interest and never listed.
Label = str
NOTHING: Final = ""
Box = tuple[tuple[Dimension, tuple[int, ...]], ...]


class Node(msgspec.Struct, frozen=True, eq=False):
    """`edges`: each child with the choices that lead to it. A leaf has a label and stands below all dimensions."""

    depth: int
    edges: tuple[tuple[Node, tuple[int, ...]], ...]
    label: Label = NOTHING


class Question(msgspec.Struct, frozen=True):
    """What a diagram labels, given the terms that a combination of facts leaves.

    `leaf(left)` may only ask whether terms of each role are left, not which. `settled(left, certain)` may answer before
    all facts are known, or return None; `certain` are the terms that no further fact can take away.
    """

    roles: tuple[int, ...]
    leaf: Callable[[int], Label]
    settled: Callable[[int, int], Label | None]


class Diagram:
    def __init__(self, dimensions: Sequence[Dimension], question: Question) -> None:
        self.dimensions = tuple(dimensions)
        self._leaf = question.leaf
        self._settled = question.settled
        self._alike, self._certain = _endings(self.dimensions, question.roles)
        self._leaves: dict[Label, Node] = {}
        self._nodes: dict[tuple[int, tuple[tuple[int, tuple[int, ...]], ...]], Node] = {}
        self._known: dict[tuple[int, int], Node] = {}
        self._counts: dict[int, dict[Label, int]] = {}

    def build(self, mask: int, depth: int = 0) -> Node:
        """The diagram of all combinations that agree with the mask."""
        while depth < len(self.dimensions) and not mask & self.dimensions[depth].asked:
            depth += 1
        for alike in self._alike[depth]:
            left = mask & alike
            if left & (left - 1):
                mask ^= left & (left - 1)
        key = depth, mask
        node = self._known.get(key)
        if node is None:
            node = self._known[key] = self._build(mask, depth)
        return node

    def _build(self, mask: int, depth: int) -> Node:
        label = self._settled(mask, mask & self._certain[depth])
        if label is None and depth == len(self.dimensions):
            label = self._leaf(mask)
        if label is not None:
            return self._leaves.setdefault(label, Node(len(self.dimensions), (), label))
        children: dict[int, list[int]] = {}
        nodes: dict[int, Node] = {}
        for at, choice in enumerate(self.dimensions[depth].choices):
            child = self.build(mask & choice.row, depth + 1)
            children.setdefault(id(child), []).append(at)
            nodes[id(child)] = child
        if len(children) == 1:
            return next(iter(nodes.values()))
        edges = tuple((nodes[child], tuple(ats)) for child, ats in children.items())
        key = depth, tuple((id(child), ats) for child, ats in edges)
        return self._nodes.setdefault(key, Node(depth, edges))

    def counts(self, root: Node) -> dict[Label, int]:
        """How many combinations have each label."""
        found = {label: count * self._between(0, root.depth) for label, count in self._count(root).items()}
        found.pop(NOTHING, None)
        return found

    def _count(self, node: Node) -> dict[Label, int]:
        if not node.edges:
            return {node.label: 1}
        known = self._counts.get(id(node))
        if known is None:
            known = self._counts[id(node)] = {}
            for child, ats in node.edges:
                choices = self.dimensions[node.depth].choices
                weight = sum(choices[at].weight for at in ats) * self._between(node.depth + 1, child.depth)
                for label, count in self._count(child).items():
                    known[label] = known.get(label, 0) + weight * count
        return known

    def _between(self, start: int, end: int) -> int:
        weight = 1
        for dimension in self.dimensions[start:end]:
            weight *= dimension.weight
        return weight

    def boxes(self, node: Node) -> Iterator[tuple[Label, Box]]:
        """Disjoint boxes that cover every labelled combination. A dimension that is not named does not matter."""
        if not node.edges:
            if node.label != NOTHING:
                yield node.label, ()
            return
        for child, ats in node.edges:
            for label, box in self.boxes(child):
                yield label, ((self.dimensions[node.depth], ats), *box)


def partition(masks: Iterable[int], full: int) -> tuple[int, ...]:
    """The roles that bits can have when nothing but their being in each of the masks matters."""
    roles = [full]
    for mask in masks:
        roles = [part for role in roles for part in (role & mask, role & ~mask) if part]
    return tuple(roles)


def _endings(dimensions: Sequence[Dimension], roles: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """For each depth, the terms of one role that ask the same from there on, and those that ask nothing more.

    Of terms that are alike one is as good as all: that keeps the number of nodes small.
    """
    role_of = {at: role for role, mask in enumerate(roles) for at in _indexes(mask)}
    ending: dict[int, tuple[int, ...]] = {at: (role,) for at, role in role_of.items()}
    silent = set(role_of)
    numbers: dict[tuple[int, ...], int] = {}
    alike, certain = [_groups(ending)], [_mask(silent)]
    for dimension in reversed(dimensions):
        for at in _indexes(dimension.asked & _mask(role_of)):
            tolerated = _mask(place for place, choice in enumerate(dimension.choices) if choice.row >> at & 1)
            rest = numbers.setdefault(ending[at], len(numbers))
            ending[at] = (role_of[at], id(dimension), tolerated, rest)
            silent.discard(at)
        alike.append(_groups(ending))
        certain.append(_mask(silent))
    return alike[::-1], certain[::-1]


def _groups(ending: Mapping[int, tuple[int, ...]]) -> list[int]:
    found: dict[tuple[int, ...], int] = {}
    for at, key in ending.items():
        found[key] = found.get(key, 0) | 1 << at
    return [mask for mask in found.values() if mask & (mask - 1)]


def _indexes(mask: int) -> list[int]:
    return [at for at in range(mask.bit_length()) if mask >> at & 1]


def _mask(indexes: Iterable[int]) -> int:
    mask = 0
    for at in indexes:
        mask |= 1 << at
    return mask


def escapes(dimensions: Sequence[Dimension], term: int, others: int) -> bool:
    """Whether some combination is tolerated by the term (one bit) and by none of the others."""
    chosen = [[choice.row for choice in dimension.choices if choice.row & term] for dimension in dimensions]
    if not all(chosen):
        return False
    seen: set[tuple[int, int]] = set()

    def search(depth: int, left: int) -> bool:
        while left and depth < len(dimensions) and not left & dimensions[depth].asked:
            depth += 1
        if not left or depth == len(dimensions) or (depth, left) in seen:
            return not left
        seen.add((depth, left))
        return any(search(depth + 1, fewer) for fewer in _least({left & row for row in chosen[depth]}))

    return search(0, others)


def _least(masks: Iterable[int]) -> list[int]:
    """The masks that contain no other: whoever wants terms gone need not look at the rest."""
    found: list[int] = []
    for mask in sorted(masks, key=int.bit_count):
        if not any(known & mask == known for known in found):
            found.append(mask)
    return found


def merged(boxes: Iterable[tuple[Label, Box]], dimensions: Sequence[Dimension]) -> list[tuple[Label, Box]]:
    """The same combinations in fewer boxes: those that differ in one dimension only become one, until none are left."""
    everything = {at: frozenset(range(len(dimension.choices))) for at, dimension in enumerate(dimensions)}
    order = {id(dimension): at for at, dimension in enumerate(dimensions)}
    found = {(label, frozenset((order[id(of)], frozenset(ats)) for of, ats in box)) for label, box in boxes}
    fewer = True
    while fewer:
        size = len(found)
        for at in {at for _, box in found for at, _ in box}:
            found = _joined_along(at, found, everything[at])
        fewer = len(found) < size
    return [
        (label, tuple((dimensions[at], tuple(sorted(ats))) for at, ats in sorted(box, key=lambda one: one[0])))
        for label, box in found
    ]


_Found = tuple[Label, frozenset[tuple[int, frozenset[int]]]]


def _joined_along(at: int, boxes: Iterable[_Found], whole: frozenset[int]) -> set[_Found]:
    alike: dict[_Found, frozenset[int]] = {}
    for label, box in boxes:
        own = next((ats for dimension, ats in box if dimension == at), whole)
        key = label, frozenset(one for one in box if one[0] != at)
        alike[key] = alike.get(key, frozenset()) | own
    return {(label, rest if ats == whole else rest | {(at, ats)}) for (label, rest), ats in alike.items()}
