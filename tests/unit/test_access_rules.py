"""Merge patches, the rule of two persons, and the states of a proposal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from entrepot.errors import Code, Error
from entrepot.management.access import organizations, proposal
from entrepot.management.access.effects import applied, check_change
from entrepot.management.access.merge import merge
from entrepot.management.access.narrowing import grants, refuse_widening
from entrepot.management.access.proposal import Person

NOW = 1_800_000_000_000
ORG = "/providers/Entrepot.Access/organizations/yangtze"
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=3),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("target", "patch", "want"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_is_that_of_the_specification(target: Any, patch: Any, want: Any) -> None:
    assert merge(target, patch) == want


@given(JSON, JSON)
def test_merging_twice_is_merging_once(target: Any, patch: Any) -> None:
    once = merge(target, patch)
    assert merge(once, patch) == once


WIDE = [
    ({}, {"eligibility": ["openai@cloud"]}),
    ({"eligibility": [{"name": "a", "expires": "2027-01-01"}]}, {"eligibility": [{"name": "a"}]}),
    (
        {"eligibility": [{"name": "a", "expires": "2027-01-01"}]},
        {"eligibility": [{"name": "a", "expires": "2027-01-02"}]},
    ),
    ({"eligibility": [{"name": "a", "expires": "2027-01-01"}]}, {"eligibility": [{"name": "a", "expires": "soon"}]}),
    ({"eligibility": ["a"]}, {"eligibility": ["a", "b"]}),
    ({"eligibility": ["a"]}, {"eligibility": ["A"]}),
    ({"kyc": "rejected"}, {"kyc": "approved"}),
    ({"kyc": "rejected"}, {"kyc": "pending"}),
    ({"kyc": "rejected"}, {}),
    ({"kyc": "rejected"}, {"kyc": None}),
    ({"screening": "hit"}, {"screening": "unknown"}),
    ({"screening": "hit"}, {}),
]
NARROW = [
    ({}, {"kyc": "approved", "screening": "clear"}),
    ({"kyc": "expired"}, {"kyc": "approved"}),
    ({"kyc": "approved"}, {"kyc": "rejected"}),
    ({"kyc": "rejected", "screening": "hit"}, {"kyc": "rejected", "screening": "hit", "legalName": "x"}),
    ({"eligibility": ["a", "b"]}, {"eligibility": ["b"]}),
    ({"eligibility": ["a"]}, {}),
    ({"eligibility": ["a"]}, {"eligibility": [{"name": "a", "expires": "2027-01-01"}]}),
    ({"eligibility": [{"name": "a", "grounds": "x"}]}, {"eligibility": ["a"]}),
    ({"screening": "clear"}, {"screening": "hit"}),
]


@pytest.mark.parametrize(("before", "after"), WIDE)
def test_what_widens_is_proposed(before: dict[str, Any], after: dict[str, Any]) -> None:
    with pytest.raises(Error) as told:
        refuse_widening(ORG, before, after)
    assert told.value.name == "ProposalRequired"
    assert told.value.code is Code.BAD_REQUEST
    for detail in told.value.details:
        assert f'"subject":"{ORG}"' in detail.message
        assert "PUT /providers/Entrepot.Access/proposals/" in detail.message
        assert detail.target is not None


@pytest.mark.parametrize(("before", "after"), NARROW)
def test_what_narrows_is_written(before: dict[str, Any], after: dict[str, Any]) -> None:
    refuse_widening(ORG, before, after)


GRANT = some.fixed_dictionaries(
    {"name": some.sampled_from("abc")}, optional={"expires": some.sampled_from(["2027-01-01", "2028-01-01"])}
)


@given(some.lists(GRANT, max_size=4), some.lists(GRANT, max_size=4))
def test_no_write_ever_widens(before: list[Any], after: list[Any]) -> None:
    """Whatever passes leaves every eligibility no later end than it had."""
    had, has = grants({"eligibility": before}), grants({"eligibility": after})
    wider = any(end > had.get(name, 0) for name, end in has.items())
    if wider:
        with pytest.raises(Error):
            refuse_widening(ORG, {"eligibility": before}, {"eligibility": after})
    else:
        refuse_widening(ORG, {"eligibility": before}, {"eligibility": after})


ASKED = {
    "kind": "eligibility",
    "subject": ORG,
    "change": {"name": "openai@cloud", "grounds": "licence seen"},
    "reason": "enterprise with a licence",
}
ANN, BEN = Person("1", "ann"), Person("2", "ben")


def standing(**more: Any) -> dict[str, Any]:
    return proposal.opened(proposal.read(ASKED, NOW), ANN, NOW, "etag", {}) | more


@pytest.mark.parametrize(
    ("asked", "targets"),
    [
        ({}, {"kind", "subject", "change", "reason"}),
        (ASKED | {"kind": "coup"}, {"kind"}),
        (ASKED | {"reason": " "}, {"reason"}),
        (ASKED | {"reason": "x" * 2_001}, {"reason"}),
        (ASKED | {"subject": "yangtze"}, {"subject"}),
        (ASKED | {"change": []}, {"change"}),
        (ASKED | {"effectiveAt": "2099-01-01"}, {"effectiveAt"}),
        ({"kind": "policyRelease", "change": {}, "reason": "r", "effectiveAt": "2020-01-01"}, {"effectiveAt"}),
        ({"kind": "policyRelease", "change": {}, "reason": "r", "effectiveAt": "2099-01-01"}, {"effectiveAt"}),
        ({"kind": "policyRelease", "change": {}, "reason": "r", "effectiveAt": "soon"}, {"effectiveAt"}),
        ({"kind": "policyRelease", "change": {}, "reason": "r", "effectiveAt": 1}, {"effectiveAt"}),
        ({"kind": "policyRelease", "change": {}, "reason": "r", "subject": ORG}, {"subject"}),
    ],
)
def test_every_mistake_of_a_proposal_is_told(asked: dict[str, Any], targets: set[str]) -> None:
    with pytest.raises(Error) as told:
        proposal.read(asked, NOW)
    assert {str(each.target).removeprefix("properties.") for each in told.value.details} == targets


def test_who_proposed_does_not_approve() -> None:
    with pytest.raises(Error) as told:
        proposal.decided(standing(), "approve", ANN, NOW, "it is fine")
    assert told.value.name == "SecondPersonRequired"
    after = proposal.decided(standing(), "approve", BEN, NOW, None)
    assert (after["state"], after["decidedBy"]["name"]) == ("approved", "ben")
    assert "breakGlass" not in after


def test_nor_through_another_principal_of_the_same_person() -> None:
    by_ann = standing(proposedBy=Person("1", "ann-laptop", "ann").plain())
    for owner in ("ann", " Ann ", "ANN"):
        with pytest.raises(Error):
            proposal.decided(by_ann, "approve", Person("9", "ann-automation", owner), NOW, "r")
    proposal.decided(by_ann, "approve", Person("9", "ben-automation", "ben"), NOW, "r")


def test_breaking_the_glass_takes_a_reason_and_stays_visible() -> None:
    with pytest.raises(Error) as told:
        proposal.decided(standing(), "approve", ANN, NOW, None, break_glass=True)
    assert told.value.name == "ReasonRequired"
    after = proposal.decided(standing(), "approve", ANN, NOW, "nobody else is awake", break_glass=True)
    assert after["breakGlass"]["reason"] == "nobody else is awake"
    assert "breakGlass" not in proposal.decided(standing(), "approve", BEN, NOW, "r", break_glass=True)


@pytest.mark.parametrize("first", ["approve", "reject", "withdraw"])
@pytest.mark.parametrize("second", ["approve", "reject", "withdraw"])
def test_a_decision_is_final(first: Any, second: Any) -> None:
    after = proposal.decided(standing(), first, BEN, NOW, "r")
    with pytest.raises(Error) as told:
        proposal.decided(after, second, BEN, NOW, "r")
    assert told.value.code is Code.CONFLICT


def test_a_later_instant_is_applied_when_it_has_come() -> None:
    approved = proposal.decided(standing(), "approve", BEN, NOW, None) | {"appliesAt": "2030-01-01T00:00:00Z"}
    assert proposal.shown(approved, NOW)["applied"] is False
    assert proposal.shown(approved, 1_893_456_000_000)["applied"] is True
    assert "applied" not in proposal.shown(standing(), NOW)


@pytest.mark.parametrize(
    ("kind", "subject", "properties", "change"),
    [
        ("eligibility", "organization", {}, {}),
        ("eligibility", "organization", {}, {"name": "a"}),
        ("eligibility", "organization", {}, {"name": "a", "grounds": "g", "expires": "2020-01-01"}),
        ("eligibility", "organization", {}, {"name": "a", "grounds": "g", "more": 1}),
        ("eligibility", "organization", {"eligibility": ["a"]}, {"name": "a", "grounds": "g"}),
        ("egress", "account", {}, {}),
        ("egress", "account", {}, {"egress": "10.0.0.0/8"}),
        ("egress", "account", {}, {"egress": [], "state": "active"}),
        ("residency", "account", {}, {"residency": None}),
        ("reinstatement", "account", {"state": "active"}, {}),
        ("reinstatement", "account", {"state": "suspended"}, {"state": "active"}),
        ("reinstatement", "organization", {"kyc": "rejected"}, {}),
        ("reinstatement", "organization", {"kyc": "rejected"}, {"kyc": "pending"}),
        ("reinstatement", "organization", {"kyc": "rejected"}, {"eligibility": ["a"]}),
    ],
)
def test_a_change_that_does_not_fit_is_refused(
    kind: str, subject: str, properties: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(Error) as told:
        check_change(kind, subject, properties, change, NOW)
    assert told.value.name == "InvalidProposal"


def test_what_is_approved_is_applied_to_its_subject() -> None:
    decided = {"decidedBy": BEN.plain(), "decidedAt": "2027-01-01T00:00:00Z"}
    grant = {"kind": "eligibility", "change": {"name": "a", "grounds": "g"}} | decided
    after = applied(grant, "/p/1", "organization", {"eligibility": ["b", {"name": "a", "expires": "2026-01-01"}]})
    assert after["eligibility"] == ["b", {"name": "a", "grounds": "g", "proposal": "/p/1"}]
    back = {"kind": "reinstatement", "change": {}} | decided
    assert applied(back, "/p/1", "account", {"state": "suspended", "suspension": {}, "x": 1}) == {
        "state": "active",
        "x": 1,
    }
    again = {"kind": "reinstatement", "change": {"kyc": "approved"}} | decided
    after = applied(again, "/p/1", "organization", {"kyc": "rejected", "kycExpires": "2020-01-01"})
    assert (after["kyc"], "kycExpires" in after, after["kycReview"]["reviewer"]) == ("approved", False, BEN.plain())


@pytest.mark.parametrize(
    "documents",
    [
        {},
        ["licence.pdf"],
        [{"name": "licence"}],
        [{"name": "licence", "sha256": "AB" * 32}],
        [{"name": "", "sha256": "a" * 64}],
        [{"name": "licence", "sha256": "a" * 64, "content": "…"}],
        [{"name": "licence", "sha256": "a" * 64, "note": 1}],
    ],
)
def test_documents_are_kept_by_their_hash_alone(documents: Any) -> None:
    assert organizations.document_mistakes(documents)
    assert not organizations.document_mistakes([{"name": "licence", "sha256": "a" * 64, "note": "seen in original"}])
