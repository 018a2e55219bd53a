"""The corpus of the policy language: packs with calls and their decisions, and packs with mistakes.

`NAME.toml` is a pack and `NAME.calls.toml` lists calls: `at`, `facts` (one that is left out is free, and must not
matter), `owners`, and what comes out: `permit`, all determining `rules`, and where given `code` and the rule `told`.
In `invalid/` a comment `#! text` demands a problem on its line that begins with the text, and there are no others.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from entrepot import policy
from entrepot.policy import naive
from entrepot.policy.ownership import holding
from entrepot.resources.model import Owner, PackSource

CORPUS = Path(__file__).parent / "policy"
PACKS = [path.with_name(path.name.replace(".calls", "")) for path in sorted(CORPUS.glob("*.calls.toml"))]
INVALID = sorted((CORPUS / "invalid").glob("*.toml"))
DEFAULT_AT = datetime(2026, 1, 1, tzinfo=UTC)


def milliseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def flat(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = frozenset(value) if isinstance(value, list) else value
    return found


def owner(raw: dict[str, Any]) -> Owner:
    share = raw.get("share")
    micros = None if share is None else int(share * 1_000_000)
    return Owner(raw["name"], raw.get("territory", "unknown"), micros, raw.get("of"))


@pytest.mark.parametrize("path", PACKS, ids=lambda path: path.stem)
def test_calls_are_decided_as_the_corpus_says(path: Path) -> None:
    packs = policy.parse([PackSource(path.name, path.read_bytes())])
    program = policy.compile(packs)
    calls = tomllib.loads(path.with_suffix(".calls.toml").read_text(), parse_float=Decimal)["call"]
    for call in calls:
        facts = flat(call.get("facts", {}))
        owners = tuple(map(owner, call.get("owners", [])))
        at_ms = milliseconds(call.get("at", DEFAULT_AT))
        mask = program.mask(facts, holding(owners)) & program.segment(at_ms)[0]
        decision = program.decide(mask)
        assert (decision.permit, list(decision.rules)) == (call["permit"], call["rules"]), call
        assert decision.code == call.get("code", decision.code), call
        assert decision.rule == call.get("told", decision.rule), call
        if "ZZ" not in str(facts):  # what is no territory at all never reaches the interpreter
            request = naive.Call(facts, owners, at_ms)
            assert naive.decide(packs, request) == (decision.permit, decision.rules), call


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_every_mistake_is_found_with_its_line(path: Path) -> None:
    wanted = {
        (number, line.partition("#! ")[2])
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "#! " in line
    }
    with pytest.raises(policy.PolicyInvalid) as caught:
        policy.parse([PackSource(path.name, path.read_bytes())])
    found = {(problem.line, problem.what) for problem in caught.value.problems}
    missed = {
        (number, text)
        for number, text in wanted
        if not any(at == number and what.startswith(text) for at, what in found)
    }
    extra = {
        (at, what) for at, what in found if not any(at == number and what.startswith(text) for number, text in wanted)
    }
    assert not missed, (missed, extra)
    assert extra == ({(None, "unknown key `surprise`")} if path.stem == "shape" else set())
    assert all(problem.fix for problem in caught.value.problems)


def test_the_corpus_is_not_empty() -> None:
    assert len(PACKS) >= 5
    assert len(INVALID) >= 3
