"""The exported policies, run by Cedar, decide as the program does: an interpreter that knows nothing of ours."""

from __future__ import annotations

import os
from random import Random

import cedarpy
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import call, mask_of, pack

from entrepot import policy
from entrepot.policy.analysis.cedar import cedar, context, schema
from entrepot.policy.facts import FACTS, domain
from entrepot.policy.naive import Call
from entrepot.policy.ownership import holding
from entrepot.policy.program import Program
from entrepot.policy.program import compile as compile_packs

seeds = st.integers(0, 2**64 - 1).map(Random)
lean = settings(max_examples=int(os.environ.get("POLICY_EXAMPLES", "200")) // 4, deadline=None)


def request(release, call: Call) -> dict:
    """The call as a Cedar request, with every attribute of the schema."""
    facts = {name: "unknown" if fact.unknown else domain(fact)[0] if fact.values else "none"
             for name, fact in FACTS.items() if fact.kind not in {"names", "owned"}}  # fmt: skip
    facts |= {name: frozenset() for name, fact in FACTS.items() if fact.kind == "names"}
    facts |= call.facts
    pools = {}
    for each in (each for one in release for each in one.sets if each.kind == "territories"):
        alive = [one for one in (each, *each.members) if during(one, call.at_ms)]
        members = [one.value for one in alive[1:]] if alive[:1] == [each] else []
        pools |= {f"@{each.name}": members, f"@!{each.name}": members}
    return {
        "principal": 'Client::"c"',
        "action": 'Action::"call"',
        "resource": 'Target::"t"',
        "context": context(facts, holding(call.owners), pools, call.at_ms),
    }


def during(one, at_ms: int) -> bool:
    return (one.from_ms is None or one.from_ms <= at_ms) and (one.until_ms is None or at_ms < one.until_ms)


def known(call: Call) -> Call:
    """The call as a record derives it: values of their domains, and no set with members that are unknown."""
    facts = {}
    for name, value in call.facts.items():
        if isinstance(value, frozenset):
            facts[name] = value - {"unknown"}
        else:
            facts[name] = value if value != "junk" else "unknown" if FACTS[name].unknown else domain(FACTS[name])[0]
    return Call(facts, call.owners, call.at_ms)


def ruled(result) -> tuple[bool, list[str]]:
    assert not result.diagnostics.errors
    return result.decision == cedarpy.Decision.Allow, sorted(result.diagnostics.id_annotations_by_reason.values())


def agree(packs, program: Program, calls: list[Call]) -> None:
    requests = [request(packs, one) for one in calls]
    results = cedarpy.is_authorized_batch(requests, cedar(packs), [], schema())
    for one, result in zip(calls, results, strict=True):
        decision = program.decide(mask_of(program, one))
        assert ruled(result) == (decision.permit, list(decision.rules))


@lean
@given(seeds)
def test_cedar_decides_as_the_program_does(random: Random) -> None:
    packs = [pack(random)]
    agree(packs, compile_packs(packs), [known(call(random)) for _ in range(20)])


def test_the_shipped_packs_are_valid_cedar() -> None:
    packs = policy.parse([policy.shipped(name) for name in policy.shipped_names()])
    assert cedarpy.validate_policies(cedar(packs), schema()).validation_passed
