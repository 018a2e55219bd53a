"""Kills all of a fleet under load, in turn and then at once: gateways, workers, Redis, PostgreSQL, control planes.

    .venv/bin/python tests/faults/kill_fleet.py [--seconds 240] [--gateways 3] [--controls 2]

Calls may fail while it lasts; what has to hold is looked at when it is over. What a client was answered is in a ledger
that verifies, and says the same. Each change that was answered is in the database and in a control plane's ledger.
Nothing was asked of the upstream that no ledger has. Budgets are what the ledgers add up to, to the last unit, in each
gateway and in the store that they share, with what each lost call had reserved.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import fleet  # noqa: E402
import httpx  # noqa: E402
import openai  # noqa: E402
from fleet import Load, Process  # noqa: E402
from msgspec import UNSET  # noqa: E402

import redises  # noqa: E402
from databases import Postgres, cluster  # noqa: E402
from entrepot.ledger.entries import Change, Decision, Degraded, Outcome, decode  # noqa: E402
from entrepot.ledger.read import entries_of, folders_of  # noqa: E402
from entrepot.ledger.verify import check, find_key  # noqa: E402
from entrepot.projections.prices import Prices  # noqa: E402
from entrepot.projections.usage import Usage  # noqa: E402
from entrepot.resources.model import Model, Price  # noqa: E402
from entrepot.sim.server import Sim, simulated  # noqa: E402
from entrepot.sim.settings import Settings  # noqa: E402
from harness import body_of, until  # noqa: E402
from people import ACCESS, Served  # noqa: E402

PRICES = Prices([Model("gpt-4o", "2024-11-20", prices=(Price(1_577_836_800_000, 2_000_000, 10_000_000),))])
REST_S = 0.02
"""Between two calls of a client: the machine is to be busy, not out of breath."""
TIMEOUT_S = 10
AWAY_S = 0.5

Received = dict[str, int]
"""By receipt the status of the answer."""


def by_hand(where: tuple[str, int], key: str, received: Received, *, stream: bool) -> Callable[[], None]:
    """A connection for each call, so that one that was killed costs that call alone."""
    body = body_of("chat", stream=stream, max_tokens=40)

    def call() -> None:
        time.sleep(REST_S)
        connection = http.client.HTTPConnection(*where, timeout=TIMEOUT_S)
        try:
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            take(received, answer.getheader("x-entrepot-receipt"), answer.status)
            text = answer.read()
            assert answer.status == 200, f"{answer.status} {text[:200]!r}"
            assert not stream or text.endswith(b"data: [DONE]\n\n"), "the stream broke off"
        finally:
            connection.close()

    return call


def by_sdk(url: str, key: str, received: Received) -> tuple[Callable[[], None], Callable[[], None]]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT_S)

    def call() -> None:
        time.sleep(REST_S)
        given: Any = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
        answer = client.chat.completions.with_raw_response.create(**given)
        take(received, answer.headers.get("x-entrepot-receipt"), answer.status_code)

    return call, client.close


def take(received: Received, receipt: str | None, status: int) -> None:
    assert receipt is not None or status >= 500, f"{status} without a receipt"
    if receipt is not None:
        assert receipt not in received, "an index is given out twice"
        received[receipt] = status


def by_management(houses: list[Served], answered: list[str]) -> Callable[[], None]:
    """Something new each time, at one control plane after the other."""
    turn = itertools.count()

    def call() -> None:
        time.sleep(0.1)
        number = next(turn)
        name = f"turn-{number}"
        house = houses[number % len(houses)]
        house.administrator.do("PUT", f"{ACCESS}/providers/{name}", {"legalName": name})
        answered.append(name)

    return call


class Victims(NamedTuple):
    edges: list[Process]
    planes: list[Process]
    database: Postgres
    store: redises.Server

    def each(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Ways to kill something and start it again, without end."""
        for number in itertools.count():
            edge, plane = self.edges[number % len(self.edges)], self.planes[number % len(self.planes)]
            yield "Redis", self._store
            yield "a gateway", lambda edge=edge: edge.restart(kill=True)  # type: ignore[misc]
            yield "PostgreSQL", self._database
            yield "a worker", lambda edge=edge: kill_worker(edge)  # type: ignore[misc]
            yield "a control plane", lambda plane=plane: plane.restart(kill=True)  # type: ignore[misc]

    def all_at_once(self) -> None:
        for process in (*self.edges, *self.planes):
            process.kill()
        self.store.kill()
        self.database.kill()
        time.sleep(AWAY_S)
        self.database.start()
        self.store.start()
        for process in (*self.planes, *self.edges):
            process.start()

    def _store(self) -> None:
        self.store.kill()
        time.sleep(AWAY_S)
        self.store.start()

    def _database(self) -> None:
        self.database.kill()
        time.sleep(AWAY_S)
        self.database.start()


def kill_worker(edge: Process) -> None:
    workers = children(edge.pid)
    os.kill(random.choice(workers), signal.SIGKILL)
    until(lambda: len(children(edge.pid)) == len(workers), "it is started again")


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Left(NamedTuple):
    """What was found when it was over."""

    answers: int
    decisions: int
    lost: int
    changes: int
    put_right: int
    micros: int


def run(home: Path, *, seconds: float, gateways: int, controls: int, clients: int, pause_s: float) -> Left:
    received, answered = Received(), list[str]()
    load, managing, kills = Load(), Load(), Counter[str]()
    with cluster() as server, redises.private(home) as store, simulated(Settings(api="openai", pace_ms=2)) as sim:
        database = str(asyncio.run(server.create()))
        with fleet.fleet(home, database, gateways, controls, sim.base_url, store.url) as (planes, edges, houses, key):
            for edge, number in itertools.product(edges, range(clients)):
                where = edge.sockets[0].getsockname()
                load.add("plain", by_hand(where, key, received, stream=False))
                load.add("stream", by_hand(where, key, received, stream=True))
                if not number:
                    load.add("sdk", *by_sdk(f"http://{where[0]}:{where[1]}", key, received))
            managing.add("change", by_management(houses, answered))
            victims = Victims(edges, planes, server, store)
            time.sleep(pause_s)
            ends = time.monotonic() + seconds
            for what, kill in victims.each():
                kill()
                kills[what] += 1
                time.sleep(pause_s * (0.5 + random.random()))
                if time.monotonic() > ends:
                    break
            victims.all_at_once()
            kills["all at once"] += 1
            time.sleep(pause_s)
            managing.stop()
            load.stop()
            print(f"killed: {dict(kills)}")
            print(f"calls: {dict(load.results)}; changes, each tried once: {dict(managing.results)}")
            for failure, number in Counter(map(brief, [*load.failures, *managing.failures])).most_common(12):
                print(f"  {number} times {failure}")
            left = look(home, victims, houses, received, answered, sim)
            asyncio.run(fleet.added_up(database, planes[0].master, left.decisions))
            print("in the database: as many calls, each once")
    return left


def brief(failure: str) -> str:
    return "".join("#" if each.isdigit() else each for each in failure)[:160]


def look(home: Path, victims: Victims, houses: list[Served], received: Received, answered: list[str], sim: Sim) -> Left:
    names = [edge.name for edge in victims.edges]
    for _ in range(3):  # leases that lie idle are given back after a second; each time it hears from the store
        rows = [until(lambda each=each: quiet(each), f"{each.name} and its ledger agree", 90) for each in victims.edges]
        time.sleep(1.5)
    decisions = fleet.counted(home, names, [plane.name for plane in victims.planes])
    print(f"in the ledgers: {decisions} admitted calls; they verify, as do all copies at all control planes")
    usage, lost, put_right, admitted, refused = Usage(PRICES), 0, 0, dict[str, Decision](), set[str]()
    for name in names:
        ledger = home / name / "ledger"
        report = check(ledger, find_key(str(home / name / "keys" / f"{name}.vkey")))
        assert report.findings() == [], report.findings()
        assert report.open_calls() == 0
        for read in (read for folder in folders_of(ledger) for read in entries_of(folder)):
            usage.take(read)
            entry = decode(read.entry)
            if isinstance(entry, Decision) and entry.admitted:
                admitted[f"{read.origin}/{read.number}"] = entry
            elif isinstance(entry, Decision):
                refused.add(f"{read.origin}/{read.number}")
            elif isinstance(entry, Outcome) and entry.result == "lost":
                lost += 1
                charged(admitted[entry.decision], entry)
            elif isinstance(entry, Degraded) and entry.what == "budget":
                put_right += 1
                print(f"  {name}: {entry.problem}")
    usage.finish()
    for receipt, status in received.items():
        there = receipt in admitted or (status != 200 and receipt in refused)
        assert there, f"{receipt} was answered with {status} and is not there"
    print(f"all {len(received)} receipts that clients were given are in them")
    assert sim.counters.requests <= len(admitted), (sim.counters.requests, len(admitted))
    print(f"the upstream was asked {sim.counters.requests} times")
    spent = sum(sums.cost.get("USD", 0) for sums in usage.cells.values())
    budgets_agree(rows, spent)
    print(f"lost: {lost} calls, each charged as it was reserved; budgets put right while it went on: {put_right}")
    changes(home, victims.planes, houses, answered)
    return Left(len(received), len(admitted), lost, len(answered), put_right, spent // 1_000_000)


def charged(decision: Decision, outcome: Outcome) -> None:
    """A call whose process died costs what it had reserved, marked as an estimate."""
    assert decision.reserved is not UNSET
    assert outcome.usage is not UNSET
    found = outcome.usage
    assert (found.prompt, found.completion) == (decision.reserved.prompt, decision.reserved.completion)
    assert found.source == "estimated"


def quiet(edge: Process) -> list[dict[str, Any]] | None:
    """What it says of budgets, once all of its workers serve and nothing is under way."""
    host, port = edge.sockets[1].getsockname()
    try:
        answer = httpx.get(f"http://{host}:{port}/budgets", timeout=60, trust_env=False)
    except httpx.HTTPError:
        return None
    found: dict[str, Any] = json.loads(answer.content)
    if found["problems"] or any(row["ledger"] != row["counted"] for row in found["budgets"]):
        return None
    rows: list[dict[str, Any]] = found["budgets"]
    return rows


def budgets_agree(rows: list[list[dict[str, Any]]], spent: int) -> None:
    """The gateways' parts come to all; the store, in micros, has as much."""
    parts = [row["ledger"] for each in rows for row in each]
    assert sum(parts) == spent, (parts, spent)
    least = min(row["left"] for each in rows for row in each)
    amount = rows[0][0]["amount"]
    below = len(parts) * 2 * 1_000_000  # of each worker less than a micro
    assert 0 <= spent - (amount - least) < below, (spent, amount - least)
    print(f"budgets: {' + '.join(map(str, parts))} = {spent} by the ledgers; the store has {amount - least}")


def changes(home: Path, planes: list[Process], houses: list[Served], answered: list[str]) -> None:
    touched = set()
    for plane in planes:
        for folder in folders_of(home / plane.name / "control" / "ledger"):
            for read in entries_of(folder):
                entry = decode(read.entry)
                if isinstance(entry, Change):
                    touched |= {each.resource.rpartition("/")[2] for each in entry.resources}
    assert set(answered) <= touched, set(answered) - touched
    for house in houses:
        for name in answered:
            assert house.administrator.do("GET", f"{ACCESS}/providers/{name}")["properties"]["legalName"] == name
    print(f"all {len(answered)} changes that were answered are in the database and in a ledger")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=240)
    for name, default in (("gateways", 3), ("controls", 2), ("clients", 2)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = vars(arguments.parse_args())
    with tempfile.TemporaryDirectory(prefix="entrepot-kill-") as home:
        print(run(Path(home), pause_s=4.0, **given))


if __name__ == "__main__":
    main()
