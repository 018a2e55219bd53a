"""Why a call is decided as it is, and the smallest lawful changes that would allow it. For the operator alone.

A change of origin is never among them: what is to be shown is a lawful way, not a way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import msgspec

from entrepot.errors import Code
from entrepot.policy.analysis.targets import Client, Served, served
from entrepot.policy.derive import Facts, principal_facts, target_facts
from entrepot.policy.facts import FACTS
from entrepot.policy.model import Rule, Source
from entrepot.policy.ownership import holding
from entrepot.policy.program import Decision, Program
from entrepot.resources.model import World

# More changes at once than this are no advice.
_MOST_CHANGES: Final = 4


class Question(msgspec.Struct, frozen=True):
    """A call that somebody might make."""

    at_ms: int
    origin: str
    network: str = "isp"
    attested: bool = False
    operation: str = "chat"

    def facts(self) -> Facts:
        return {
            "origin.territory": self.origin,
            "origin.network": self.network,
            "origin.attested": "true" if self.attested else "false",
            "operation": self.operation,
        }


class Reference(msgspec.Struct, frozen=True):
    """A determining rule, and where it comes from."""

    id: str
    effect: str
    source: Source | None
    clause: str | None
    reason: dict[str, str]


class Answer(msgspec.Struct, frozen=True):
    """The decision on one candidate target."""

    upstream: str
    region: str
    territory: str
    decision: str
    code: str | None
    rules: tuple[Reference, ...]


class Lawful(msgspec.Struct, frozen=True, rename={"is_": "is"}):
    """One fact that may change lawfully: what it is, and what it would have to be."""

    fact: str
    is_: str
    to: str


class Explanation(msgspec.Struct, frozen=True):
    """`would_allow`: each item is a set of changes that together allow the call, none of them superfluous."""

    decision: str
    code: str | None
    release: str
    at_ms: int
    targets: tuple[Answer, ...]
    would_allow: tuple[tuple[Lawful, ...], ...]


def explain(program: Program, world: World, client: Client, question: Question) -> Explanation:
    everywhere = places(world, client, question)
    facts = principal_facts(client.organization, client.account, question.at_ms) | question.facts()
    answers, decisions = [], []
    owners = program.mask({}, holding(client.organization.owners)) & program.segment(question.at_ms)[0]
    for candidate in everywhere:
        if candidate.candidate:
            decision = program.decide(program.mask(facts | target_facts(candidate.target)) & owners)
            answers.append(_answer(program, candidate, decision))
            decisions.append(decision)
    allowed = any(answer.decision == "allow" for answer in answers)
    return Explanation(
        decision="allow" if allowed else "refuse",
        code=None if allowed else told_code(decisions),
        release=program.release,
        at_ms=question.at_ms,
        targets=tuple(answers),
        would_allow=() if allowed else tuple(_ways(program, world, everywhere, facts, owners)),
    )


def told_code(decisions: Sequence[Decision]) -> str:
    """The code by which a client is refused: that of the first candidate, in the order in which they are tried."""
    if not decisions:
        return Code.NO_TARGET.label
    return decisions[0].code or Code.ACCESS_DENIED.label


def places(world: World, client: Client, question: Question) -> tuple[Served, ...]:
    """The upstreams that have the model. To subscribe, any of them may be the permitted one, whatever the SKU."""
    found = served(world, client.account, client.deployment)
    return tuple(one._replace(candidate=True) for one in found) if question.operation == "subscribe" else found


def _answer(program: Program, candidate: Served, decision: Decision) -> Answer:
    rules = {rule.id: rule for rule in program.rules}
    return Answer(
        upstream=candidate.upstream,
        region=candidate.target.region,
        territory=candidate.target.territory,
        decision="allow" if decision.permit else "refuse",
        code=None if decision.permit else told_code([decision]),
        rules=tuple(reference(program, rules[name]) for name in decision.rules),
    )


def reference(program: Program, rule: Rule) -> Reference:
    """The rule with its own source, else with that of its pack."""
    source = rule.source or next((pack.source for pack in program.packs if pack.id == rule.pack), None)
    return Reference(rule.id, rule.effect, source, rule.clause, rule.reason)


def _ways(
    program: Program, world: World, everywhere: Sequence[Served], facts: Facts, fixed: int
) -> Iterator[tuple[Lawful, ...]]:
    """The smallest sets of changes, over the candidates and, as a change of region, over the other places."""
    changes = list(_changes(program, world, facts))
    regions = ", ".join(sorted({one.target.region for one in everywhere if one.candidate}))
    found: list[frozenset[Lawful]] = []
    for size in range(_MOST_CHANGES + 1):
        for place in everywhere:
            moves = () if place.candidate else (Lawful("target.region", regions, place.target.region),)
            if len(moves) > size:
                continue
            for chosen in combinations(changes, size - len(moves)):
                way = frozenset((*moves, *chosen))
                if _contradictory(way) or any(known <= way for known in found):
                    continue
                changed = _applied(facts | target_facts(place.target), chosen)
                if program.decide(program.mask(changed) & fixed).permit:
                    found.append(way)
                    yield tuple(sorted(way, key=lambda one: (one.fact, one.to)))


def _contradictory(way: frozenset[Lawful]) -> bool:
    """Whether a fact that has one value would have to have two."""
    single = [one.fact for one in way if FACTS[one.fact].kind != "names"]
    return len(single) != len(set(single))


def _applied(facts: Facts, chosen: Sequence[Lawful]) -> Facts:
    changed = dict(facts)
    for one in chosen:
        had = changed[one.fact]
        changed[one.fact] = had | {one.to} if isinstance(had, frozenset) else one.to
    return changed


def _changes(program: Program, world: World, facts: Facts) -> Iterator[Lawful]:
    """Single changes of the client's lawful facts that some rule could notice."""
    wanted = {
        "org.kyc": ["approved"],
        "org.licence": ["valid"],
        "account.channel": list(FACTS["account.channel"].values),
        "account.operator": sorted(operator.name for operator in world.operators),
        "account.state": ["active"],
    }
    for fact, values in wanted.items():
        is_ = str(facts[fact])
        yield from (
            Lawful(fact, is_, value) for value in values if value != is_ and _noticed(program, fact, is_, value)
        )
    had = facts["org.eligibility"]
    assert isinstance(had, frozenset)
    for name in sorted(program.sets["org.eligibility"].named() - had):
        yield Lawful("org.eligibility", ", ".join(sorted(had)) or "none", name)


def _noticed(program: Program, fact: str, was: str, value: str) -> bool:
    return program.of(fact, was) != program.of(fact, value)
