"""Logs and segments that end while a gateway serves: nothing is lost between one and the next."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from entrepot.ledger.disclosed import disclosed
from entrepot.ledger.read import entries_of, folders_of
from entrepot.ledger.verify import ADMITTED, check, find_key, open_receipt
from entrepot.projections.check import check as check_usage
from entrepot.projections.follow import Logs
from entrepot.sim.server import simulated
from entrepot.sim.settings import Match, Rule, Settings
from harness import Account, Answer, Fleet, Gateway, Upstream, World, ask, body_of, until

CALLS = 250
# Run by every Python that the gateway starts, before anything else.
SMALL = """
import entrepot.ledger.log, entrepot.ledger.writer
entrepot.ledger.writer.LONGEST = 100
entrepot.ledger.log.SEGMENT_BYTES = 30_000
"""


def test_logs_end_while_calls_go_on(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(SMALL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    account = Account("kanto", deployments=tuple((name, name, "GlobalStandard") for name in ("gpt-4o", "slow")))
    slow = Rule(Match(model="slow"), pace_ms=40, tokens=30)
    data = tmp_path / "data"
    with simulated(Settings(script=(slow,))) as sim:
        world = World(tmp_path / "world", [Upstream("main", sim.base_url, {"gpt-4o": "m", "slow": "slow"})], [account])
        world.write()
        with fleet.gateway(world, tmp_path / "gateway", "--data", str(data)) as gateway:
            answers = answered(gateway, account)
            first = answers[0].headers["x-entrepot-receipt"]
            assert first.rpartition("/")[0].endswith("/0"), "the slow call began in the first log"
            receipt = until(lambda: receipt_of(gateway, first), "the first log still gives receipts")
            gateway.signal(signal.SIGTERM)  # once: it ends in good order
            assert gateway.wait() == 0
        with fleet.gateway(world, tmp_path / "gateway", "--data", str(data)) as gateway:
            answers.append(ask(gateway.data, body=body_of(max_tokens=2), key=account.key))
            gateway.signal(signal.SIGTERM)  # once: it ends in good order
            assert gateway.wait() == 0
    (key,) = (data / "keys").glob("*.vkey")
    assert open_receipt(receipt, find_key(str(key))).entry.startswith(ADMITTED)
    look(data, answers)


def answered(gateway: Gateway, account: Account) -> list[Answer]:
    """One call that takes long, then many while it lasts."""

    def call(number: int) -> Answer:
        body = body_of("slow", stream=True) if number == 0 else body_of(max_tokens=2, stream=number % 5 == 0)
        return ask(gateway.data, body=body, key=account.key)

    with ThreadPoolExecutor(8) as pool:
        slow = pool.submit(call, 0)
        time.sleep(0.2)  # so that it is decided first
        rest = list(pool.map(call, range(1, CALLS)))
        return [slow.result(), *rest]


def receipt_of(gateway: Gateway, place: str) -> bytes | None:
    answer = ask(gateway.admin, f"/receipts/{place}")
    return answer.body if answer.status == 200 else None


def look(data: Path, answers: list[Answer]) -> None:
    ledger = data / "ledger"
    folders = folders_of(ledger)
    held = {f"{read.origin}/{read.number}": read.entry for log in folders for read in entries_of(log)}
    places = [answer.headers["x-entrepot-receipt"] for answer in answers]
    assert {answer.status for answer in answers} == {200}
    assert len(set(places)) == len(answers)
    assert all(held[place].startswith(ADMITTED) for place in places)
    assert len(folders) >= 2 * CALLS // 100
    assert max(len(list(log.glob("*.entries"))) for log in folders) > 1
    (key,) = (data / "keys").glob("*.vkey")
    report = check(ledger, find_key(str(key)))
    assert (report.findings(), report.open_calls()) == ([], 0)
    of_the_first = [place for place, entry in held.items() if f'"decision":"{places[0]}"'.encode() in entry]
    assert [place.split("/")[-2] != places[0].split("/")[-2] for place in of_the_first] == [True]
    assert disclosed(ledger).findings == []
    usage = check_usage(Logs(ledger))
    assert (usage.calls, usage.findings) == (len(answers), [])
