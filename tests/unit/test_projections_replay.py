"""Decisions in a log come out the same under their own release, and flip under another exactly where they must."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import call, mask_of, pack, rule
from typer.testing import CliRunner

from entrepot.cli.policy import app
from entrepot.ledger import entries as e
from entrepot.ledger.read import Read
from entrepot.policy import Program, parse
from entrepot.policy import compile as compile_packs
from entrepot.policy.model import Pack
from entrepot.policy.naive import Call
from entrepot.projections.replay import Replay
from entrepot.projections.window import ALWAYS, Window
from entrepot.resources.model import PackSource
from ledgers import Batch, write

ORIGIN = "entrepot.example/gateway-1/2026-11/0"
AT = 1_795_000_000_000
PACK = """
[pack]
id = "test"
owner = "o"
source = {{ title = "t" }}
[[rule]]
id = "PERMIT"
effect = "permit"
when = {{ account.channel = "direct" }}
[[rule]]
id = "{id}"
effect = "forbid"
when = {{ {when} }}
code = "no_way"
"""
OLD = PACK.format(id="FAR", when='origin.territory = "CN"').encode()
STRICTER = PACK.format(id="HOSTED", when='origin.network = "hosting", target.region = "east"').encode()
seeds = st.integers(0, 2**64 - 1).map(Random)


def program_of(data: bytes) -> Program:
    return compile_packs(parse([PackSource("test.toml", data)]))


def entry_of(program: Program, calls: list[Call], *, account: str = "kanto", tamper: str = "") -> bytes:
    """The decision on one call, `calls` of which differ by their targets only, as a gateway writes it."""
    first = calls[0]
    decisions = [program.decide(mask_of(program, one)) for one in calls]
    admitted = any(decision.permit for decision in decisions)

    def facts(one: Call, *prefixes: str) -> dict[str, str | list[str]]:
        return e.facts({name: value for name, value in one.facts.items() if name.startswith(prefixes)})

    owners = tuple(
        e.Owner(
            one.name,
            msgspec.UNSET if one.of is None else one.of,
            msgspec.UNSET if one.share_micros is None else one.share_micros,
            one.territory,
        )
        for one in first.owners
    )
    candidates = [
        e.Candidate(
            msgspec.Raw(msgspec.json.encode(facts(one, "target.", "egress."))),
            decision.permit is not (tamper == "permit"),
            (*decision.rules, "MORE") if tamper == "rules" else decision.rules,
            f"u{number}",
        )
        for number, (one, decision) in enumerate(zip(calls, decisions, strict=True))
    ]
    told = next((decision.code for decision in decisions), "no_target") or "access_denied"
    attested, network, territory = (first.facts[f"origin.{name}"] for name in ("attested", "network", "territory"))
    made = e.Decision(
        admitted=admitted is not (tamper == "admitted"),
        at_ms=first.at_ms,
        candidates=[e.raw(one) for one in candidates],
        client=e.raw(e.Client(account, facts(first, "org.", "account."), "org", owners)),
        code=msgspec.UNSET if admitted else "other" if tamper == "code" else told,
        commitment="00",
        deployment=e.raw(e.Deployment("m", "d", "1")),
        operation=str(first.facts["operation"]),
        origin=e.raw(e.Origin(attested == "true", "", network, "", territory)),
        release=program.release,
        request="id",
        revision=1,
    )
    return e.encode(made)


def some_calls(random: Random) -> list[Call]:
    """One client, origin and instant, several targets; every fact of a record is there."""
    first = call(random)
    given = {"operation": "chat", "origin.territory": "JP", "origin.network": "isp", "origin.attested": "false"}
    base = {name: value for name, value in (given | first.facts).items() if not name.startswith(("target.", "egress."))}
    targets = [first, *(call(random) for _ in range(random.randrange(3)))]
    return [
        Call(
            base | {n: v for n, v in one.facts.items() if n.startswith(("target.", "egress."))},
            first.owners,
            first.at_ms,
        )
        for one in targets
    ]


def replayed(own: Program, new: Program, entries: list[bytes], window: Window = ALWAYS) -> Replay:
    found = Replay(new, window)
    found.learn(own)
    for number, entry in enumerate(entries):
        found.take(Read(ORIGIN, number, entry))
    return found


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_what_is_recorded_comes_out_the_same_and_flips_as_decided_directly(random: Random) -> None:
    old = pack(random)
    new = Pack("new", old.place, sets=old.sets, rules=(*old.rules[1:], rule(random, "ZZ")))
    before, after = compile_packs([old]), compile_packs([new])
    calls = [some_calls(random) for _ in range(12)]
    found = replayed(before, after, [entry_of(before, one) for one in calls])
    assert found.findings == []
    assert found.decided == 12
    flips = {"allow to refuse": 0, "refuse to allow": 0, "other targets": 0}
    for one in calls:
        was = [before.decide(mask_of(before, target)).permit for target in one]
        now = [after.decide(mask_of(after, target)).permit for target in one]
        if any(was) is not any(now):
            flips["allow to refuse" if any(was) else "refuse to allow"] += 1
        elif was != now:
            flips["other targets"] += 1
    told = dict.fromkeys(flips, 0)
    for flip in found.sorted_flips():
        told[flip.direction] += flip.calls
        assert len(flip.examples) == min(flip.calls, 3)
    assert told == flips


def of(territory: str = "JP", network: str = "isp", *regions: str) -> list[Call]:
    base = {
        "account.channel": "direct",
        "operation": "chat",
        "origin.territory": territory,
        "origin.network": network,
        "origin.attested": "false",
    }
    return [Call(base | {"target.region": region}, (), AT) for region in regions or ("east",)]


def some_entries(program: Program) -> list[bytes]:
    return [
        entry_of(program, of()),
        entry_of(program, of("CN")),
        *(entry_of(program, of("JP", "hosting")) for _ in range(5)),
        entry_of(program, of("JP", "hosting", "east", "west")),
        entry_of(program, of("CN", "hosting"), account="far"),
        entry_of(program, of("CN", "isp", "east", "west"), account="far"),
        entry_of(program, of("JP", "hosting"), account="far"),
    ]


EXPECTED = [
    ("allow to refuse", "kanto", "HOSTED", 5, [2, 3, 4]),
    ("allow to refuse", "far", "HOSTED", 1, [10]),
    ("other targets", "kanto", "HOSTED", 1, [7]),
    ("refuse to allow", "far", "FAR", 1, [9]),
    ("refuse to allow", "kanto", "FAR", 1, [1]),
]


def test_another_pack_flips_exactly_what_it_must() -> None:
    old = program_of(OLD)
    found = replayed(old, program_of(STRICTER), some_entries(old))
    assert found.findings == []
    told = [(one.direction, one.account, one.rule, one.calls, one.examples) for one in found.sorted_flips()]
    assert told == [(*rest, [f"{ORIGIN}/{n}" for n in numbers]) for *rest, numbers in EXPECTED]
    assert replayed(old, old, some_entries(old)).flips == {}
    assert replayed(old, old, some_entries(old), Window(AT + 1, None)).decided == 0


@pytest.mark.parametrize(
    ("tamper", "territory", "said"),
    [
        ("permit", "JP", "on `u0`: recorded as refuse by PERMIT, but its release decides allow by PERMIT"),
        ("rules", "CN", "on `u0`: recorded as refuse by FAR, MORE, but its release decides refuse by FAR"),
        ("admitted", "CN", "recorded as admitted, but its release decides to refuse with `no_way`"),
        ("code", "CN", "recorded as refused with `other`, but its release decides to refuse with `no_way`"),
    ],
)
def test_what_its_release_does_not_come_to_is_found(tamper: str, territory: str, said: str) -> None:
    old = program_of(OLD)
    found = replayed(old, old, [entry_of(old, of()), entry_of(old, of(territory), tamper=tamper)])
    assert [str(finding) for finding in found.findings] == [
        f"`{ORIGIN}/1`" + (" " if said.startswith("on") else ": ") + said
    ]


def test_what_a_limit_refused_stays_refused() -> None:
    old = program_of(OLD)
    limited = entry_of(old, of("JP", "hosting"), tamper="admitted")
    found = replayed(old, program_of(STRICTER), [limited])
    assert (found.findings, found.flips, found.otherwise) == ([], {}, 1)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["replay", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_the_command_finds_releases_and_tells_flips(tmp_path: Path) -> None:
    old = program_of(OLD)
    writer = write(tmp_path)
    release = e.encode(e.Release(AT, (e.Pack(OLD, "test.toml"),), old.release, 1))
    made = [release, *some_entries(old)]
    writer.append(Batch(made, [None] * len(made)))
    (tmp_path / "stricter.toml").write_bytes(STRICTER)
    arguments = (str(tmp_path / "stricter.toml"), "--ledger", str(tmp_path / "ledger"))
    status, said = run(*arguments)
    assert status == 0
    assert "11 decisions of 1 release: all come out the same under their own release" in said
    assert "allow to refuse: 6 calls" in said
    assert "  by account: kanto 5; far 1" in said
    assert "other targets: 1 call" in said
    assert "refuse to allow: 2 calls" in said
    status, said = run(*arguments, "--json", "--since", "2020-01-01")
    assert (status, len(json.loads(said)["flips"])) == (0, 5)
    stray = entry_of(program_of(STRICTER), of())
    lying = e.encode(e.Release(AT, (e.Pack(OLD, "test.toml"),), "sha256:other", 2))
    writer.append(Batch([stray, lying], [None] * 2))
    writer.close()
    status, said = run(*arguments)
    assert status == 1
    assert "of 1 decisions is not in these logs" in said
    assert "are those of the release" in said


def test_a_release_may_come_after_decisions_by_it() -> None:
    old = program_of(OLD)
    release = e.encode(e.Release(AT, (e.Pack(OLD, "test.toml"),), old.release, 1))
    made = [entry_of(old, of()), entry_of(old, of(), tamper="rules"), release, entry_of(old, of(), tamper="rules")]
    reads = [Read(ORIGIN, number, entry) for number, entry in enumerate(made)]
    found = Replay(program_of(STRICTER))
    for read in reads:
        found.take(read)
    assert [finding.entry for finding in found.findings] == [f"{ORIGIN}/3"]
    assert len(found.problems()) == 1
    found.finish(reads)
    assert [finding.entry for finding in found.findings] == [f"{ORIGIN}/3", f"{ORIGIN}/1"]
    assert found.problems() == []
