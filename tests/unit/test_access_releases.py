"""Proposed releases: packs from a request, every problem told, and what they would change."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from entrepot.errors import Error
from entrepot.management.access import releases
from entrepot.policy import compile as compile_packs
from entrepot.policy import parse, shipped
from entrepot.resources.model import PackSource, World

TODAY = "2026-11-22"
PERMIT = """
[pack]
id = "own"
source = { title = "Terms" }
[[rule]]
id = "OWN-01"
effect = "permit"
clause = "§1"
when = { target.provider = "openai", org.kyc = "approved" }
[[case]]
rule = "OWN-01"
want = "allow"
at = 2026-01-01T00:00:00Z
facts = { target.provider = "openai", org.kyc = "approved" }
[[case]]
rule = "OWN-01"
want = "refuse"
at = 2026-01-01T00:00:00Z
facts = { org.kyc = "rejected" }
"""


@pytest.mark.parametrize(
    "pack",
    [
        "entrepot:base",
        {"name": "entrepot:base"},
        {"name": "own", "text": PERMIT},
        {"name": "own", "data": base64.b64encode(PERMIT.encode()).decode()},
    ],
)
def test_a_pack_is_named_or_given(pack: Any) -> None:
    (source,) = releases.pack_sources([pack])
    program, _ = releases.compiled([source], TODAY)
    assert releases.pack_sources(releases.stored([source]) if source.name == "own" else [pack]) == (source,)
    assert program.release.startswith("sha256:")


@pytest.mark.parametrize(
    "packs",
    [
        None,
        [],
        "entrepot:base",
        [1],
        [None],
        [{}],
        [{"name": ""}],
        ["entrepot:none"],
        [{"name": "own"}],
        [{"name": "own", "text": PERMIT, "data": ""}],
        [{"name": "own", "data": "?"}],
        [{"name": "own", "data": "/w=="}],
        [{"name": "own", "text": PERMIT, "more": 1}],
        [{"name": "own", "text": 1}],
        [{"name": "entrepot:base", "text": PERMIT}],
        ["entrepot:base", "entrepot:base"],
    ],
)
def test_what_is_no_pack_is_told(packs: Any) -> None:
    with pytest.raises(Error) as told:
        releases.pack_sources(packs)
    assert told.value.name == "InvalidPolicyRelease"
    assert all(str(each.target).startswith("properties.change.packs") for each in told.value.details)


def test_every_problem_is_told_at_once() -> None:
    bad = PERMIT.replace('effect = "permit"', 'effect = "perhaps"').replace("org.kyc", "org.kycc")
    with pytest.raises(Error) as told:
        releases.compiled([PackSource("own", bad.encode()), PackSource("more", b"[[")], TODAY)
    assert len(told.value.details) >= 3
    assert any(each.message.startswith("more:") for each in told.value.details)


def test_a_case_that_fails_refuses_the_release() -> None:
    bad = PERMIT.replace(
        'facts = { org.kyc = "rejected" }', 'facts = { target.provider = "openai", org.kyc = "approved" }'
    )
    with pytest.raises(Error) as told:
        releases.compiled([PackSource("own", bad.encode())], TODAY)
    assert "has a case that fails" in told.value.details[0].message


def test_the_difference_is_reported() -> None:
    old = parse([shipped("entrepot:base")])
    new = parse([shipped("entrepot:base"), PackSource("own", PERMIT.encode())])
    report = releases.difference(old, new, World(), 0)
    assert report["changesInAll"] == len(report["changes"]) > 0
    assert report["affectedAccounts"] == []
    assert {"text", "direction", "rules"} <= report["changes"][0].keys()
    assert releases.difference(old, old, World(), 0)["changesInAll"] == 0


def test_the_replay_of_nothing_is_complete(tmp_path: Path) -> None:
    program = compile_packs(parse([shipped("entrepot:base")]))
    report = releases.replayed(program, [tmp_path], program, 0)
    assert (report["decided"], report["complete"], report["flips"]) == (0, True, [])
