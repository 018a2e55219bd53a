"""How a call is decided over time, and what changes the decision each time."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from entrepot.policy.analysis.explain import Question, places, told_code
from entrepot.policy.analysis.targets import Client
from entrepot.policy.derive import Facts, principal_facts, target_facts
from entrepot.policy.program import Decision, Program
from entrepot.resources.model import World


class Stretch(msgspec.Struct, frozen=True):
    """`[from_ms, until_ms)`, open where None. `because`: what is new at its start."""

    from_ms: int | None
    until_ms: int | None
    decision: str
    code: str | None
    rules: tuple[str, ...]
    allowed: tuple[str, ...]
    because: tuple[str, ...]


def timeline(program: Program, world: World, client: Client, question: Question) -> Iterator[Stretch]:
    """The stretches of time in which all candidate targets are decided alike; `question.at_ms` is not looked at."""
    principal = program.principal(client.organization, client.account)
    targets = [one for one in places(world, client, question) if one.candidate]
    masks = {one.upstream: program.mask(question.facts() | target_facts(one.target)) & program.full for one in targets}
    cuts = sorted({*program.times.cuts, *principal.cuts})
    start: int | None = None
    known: dict[str, Decision] | None = None
    because: tuple[str, ...] = ()
    for at_ms in [(cuts[0] - 1) if cuts else 0, *cuts]:
        alive = principal.at(at_ms)[0] & program.segment(at_ms)[0]
        decisions = {name: program.decide(mask & alive) for name, mask in masks.items()}
        if known is not None and decisions != known:
            yield _stretch(start, at_ms, known, because)
            start, because = at_ms, tuple(_because(program, client, at_ms, tuple(masks.values())))
        known = decisions
    if known is not None:
        yield _stretch(start, None, known, because)


def _stretch(start: int | None, until: int | None, decisions: dict[str, Decision], because: tuple[str, ...]) -> Stretch:
    allowed = tuple(name for name, decision in decisions.items() if decision.permit)
    counted = [decision for decision in decisions.values() if decision.permit == bool(allowed)]
    return Stretch(
        from_ms=start,
        until_ms=until,
        decision="allow" if allowed else "refuse",
        code=None if allowed else told_code(counted),
        rules=tuple(sorted({rule for decision in counted for rule in decision.rules})),
        allowed=allowed,
        because=because,
    )


def _because(program: Program, client: Client, at_ms: int, masks: tuple[int, ...]) -> Iterator[str]:
    """Facts that expire at the instant, and rules that begin or end then and bear on the call."""
    before, after = (_facts(client, instant) for instant in (at_ms - 1, at_ms))
    yield from (
        f"{name}: {_text(before[name])} → {_text(after[name])}" for name in after if before[name] != after[name]
    )
    was, now = program.segment(at_ms - 1)[0], program.segment(at_ms)[0]
    relevant = 0
    for mask in masks:
        relevant |= mask
    ends = {rule.id for rule in program.matched(was & ~now & relevant)}
    begins = {rule.id for rule in program.matched(now & ~was & relevant)}
    yield from (f"{name} changes with a set that it names" for name in sorted(begins & ends))
    yield from (f"{name} takes effect" for name in sorted(begins - ends))
    yield from (f"{name} ends" for name in sorted(ends - begins))


def _facts(client: Client, at_ms: int) -> Facts:
    return principal_facts(client.organization, client.account, at_ms)


def _text(value: str | frozenset[str]) -> str:
    return value if isinstance(value, str) else ", ".join(sorted(value)) or "none"
