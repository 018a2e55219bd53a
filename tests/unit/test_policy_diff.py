"""The exact diff and the prover, held to brute force over small vocabularies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from policy_worlds import HERE, INSTANTS, pack, rule, some_sets

from entrepot import policy
from entrepot.policy import naive
from entrepot.policy.analysis.diff import ALLOWED, REFUSED, Change, diff
from entrepot.policy.analysis.prove import prove
from entrepot.policy.analysis.space import Dimension, Space
from entrepot.policy.facts import FACTS
from entrepot.policy.model import Invariant, Pack
from entrepot.policy.naive import Call
from entrepot.resources.model import PackSource
from entrepot.resources.territories import CODES

SMALL = ("origin.territory", "operation", "org.eligibility", "org.screening", "target.provider")
seeds = st.integers(0, 2**64 - 1).map(Random)
lean = settings(max_examples=int(os.environ.get("POLICY_EXAMPLES", "100")) // 16, deadline=None)


def concrete(dimension: Dimension, value: str) -> str:
    """A value that stands for `*other*` or for another part of a country."""
    if dimension.fact == "origin.territory" and value == "*other*":
        named = {one for choice in dimension.choices for one in choice.values}
        return min(CODES - named)
    return value.replace("-*", "-09")


def every_call(space: Space, at_ms: int) -> Iterator[tuple[dict[str, str], int, Call]]:
    """Every combination of values with its weight, as labels and as a call."""
    asked = [dimension for dimension in space.dimensions if dimension.asked]
    values = [[value for choice in dimension.choices for value in choice.values] for dimension in asked]
    rest = 1
    for dimension in space.dimensions:
        rest *= 1 if dimension.asked else dimension.weight
    # Any value stands for a fact that no rule asks about; left out it would be unknown, which some facts never are.
    idle: dict[str, str | frozenset[str]] = {"org.eligibility": frozenset()}
    for dimension in space.dimensions:
        if not dimension.asked and not dimension.part:
            idle[dimension.fact] = concrete(dimension, dimension.choices[0].values[0])
    for chosen in product(*values):
        facts = dict(idle)
        weight = rest
        for dimension, value in zip(asked, chosen, strict=True):
            if FACTS[dimension.fact].kind == "names":
                had = facts[dimension.fact]
                assert isinstance(had, frozenset)
                facts[dimension.fact] = had | {dimension.part} if value == "yes" else had
            else:
                facts[dimension.fact] = concrete(dimension, value)
            if dimension.fact == "origin.territory" and value == "*other*":
                weight *= dimension.weight - sum(len(choice.values) for choice in dimension.choices) + 1
        labels = {dimension.label: value for dimension, value in zip(asked, chosen, strict=True)}
        yield labels, weight, Call(facts, (), at_ms)


def covers(change: Change, labels: dict[str, str]) -> bool:
    return all(labels[fact] in values for fact, values in change.facts)


@lean
@given(seeds)
def test_a_diff_is_what_brute_force_finds(random: Random) -> None:
    old = pack(random, SMALL)
    at = random.randrange(len(old.rules))
    rules = list(old.rules)
    rules[at] = rule(random, rules[at].id, None, SMALL)
    new = replace(old, rules=tuple(rules), sets=some_sets(random) if random.random() < 0.3 else old.sets)
    at_ms = random.choice(INSTANTS)
    found = diff([old], [new], at_ms)
    counts = {ALLOWED: 0, REFUSED: 0}
    for labels, weight, call in every_call(Space([[old], [new]]), at_ms):
        was, now = naive.decide([old], call)[0], naive.decide([new], call)[0]
        told = {change.direction for change in found.changes if covers(change, labels)}
        assert told == ({REFUSED if was else ALLOWED} if was != now else set())
        if was != now:
            counts[REFUSED if was else ALLOWED] += weight
    assert {direction: count for direction, count in counts.items() if count} == found.counts


@lean
@given(seeds)
@example(Random(144_531_154_878_975))  # a scope that takes any provider, but not an unknown one
def test_a_proof_is_what_brute_force_finds(random: Random) -> None:
    policies = pack(random, SMALL)
    want = random.choice(["allow", "refuse"])
    scope = replace(
        rule(random, "INV", "forbid" if want == "refuse" else "permit", SMALL), unknown_passes=False, any=()
    )
    claimed = Pack("claims", HERE, invariants=(Invariant("INV", "claim", want, scope, HERE),))
    (proof,) = prove([policies, claimed])
    space = Space([[policies], [Pack("p", HERE, sets=policies.sets, rules=(scope,))]])
    sets = {each.name: each for each in policies.sets}
    fails = any(
        naive.matches(scope, sets, call) and naive.decide([policies], call)[0] == (want == "refuse")
        for at_ms in (0, *INSTANTS)
        for _, _, call in every_call(space, at_ms)
    )
    assert proof.proved == (not fails)


def packs(*texts: str) -> tuple[Pack, ...]:
    return policy.parse([PackSource(f"{at}.toml", text.encode()) for at, text in enumerate(texts)])


BASE = """
[pack]
id = "p"
[set.home]
territories = ["DE", "JP"]
[[rule]]
id = "P"
effect = "permit"
when = { target.provider = "x", account.channel = "direct" }
[[rule]]
id = "F"
effect = "forbid"
from = 2026-01-01T00:00:00Z
when = { target.provider = "x", account.channel = "direct" }
unless = [{ origin.territory = "@home" }]
"""


def test_a_diff_reads_as_a_sentence_of_facts() -> None:
    (change,) = diff(packs(BASE), packs(BASE.replace('"JP"', '"JP", "HK"'))).changes
    assert change.direction == ALLOWED
    assert change.from_ms == 1_767_225_600_000
    assert change.until_ms is None
    assert change.rules == ("F",)
    assert dict(change.facts) == {
        "target.provider": ("x",),
        "account.channel": ("direct",),
        "origin.territory": ("HK",),
    }


def test_a_date_that_moves_is_a_change_in_between() -> None:
    (change,) = diff(packs(BASE), packs(BASE.replace("2026-01-01", "2026-03-01"))).changes
    assert (change.from_ms, change.until_ms) == (1_767_225_600_000, 1_772_323_200_000)
    assert change.direction == ALLOWED


def test_what_only_reads_differently_is_no_change() -> None:
    renamed = BASE.replace('id = "F"', 'id = "G"').replace('["DE", "JP"]', '["JP", "DE"]')
    assert diff(packs(BASE), packs(renamed)).empty
    assert diff(packs(BASE), packs(BASE)).counts == {}


def test_proved_refuted_and_vacuous() -> None:
    claims = """
[pack]
id = "claims"
[[invariant]]
id = "I-1"
claim = "no direct call from outside home reaches x from 2026 on"
never = { target.provider = "x", account.channel = "direct", origin.territory = "@!home" }
from = 2026-01-01T00:00:00Z
[[invariant]]
id = "I-2"
claim = "nor before"
never = { target.provider = "x", origin.territory = "@!home" }
[[invariant]]
id = "I-3"
claim = "home is always served"
always = { target.provider = "x", account.channel = "direct", origin.territory = "@home" }
[[invariant]]
id = "I-4"
claim = "about nobody"
never = { origin.territory = "@nobody" }
unless = { origin.territory = "unknown" }
[set.nobody]
territories = []
"""
    one, two, three, four = prove(packs(BASE, claims))
    assert one.proved
    assert not two.proved
    assert two.until_ms == 1_767_225_600_000
    assert two.rules == ("P",)
    assert "unknown" in dict(two.facts)["origin.territory"]
    assert three.proved
    assert four.proved


def test_ownership_in_words() -> None:
    owned = """
[[rule]]
id = "O"
effect = "forbid"
when = { target.provider = "x", org.owned_over_50 = "@!home" }
"""
    (change,) = diff(packs(BASE), packs(BASE + owned), 0).changes
    assert change.text == "direct calls to provider x, where owners in @!home may hold more than 50 %"
    assert change.direction == REFUSED
    (change,) = diff(
        packs(BASE), packs(BASE + owned.replace("over_50", "25").replace("when", 'unknown = "pass"\nwhen')), 0
    ).changes
    assert change.text == "direct calls to provider x, where owners in @!home hold 25 % or more"
