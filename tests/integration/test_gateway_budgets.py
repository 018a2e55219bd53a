"""Budgets and the ledger: what a gateway counted survives its death, and comes to what usage says, to the last unit."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from typer.testing import CliRunner

from entrepot.cli import command_line
from entrepot.ledger.entries import Degraded, decode
from entrepot.ledger.read import entries_of, folders_of
from entrepot.projections.prices import Prices
from entrepot.projections.spending import Spending
from entrepot.projections.usage import OUTCOME, Usage
from entrepot.resources.model import Model, Price
from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from harness import Account, Answer, Fleet, Gateway, Upstream, World, ask, body_of, call_bytes, raw, until

MODEL = """
[[model]]
name = "gpt-4o"
version = "2024-11-20"
prices = [{ from = 2020-01-01, input_micros = 2_000_000, output_micros = 10_000_000 }]
"""
PRICES = Prices([Model("gpt-4o", "2024-11-20", prices=(Price(1_577_836_800_000, 2_000_000, 10_000_000),))])
BUDGET = 'budgets = [{ amount_micros = 200_000, period = "month", soft_percent = 1 }]'


def call(gateway: Gateway, key: str, **more: Any) -> Answer:
    return ask(gateway.data, "/v1/chat/completions", body_of(max_tokens=1_000, **more), key)


def spent(data: Path, prices: Prices = PRICES) -> int:
    """By the ledger, in 10^-12 of a dollar."""
    usage = Usage(prices)
    for folder in folders_of(data / "ledger"):
        for read in entries_of(folder):
            usage.take(read)
    usage.finish()
    assert not usage.without_outcome
    return sum(sums.cost.get("USD", 0) for sums in usage.cells.values())


def used_percent(answer: Answer) -> int:
    return int(answer.headers["x-entrepot-budget-used"].rstrip("%"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_budget_survives_a_kill_and_charges_what_was_lost(fleet: Fleet, tmp_path: Path, workers: int) -> None:
    accounts = [Account("spender", more=f"limits = {{ {BUDGET} }}\nkey_limits = {{ {BUDGET} }}")]
    with simulated(Settings(keep=20, tokens=1_000)) as sim:
        world = World(tmp_path / "world", [Upstream("openai", sim.base_url)], accounts)
        world.gateway = f"workers = {workers}\n{MODEL}"
        world.write()
        key, data = accounts[0].key, tmp_path / "entrepot-data"
        with fleet.gateway(world, tmp_path, "--data", str(data)) as gateway:
            for _ in range(3):
                assert call(gateway, key).status == 200
            sim.use(Settings(keep=20, script=(Rule(fault="hang"),)))
            seen = len(sim.seen)
            with pytest.raises(OSError, match="timed out"):
                ask(gateway.data, "/v1/chat/completions", body_of(max_tokens=2_000, stream=True), key, timeout_s=0.5)
            assert len(sim.seen) > seen
            sim.use(Settings(keep=20, tokens=1_000))
            before = used_percent(call(gateway, key))
            sim.use(Settings(keep=20, script=(Rule(fault="hang"),)))
            requests = sim.counters.requests
            left = ask_and_leave(gateway, key)
            until(lambda: sim.counters.requests > requests, "it is under way")
            for pid in gateway.workers():
                os.kill(pid, signal.SIGKILL)
            left.close()
            sim.use(Settings(keep=20, tokens=1_000))
            until(lambda: serves(gateway, key), "it serves again")
            after = used_percent(call(gateway, key))
            assert after >= before + 10, "the lost call was charged as it was estimated, and the rest was kept"
            gateway.signal(signal.SIGTERM)
            gateway.wait()
        with fleet.gateway(world, tmp_path, "--data", str(data)) as gateway:
            budget = 200_000_000_000
            before = spent(data)
            told = used_percent(call(gateway, key))
            assert told == (before + reserved()) * 100 // budget, "a start knows to the unit what was spent"
            gateway.signal(signal.SIGTERM)
            gateway.wait()
        now_ms = time.time_ns() // 1_000_000
        logs = [Spending(data, f"gateway-1/w{number}", PRICES) for number in range(workers)]
        for log in logs:
            log.advance(now_ms)
        assert sum(log.total(["spender"], "USD", 0) for log in logs) == spent(data) > before


def test_with_fewer_workers_what_the_others_spent_stays_spent(fleet: Fleet, tmp_path: Path) -> None:
    accounts = [Account("spender", more=f"limits = {{ {BUDGET.replace('200_000', '200_000_000')} }}")]
    with simulated(Settings(tokens=100)) as sim:
        world = World(tmp_path / "world", [Upstream("openai", sim.base_url)], accounts)
        data = tmp_path / "entrepot-data"
        for workers in (2, 1):
            world.gateway = f"workers = {workers}\n{MODEL}"
            world.write()
            with fleet.gateway(world, tmp_path, "--data", str(data)) as gateway:

                def both(gateway: Gateway = gateway) -> bool:
                    assert call(gateway, accounts[0].key).status == 200
                    return all(
                        any(OUTCOME in each.entry for each in entries_of(log)) for log in folders_of(data / "ledger")
                    )

                until(both, "each worker has served a call")
                for pid in gateway.workers():
                    os.kill(pid, signal.SIGKILL)
                gateway.signal(signal.SIGKILL)
                gateway.wait()
        with fleet.gateway(world, tmp_path, "--data", str(data)) as gateway:
            [row] = rows(gateway)
            assert row["ledger"] == row["counted"] == spent(data) > 0
            gateway.signal(signal.SIGTERM)
            gateway.wait()


def reserved() -> int:
    """By one call, in 10^-12 of a dollar."""
    return -(-len(body_of(max_tokens=1_000)) // 4) * 2_000_000 + 1_000 * 10_000_000


def ask_and_leave(gateway: Gateway, key: str) -> Any:
    return raw(gateway.data, call_bytes(body_of(max_tokens=2_000), key))


def serves(gateway: Gateway, key: str) -> bool:
    try:
        return call(gateway, key).status == 200
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_budgets_are_compared_with_the_ledger_while_calls_go_on(fleet: Fleet, tmp_path: Path, workers: int) -> None:
    """At every instant they are the same; a price that is put right for calls that were made is a drift."""
    large = "budgets = [{ amount_micros = 100_000_000_000, period = 'month' }]"
    accounts = [Account("spender", more=f"limits = {{ {large} }}\nkey_limits = {{ {large} }}")]
    with simulated(Settings(tokens=10)) as sim:
        world = World(tmp_path / "world", [Upstream("openai", sim.base_url)], accounts)
        world.gateway = f"workers = {workers}\n{MODEL}"
        world.write()
        key, data = accounts[0].key, tmp_path / "entrepot-data"
        with fleet.gateway(world, tmp_path, "--data", str(data)) as gateway:
            with ThreadPoolExecutor(4) as callers:
                stopping = Event()
                calling = [callers.submit(call_until, stopping, gateway, key) for _ in range(4)]
                until(lambda: len(rows(gateway)) == 2, "there are calls")
                seen = [rows(gateway) for _ in range(3)]
                world.gateway = world.gateway.replace("10_000_000", "20_000_000")
                world.write()
                gateway.revision(2)
                drifted = until(lambda: [row for row in rows(gateway) if row["ledger"] != row["counted"]], "it is seen")
                until(
                    lambda: all(row["ledger"] == row["counted"] for row in rows(gateway)), "calls of before have ended"
                )
                seen.append(rows(gateway))
                stopping.set()
                made = sum(each.result() for each in calling)
            assert made > 20
            for found in seen:
                assert [(row["scope"], row["name"]) for row in found] == [
                    ("account", "spender"),
                    ("key", "spender/key1"),
                ]
                assert all(row["counted"] == row["ledger"] > 0 for row in found)
            assert all(row["ledger"] > row["counted"] for row in drifted)
            (account, _) = rows(gateway)
            admin = ("--admin", f"{gateway.admin.host}:{gateway.admin.port}")
            status, said = run("usage", "budgets", *admin)
            assert status == 0
            assert said.splitlines()[1].split()[:4] == ["account", "spender", "month", "100000"]
            assert json.loads(run("usage", "budgets", *admin, "--json")[1])["budgets"][0]["drift"] == "0.000000000000"
            assert account["left"] == account["amount"] - account["ledger"]
            assert any(event["event"] == "a budget is put right by the ledger" for event in gateway.events)
            gateway.signal(signal.SIGTERM)
            gateway.wait()
        assert account["ledger"] == spent(data, Prices([dearer()]))
        assert put_right(data)[0].startswith("account spender: ")
        assert run("usage", "budgets", *admin)[0] == 1, "it does not run"
        files = ("--data", str(data), "--world", str(world.folder), "--json")
        status, said = run("usage", "budgets", *files)
        assert status == 0
        assert [Decimal(row["ledger"]) * 10**12 for row in json.loads(said)["budgets"]] == [account["ledger"]] * 2
        kept = data / "derived" / "limits" / "gateway-1_w0.json"
        state = json.loads(kept.read_bytes())
        state["cells"][0][-1] += 1
        kept.write_text(json.dumps(state))
        status, said = run("usage", "budgets", *files)
        assert status == 1
        assert {row["drift"] for row in json.loads(said)["budgets"]} == {"-0.000000000001"}
        assert run("usage", "budgets", "--data", str(tmp_path), "--world", str(world.folder))[0] == 2


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command_line(arguments), arguments)
    return result.exit_code, result.stdout


def dearer() -> Model:
    return Model("gpt-4o", "2024-11-20", prices=(Price(1_577_836_800_000, 2_000_000, 20_000_000),))


def call_until(stopping: Event, gateway: Gateway, key: str) -> int:
    made = 0
    while not stopping.is_set():
        assert call(gateway, key).status == 200
        made += 1
    return made


def rows(gateway: Gateway) -> list[dict[str, Any]]:
    answer = ask(gateway.admin, "/budgets")
    assert answer.json["problems"] == []
    found: list[dict[str, Any]] = answer.json["budgets"]
    return found


def put_right(data: Path) -> list[str]:
    """What entries say of it."""
    entries = [decode(read.entry) for folder in folders_of(data / "ledger") for read in entries_of(folder)]
    return [each.problem for each in entries if isinstance(each, Degraded) and each.what == "budget"]
