"""Usage and replay of what a gateway recorded, over calls to a simulated upstream that keeps count of its own."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from entrepot.cli import command_line
from entrepot.sim.server import simulated
from entrepot.sim.settings import Match, Rule, Settings
from harness import (
    BASE_PACK,
    FROM_CN,
    FROM_JP,
    Account,
    Answer,
    Fleet,
    Upstream,
    World,
    ask,
    body_of,
    call_bytes,
    raw,
    until,
)

CUT_AFTER = 5
STRICTER = """
[[rule]]
id = "TEST-CLOUD-AT-HOME"
effect = "forbid"
when = { origin.territory = "CN", account.channel = "cloud" }
code = "not_from_there"
"""
PRICES = """
[[model]]
name = "gpt-4o"
version = "2024-11-20"
provider = "openai"
prices = [{ from = 2020-01-01T00:00:00Z, input_micros = 2500000, output_micros = 10000000 }]
"""


class Recorded(NamedTuple):
    """`answers` are of whole calls, with who asked; `prompt` and `completion` what the upstream counted of these.

    Then `cut` streams broke off, and as many clients left.
    """

    data: Path
    world: Path
    answers: list[tuple[str, str, Answer]]
    prompt: int
    completion: int
    cut: int


@pytest.fixture(scope="module")
def recorded(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    home = tmp_path_factory.mktemp("recorded")
    named = tuple((name, name, "GlobalStandard") for name in ("gpt-4o", "gpt-cut", "gpt-slow"))
    accounts = [Account(name, deployments=named) for name in ("kanto", "tohoku")]
    accounts += [Account("cloudy", channel="cloud", territory="CN"), Account("far", territory="CN")]
    keys = {account.name: account.key for account in accounts}
    script = (
        Rule(Match(model="cutting"), fault="cut", after=CUT_AFTER),
        Rule(Match(model="slow"), pace_ms=50, tokens=100),
    )
    with simulated(Settings(script=script)) as sim, simulated(Settings(status=500)) as broken:
        models = {"gpt-4o": "gpt-4o-upstream", "gpt-cut": "cutting", "gpt-slow": "slow"}
        upstreams = [
            Upstream("broken", broken.base_url, region="koreacentral", priority=0),
            Upstream("main", sim.base_url, models),
        ]
        world = World(home / "world", upstreams, accounts)
        world.write()
        (world.folder / "prices.toml").write_text(PRICES)
        with fleet.gateway(world, home / "gateway", "--data", str(home / "data")) as gateway:

            def call(one: tuple[str, str, str, bool]) -> tuple[str, str, Answer]:
                name, source, deployment, stream = one
                body = body_of(deployment, stream=stream, max_tokens=9)
                return name, source, ask(gateway.data, body=body, key=keys[name], source=source)

            whole = [(name, source, "gpt-4o", stream) for name in keys for source in (FROM_JP, FROM_CN)
                     for stream in (False, True)] * 4  # fmt: skip
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(call, whole))
                prompt, completion = sim.counters.prompt_tokens, sim.counters.completion_tokens
                cut = list(pool.map(call, [("kanto", FROM_JP, "gpt-cut", True)] * 6))
            for _ in cut:
                with raw(gateway.data, call_bytes(body_of("gpt-slow", stream=True), keys["tohoku"])) as leaving:
                    leaving.recv(2_000)
                    time.sleep(0.1)
            # It is read while the gateway runs; and outcomes may be under way for a moment.
            until(lambda: told("usage", "--data", str(home / "data"))["doubts"] == [], "every call has its outcome")
        yield Recorded(home / "data", world.folder, answers, prompt, completion, len(cut))


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(command_line(arguments), arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def told(*arguments: str) -> dict[str, Any]:
    status, text = run(*arguments, "--json")
    assert status == 0, text
    found: dict[str, Any] = json.loads(text)
    return found


def test_usage_is_what_the_upstream_counted(recorded: Recorded) -> None:
    usage = told("usage", "--data", str(recorded.data), "--world", str(recorded.world), "--by", "model,region")
    rows = {row["model"].partition("@")[0]: row for row in usage["rows"]}
    served = [answer for _, _, answer in recorded.answers if answer.status == 200]
    assert {row["region"] for row in usage["rows"]} == {"japaneast"}
    whole = rows["gpt-4o"]
    assert whole["calls"] == whole["served"] == len(served) > 0
    assert (whole["prompt_reported"], whole["completion_reported"]) == (recorded.prompt, recorded.completion)
    assert whole["prompt_counted"] + whole["prompt_estimated"] + whole["unpriced"] == 0
    cost = 2_500_000 * recorded.prompt + 10_000_000 * recorded.completion
    assert whole["cost"] == {"USD": f"{cost // 10**12}.{cost % 10**12:012}"}
    assert (rows["gpt-cut"]["cut"], rows["gpt-slow"]["client_gone"]) == (recorded.cut, recorded.cut)
    broken_off = rows["gpt-cut"]
    assert broken_off["completion_reported"] == 0
    assert abs(broken_off["completion_counted"] - recorded.cut * CUT_AFTER) <= recorded.cut
    assert 0 < rows["gpt-slow"]["completion_counted"] < recorded.cut * 100
    for row in (rows["gpt-cut"], rows["gpt-slow"]):
        assert (row["cost"], row["unpriced"] > 0) == ({}, True)
    assert usage["doubts"] == []


def test_usage_is_proved_and_rebuilt_the_same(recorded: Recorded) -> None:
    data = ("--data", str(recorded.data))
    status, said = run("usage", "check", *data)
    assert (status, "groupings come to what the entries say" in said) == (0, True), said
    first = run("usage", *data, "--csv", "--by", "account,deployment,model,region,day")
    assert run("usage", *data, "--csv", "--by", "account,deployment,model,region,day") == first
    rows = list(csv.DictReader(io.StringIO(first[1])))
    assert sum(int(row["calls"]) for row in rows) == told("usage", *data)["total"]["calls"]


def test_refusals_are_those_that_clients_got(recorded: Recorded) -> None:
    refusals = told("usage", "--data", str(recorded.data), "--refusals", "--by", "account,territory")
    got: Counter[tuple[str, str]] = Counter()
    for account, source, answer in recorded.answers:
        if answer.status == 403:
            got[account, "CN" if source == FROM_CN else "JP"] += 1
    assert {(row["account"], row["territory"]): row["refusals"] for row in refusals["rows"]} == got
    assert got["far", "JP"] > 0 < got["kanto", "CN"]


def test_every_decision_comes_out_the_same_and_flips_under_a_stricter_pack(recorded: Recorded, tmp_path: Path) -> None:
    ledger = ("--ledger", str(recorded.data / "ledger"))
    own = told("policy", "replay", str(recorded.world), *ledger)
    assert (own["flips"], own["findings"], own["problems"], own["different"]) == ([], [], [], 0)
    assert own["decided"] == len(recorded.answers) + 2 * recorded.cut
    assert own["releases"] == {own["release"]: own["decided"]}
    stricter = tmp_path / "world"
    shutil.copytree(recorded.world, stricter)
    (stricter / "packs" / "base.toml").write_text(BASE_PACK + STRICTER)
    flips = told("policy", "replay", str(stricter), *ledger)["flips"]
    hit = [
        answer.headers["x-entrepot-receipt"]
        for account, source, answer in recorded.answers
        if account == "cloudy" and source == FROM_CN
    ]
    assert [(flip["direction"], flip["account"], flip["rule"]) for flip in flips] == [
        ("allow to refuse", "cloudy", "TEST-CLOUD-AT-HOME")
    ]
    assert flips[0]["calls"] == len(hit) == 8
    assert len(flips[0]["examples"]) == 3
    assert set(flips[0]["examples"]) <= set(hit)


def test_erased_personal_data_changes_neither(recorded: Recorded, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(recorded.data, data)
    before = (
        told("usage", "--data", str(data)),
        told("policy", "replay", str(recorded.world), "--ledger", f"{data}/ledger"),
    )
    status, said = run("ledger", "erase", "--data", str(data), "--before", "2100-01-01")
    assert (status, "erased the personal data of" in said) == (0, True), said
    assert run("usage", "check", "--data", str(data))[0] == 0
    after = (
        told("usage", "--data", str(data)),
        told("policy", "replay", str(recorded.world), "--ledger", f"{data}/ledger"),
    )
    assert after == before
