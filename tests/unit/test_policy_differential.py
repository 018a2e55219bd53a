"""The compiled program against the naive interpreter, and the laws that every policy obeys.

`POLICY_EXAMPLES=10000 pytest tests/unit/test_policy_differential.py` is the long run: 20 calls an example.
"""

from __future__ import annotations

import os
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from policy_worlds import call, mask_of, pack, rule

from entrepot.policy import naive
from entrepot.policy.facts import FACTS
from entrepot.policy.model import Pack
from entrepot.policy.naive import Call
from entrepot.policy.program import Program
from entrepot.policy.program import compile as compile_packs

EXAMPLES = int(os.environ.get("POLICY_EXAMPLES", "100"))
lean = settings(max_examples=EXAMPLES, deadline=None)
seeds = st.integers(0, 2**64 - 1).map(Random)


def outcome(program: Program, request: Call) -> tuple[bool, tuple[str, ...]]:
    decision = program.decide(mask_of(program, request))
    return decision.permit, decision.rules


@lean
@given(seeds)
def test_the_program_decides_as_the_specification_does(random: Random) -> None:
    packs = [pack(random)]
    program = compile_packs(packs)
    for _ in range(20):
        request = call(random)
        mask = mask_of(program, request)
        decision = program.decide(mask)
        assert (decision.permit, decision.rules) == naive.decide(packs, clean(request))
        assert decision.permit == (not mask & program.forbid and bool(mask & program.permit))


def clean(request: Call) -> Call:
    """What is no value of a closed or territory fact is unknown."""
    facts = {name: "unknown" if value == "junk" else value for name, value in request.facts.items()}
    return Call(facts, request.owners, request.at_ms)


@lean
@given(seeds)
def test_no_decision_depends_on_the_order_of_rules_or_files(random: Random) -> None:
    whole = pack(random)
    shuffled = random.sample(whole.rules, len(whole.rules))
    half = len(shuffled) // 2
    parts = [
        Pack("one", whole.place, sets=whole.sets[1:], rules=tuple(shuffled[:half])),
        Pack("two", whole.place, sets=whole.sets[:1], rules=tuple(shuffled[half:])),
    ]
    one, two, three = compile_packs([whole]), compile_packs(parts), compile_packs(parts[::-1])
    assert two.release == three.release
    for request in [call(random) for _ in range(20)]:
        assert outcome(one, request) == outcome(two, request) == outcome(three, request)


@lean
@given(seeds)
def test_a_forbid_never_allows_more_and_a_permit_never_refuses_more(random: Random) -> None:
    policy = pack(random)
    before = compile_packs([policy])
    tighter = compile_packs([replace(policy, rules=(*policy.rules, rule(random, "ZZ", "forbid")))])
    wider = compile_packs([replace(policy, rules=(*policy.rules, rule(random, "ZZ", "permit")))])
    for request in [call(random) for _ in range(20)]:
        was = before.decide(mask_of(before, request)).permit
        assert was or not tighter.decide(mask_of(tighter, request)).permit
        assert not was or wider.decide(mask_of(wider, request)).permit


@lean
@given(seeds)
def test_knowing_less_never_allows_more(random: Random) -> None:
    """Only a rule that names `unknown`, or lets it pass, can serve a call because less is known of it."""
    policy = pack(random)
    wary = tuple(
        one
        for one in policy.rules
        if not one.unknown_passes and "unknown" not in str((one.when, one.any, one.unless))
    )  # fmt: skip
    program = compile_packs([replace(policy, rules=wary)])
    for request in [call(random) for _ in range(20)]:
        blind = Call({**request.facts, "origin.territory": "unknown", "org.territory": "unknown"}, (), request.at_ms)
        if program.decide(mask_of(program, blind)).permit:
            assert program.decide(mask_of(program, request)).permit


@lean
@given(seeds)
def test_a_mask_is_the_product_of_its_facts(random: Random) -> None:
    program = compile_packs([pack(random)])
    facts = call(random).facts
    product = program.full
    for name, value in facts.items():
        product &= program.mask({name: value}) if FACTS[name].kind == "names" else program.of(name, str(value))
    assert product == program.mask(facts)


@lean
@given(seeds)
def test_segments_tile_the_time_axis(random: Random) -> None:
    program = compile_packs([pack(random)])
    at_ms, seen = 0, 0
    while at_ms < 10_000:
        mask, until_ms = program.segment(at_ms)
        assert until_ms > at_ms
        assert program.segment(until_ms - 1)[0] == mask
        at_ms, seen = until_ms, seen + 1
    assert seen == len(program.times.cuts) + 1
