"""Decisions on equal calls share their parts, and no others do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.ledger import entries as e
from entrepot.ledger.entries import Decision, encode
from entrepot.projections.parts import account_of, is_decision, split

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ['","commitment":"', ',"request":"x', '"', "\\", "}", '","request":"']
)
PLAIN: dict[str, Any] = {
    "admitted": True,
    "at_ms": 1_795_000_000_000,
    "candidates": [],
    "client": e.raw(e.Client("kanto", {}, "org", ())),
    "commitment": "ab",
    "deployment": e.raw(e.Deployment("m", "d", "1")),
    "operation": "chat",
    "origin": e.raw(e.Origin(False, "", "isp", "", "JP")),
    "release": "sha256:0",
    "request": "id",
    "revision": 1,
}


def of(**changes: Any) -> bytes:
    return encode(Decision(**(PLAIN | changes)))


@given(TEXTS, TEXTS, TEXTS, st.integers(0, 2**53 - 1))
def test_equal_parts_are_equal_calls_whatever_names_are_like(account: str, name: str, value: str, at_ms: int) -> None:
    def parts(account: str, name: str, value: str) -> dict[str, Any]:
        return {
            "client": e.raw(e.Client(account, {"account.operator": value}, "org", ())),
            "deployment": e.raw(e.Deployment("m", name, "1")),
        }

    given = parts(account, name, value)
    found_ms, key = split(of(**given, at_ms=at_ms, commitment="00" * 32, request="r-1", revision=7))
    assert found_ms == at_ms
    facts = {"account.operator": value, name: '"client":{"account":"x"'}
    candidate = e.raw(e.Candidate(msgspec.Raw(msgspec.json.encode(facts)), True, (), "u"))
    assert account_of(of(**given, candidates=[candidate])) == account
    assert key == split(of(**given))[1]
    for other in ((account + "x", name, value), (account, name + "x", value), (account, name, value + "x")):
        assert split(of(**parts(*other)))[1] != key


@pytest.mark.parametrize(
    "change",
    [
        {"admitted": False},
        {"candidates": [e.raw(e.Candidate(msgspec.Raw(b"{}"), True, (), "u"))]},
        {"code": "no"},
        {"operation": "embeddings"},
        {"origin": e.raw(e.Origin(True, "", "isp", "", "JP"))},
        {"release": "sha256:1"},
    ],
)
def test_whatever_a_decision_rests_on_tells_calls_apart(change: dict[str, Any]) -> None:
    assert split(of(**change))[1] != split(of())[1]


@pytest.mark.parametrize(
    "entry",
    [
        b'{"decision":{"admitted":true,"at_ms":1}}',
        b'{"decision":{"admitted":true,"at_ms":x,"commitment":"","request":""}}',
        b'{"decision":{"admitted":false,"at_ms":1,"request":"1","commitment":"2"}}',
    ],
)
def test_what_is_no_decision_is_told(entry: bytes) -> None:
    assert is_decision(entry)
    with pytest.raises(msgspec.ValidationError, match="no decision has this form"):
        split(entry)
