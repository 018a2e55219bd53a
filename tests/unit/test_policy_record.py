"""Recorded decisions, taken again."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import call, mask_of, pack, rule

from entrepot.policy.model import Pack
from entrepot.policy.program import compile as compile_packs
from entrepot.policy.record import Record, decide, record, replay
from entrepot.resources.model import Owner

seeds = st.integers(0, 2**64 - 1).map(Random)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_a_record_decides_again_as_the_call_did_and_flips_under_other_rules(random: Random) -> None:
    old = pack(random)
    new = Pack("new", old.place, sets=old.sets, rules=(*old.rules[1:], rule(random, "ZZ")))
    before, after = compile_packs([old]), compile_packs([new])
    calls = [call(random) for _ in range(10)]
    past = [(record(one.facts, one.owners, one.at_ms), before.decide(mask_of(before, one))) for one in calls]
    assert list(replay(before, past)) == []
    flips = {flip.index: flip.now for flip in replay(after, past)}
    for index, one in enumerate(calls):
        assert flips.get(index, past[index][1]).permit == after.decide(mask_of(after, one)).permit
        written = msgspec.json.encode(past[index][0])
        assert decide(before, msgspec.json.decode(written, type=Record)) == past[index][1]


def test_a_record_holds_no_names() -> None:
    owners = (Owner("Ada", "CN", 50_000_000, of="Holding"), Owner("Holding", "SG"), Owner("Ada", "CN", None, of="Gone"))
    held = record({"org.flag": frozenset({"b", "a"})}, owners, 5)
    assert held.owners == (Owner("1", "CN", 50_000_000, "2"), Owner("2", "SG"), Owner("1", "CN", None, "3"))
    assert held.facts == {"org.flag": ("a", "b")}
    assert b"Ada" not in msgspec.json.encode(held)
