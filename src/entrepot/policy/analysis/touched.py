"""Which deployments of a world a change of release touches, over all origins, operations and instants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from entrepot.policy.analysis.diagram import Diagram
from entrepot.policy.analysis.diff import question
from entrepot.policy.analysis.segments import during, joined, segments
from entrepot.policy.analysis.space import Dimension, Space
from entrepot.policy.analysis.targets import Client, clients, served
from entrepot.policy.derive import expiries, principal_facts, target_facts
from entrepot.policy.ownership import holding
from entrepot.policy.program import Timeline
from entrepot.resources.model import World

_FREE = ("origin.territory", "origin.network", "origin.attested", "operation")


class Touched(msgspec.Struct, frozen=True):
    """Some calls of the deployment to the upstream come out otherwise in `[from_ms, until_ms)`."""

    account: str
    deployment: str
    upstream: str
    direction: str
    from_ms: int | None
    until_ms: int | None


def touched(space: Space, world: World, at_ms: int | None = None) -> Iterator[Touched]:
    """`space` holds the old release and the new one; the world is the new one's. `at_ms`: only what is so then."""
    free = [dimension for dimension in space.dimensions if dimension.fact in _FREE]
    for client in clients(world):
        principal = _principal(space, client)
        for one in served(world, client.account, client.deployment):
            if one.candidate:
                target = space.fixed(target_facts(one.target))
                for direction, intervals in _changes(space, principal, target, free).items():
                    for start, until in joined(intervals):
                        if at_ms is not None and not during(start, until, at_ms):
                            continue
                        names = client.account.name, client.deployment.name, one.upstream
                        yield Touched(*names, direction, start, until)


def _principal(space: Space, client: Client) -> Timeline:
    cuts = expiries(client.organization)
    owners = holding(client.organization.owners)
    instants = (cuts[0] - 1 if cuts else 0, *cuts)
    facts = (principal_facts(client.organization, client.account, at_ms) for at_ms in instants)
    return Timeline(cuts, tuple(space.fixed(each, owners) for each in facts))


def _changes(
    space: Space, principal: Timeline, target: int, free: Sequence[Dimension]
) -> dict[str, list[tuple[int | None, int | None]]]:
    found: dict[str, list[tuple[int | None, int | None]]] = {}
    known: dict[tuple[int, int], tuple[str, ...]] = {}
    for segment in segments([*space.times, principal]):
        before, after, client = segment.masks
        mask = client & target
        pair = mask & before, mask & after
        if pair[0] == pair[1]:
            continue
        if pair not in known:
            diagram = Diagram(free, question(space, *pair))
            known[pair] = tuple(diagram.counts(diagram.build(pair[0] | pair[1])))
        for direction in known[pair]:
            found.setdefault(direction, []).append((segment.from_ms, segment.until_ms))
    return found
