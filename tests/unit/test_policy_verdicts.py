"""Cases of packs, and those of the packs that are shipped."""

from __future__ import annotations

import pytest

from entrepot import policy
from entrepot.policy.analysis.cases import run_cases, untested
from entrepot.policy.analysis.check import check
from entrepot.policy.analysis.prove import prove
from entrepot.resources.model import PackSource
from entrepot.resources.territories import CODES

PACK = """
[pack]
id = "p"
[set.home]
territories = ["DE", "JP"]
[[rule]]
id = "F"
effect = "forbid"
status = "proposed"
from = 2026-01-01T00:00:00Z
when = { target.provider = "x" }
unless = [{ origin.territory = "@home", org.eligibility = "x@cloud" }]
[[case]]
rule = "F"
at = 2026-06-01T00:00:00Z
"""


def verdict(case: str):
    (found,) = run_cases(policy.parse([PackSource("p.toml", (PACK + case).encode())]))
    return found


@pytest.mark.parametrize(
    "case",
    [
        'want = "refuse"\nfacts = { target.provider = "x", origin.territory = "FR" }',
        'want = "refuse"\nfacts = { target.provider = "x", origin.territory = "unknown" }',
        'want = "refuse"\nfacts = { target.provider = "x", org.eligibility = [] }',
        'want = "allow"\nfacts = { target.provider = "y" }',
        'want = "allow"\nfacts = { origin.territory = "DE", org.eligibility = ["x@cloud", "other"] }',
    ],
)
def test_a_case_that_holds_whatever_else_is_true(case: str) -> None:
    assert verdict(case).passed


def test_a_case_names_the_fact_that_it_left_open() -> None:
    found = verdict('want = "refuse"\nfacts = { target.provider = "x", origin.territory = "DE" }')
    assert not found.passed
    assert found.contrary == {"org.eligibility has x@cloud": ("yes",)}
    found = verdict('want = "allow"\nfacts = { target.provider = "x", org.eligibility = "x@cloud" }')
    assert "origin.territory" in found.contrary
    assert "FR" not in found.contrary["origin.territory"]  # no rule names it: it is among `*other*`
    assert "*other*" in found.contrary["origin.territory"]


def test_a_permit_is_judged_without_an_assumed_one() -> None:
    text = PACK.replace('"forbid"', '"permit"')
    case = 'want = "allow"\nfacts = { target.provider = "x", origin.territory = "FR" }'
    (found,) = run_cases(policy.parse([PackSource("p.toml", (text + case).encode())]))
    assert found.passed


@pytest.mark.parametrize("name", policy.shipped_names())
def test_a_shipped_pack_is_sourced_and_its_cases_hold(name: str) -> None:
    packs = policy.parse([policy.shipped(each) for each in policy.shipped_names()])
    pack = next(each for each in packs if f"entrepot:{each.id}" == name)
    assert all((pack.source, pack.as_of, pack.review, pack.about))
    assert all(rule.clause for rule in pack.rules)
    assert all(rule.reason.keys() >= {"en"} for rule in pack.rules if rule.effect == "forbid")
    failed = [found for found in run_cases(packs) if found.pack == pack.id and not found.passed]
    assert not failed
    assert not list(untested([pack]))


def test_the_openai_list_is_the_sourced_one() -> None:
    (pack,) = policy.parse([policy.shipped("entrepot:openai-api")])
    (found,) = pack.sets
    codes = {member.value for member in found.members}
    assert len(codes) == 196
    assert not found.complete
    assert not codes & {"BY", "CN", "CU", "HK", "IR", "KP", "MO", "RU", "SY", "VE"}
    assert {"TW", "UA", "JP", "AX", "TF"} <= codes <= CODES


def test_an_unknown_shipped_pack() -> None:
    with pytest.raises(KeyError):
        policy.shipped("entrepot:../pyproject")


def test_the_invariants_of_the_shipped_packs_hold_together() -> None:
    packs = policy.parse([policy.shipped(each) for each in policy.shipped_names()])
    proofs = list(prove(packs))
    assert len(proofs) >= 8
    assert all(proof.proved and not proof.vacuous for proof in proofs)


def test_the_shipped_packs_have_nothing_but_notes() -> None:
    packs = policy.parse([policy.shipped(each) for each in policy.shipped_names()])
    found = check(packs)
    covered = {one.subject for one in found if "other rules cover it" in one.what}
    assert covered == set()
    assert {one.severity for one in found} == {"note"}
