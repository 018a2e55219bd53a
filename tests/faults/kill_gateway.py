"""Kills a gateway under load at random moments, again and again, and looks at what it left.

    python tests/faults/kill_gateway.py --times 200

What a client was answered carries a receipt; the decision that it names must be in the ledger afterwards.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from entrepot.ledger.disclosed import disclosed
from entrepot.ledger.read import entries_of, folders_of
from entrepot.ledger.verify import ADMITTED, REFUSED, check, find_key
from entrepot.projections.check import check as check_usage
from entrepot.projections.follow import Logs
from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import FROM_CN, FROM_JP, Account, Gateway, Place, Upstream, World, body_of, opened

CALLERS = ((FROM_JP, False), (FROM_JP, False), (FROM_JP, True), (FROM_JP, True), (FROM_CN, False))
"""From where each asks without end, and whether for streams. From China it is refused."""
LONGEST_S = 0.6
RECEIPT = "x-entrepot-receipt"
# A folder is left for a new one after so many lives: the whole of it is looked through after each.
LIVES = 25

Received = dict[str, int]
"""By receipt the status of the answer."""


class Callers:
    """Ask until the gateway is gone."""

    def __init__(self, place: Place, key: str, received: Received) -> None:
        self._place = place
        self._key = key
        self._received = received
        self._threads = [threading.Thread(target=self._call, args=caller) for caller in CALLERS]
        for thread in self._threads:
            thread.start()

    def _call(self, source: str, stream: bool) -> None:
        body = body_of(stream=stream, max_tokens=30 if stream else 3).decode()
        try:
            with opened(self._place, source) as connection:
                while True:
                    headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
                    connection.request("POST", "/v1/chat/completions", body, headers)
                    answer = connection.getresponse()
                    receipt = answer.getheader(RECEIPT)
                    assert receipt is not None or answer.status >= 500, f"{answer.status} without a receipt"
                    if receipt is not None:
                        assert receipt not in self._received, "an index is given out twice"
                        self._received[receipt] = answer.status
                    answer.read()
        except (OSError, http.client.HTTPException):
            return

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


class Left(NamedTuple):
    calls: int
    refusals: int
    lost: int


def kill(gateway: Gateway) -> None:
    """All of it, with no time for any process to see another one end."""
    if gateway.process.poll() is not None:
        return
    pid = gateway.process.pid
    os.kill(pid, signal.SIGSTOP)
    for worker in gateway.workers():
        os.kill(worker, signal.SIGKILL)
    gateway.process.kill()
    gateway.process.wait()


def life(gateway: Gateway, data: Path, key: str, received: Received) -> Left | None:
    """What was there when it served, if it came to serve. It is killed while it starts, or under load."""
    if random.random() < 0.125:
        time.sleep(random.random() * 2)
        kill(gateway)
        return None
    gateway.ready()
    left = look(data, received)
    callers = Callers(gateway.data, key, received)
    time.sleep(random.random() * LONGEST_S)
    if random.random() < 0.2:  # a worker alone first: the parent starts another, or ends
        for worker in gateway.workers():
            os.kill(worker, signal.SIGKILL)
        time.sleep(random.random() * LONGEST_S)
    kill(gateway)
    callers.join()
    odd = [place for place, status in received.items() if status not in {200, 403}]
    if odd:
        print("neither served nor refused:", odd, gateway.log[-2000:])
    return left


def look(data: Path, received: Received) -> Left:
    """All that was answered is there and says the same; all verifies; each decision has exactly one outcome."""
    ledger = data / "ledger"
    held = {f"{read.origin}/{read.number}": read.entry for log in folders_of(ledger) for read in entries_of(log)}
    for place, status in received.items():
        begins = REFUSED if status == 403 else ADMITTED
        assert held.get(place, b"").startswith(begins), f"{place} was answered with {status} and is not there"
    (key,) = (data / "keys").glob("*.vkey")
    report = check(ledger, find_key(str(key)))
    assert report.findings() == [], report.findings()
    assert report.open_calls() == 0, "a decision has no outcome"
    personal = disclosed(ledger)
    assert personal.findings == [], personal.findings
    usage = check_usage(Logs(ledger))
    assert usage.findings == [], usage.findings
    lost = sum(entry.startswith(b'{"outcome"') and b'"result":"lost"' in entry for entry in held.values())
    return Left(usage.calls, usage.refusals, lost)


def run(home: Path, times: int, say: Callable[[str], None] = lambda _: None) -> str:
    total, answered, started = Left(0, 0, 0), 0, time.monotonic()
    account = Account("kanto")
    with simulated(Settings(pace_ms=2)) as sim:
        world = World(home / "world", [Upstream("main", sim.base_url)], [account])
        world.write()
        for first in range(0, times, LIVES):
            data, received = home / f"data-{first}", Received()
            for number in range(first, min(first + LIVES, times)):
                gateway = Gateway(world, home, "--data", str(data))
                try:
                    left = life(gateway, data, account.key, received)
                finally:
                    kill(gateway)
                say(f"{number + 1} killed, {len(received)} answered; {left}")
            left = last_look(Gateway(world, home, "--data", str(data)), data, received)
            total = Left(*(one + other for one, other in zip(total, left, strict=True)))
            answered += len(received)
    took = time.monotonic() - started
    return (
        f"killed {times} times in {took:.0f} s: {answered} answers, {total.calls} calls and {total.refusals} refusals"
        f" in the ledger, {total.lost} of them lost, all well"
    )


def last_look(gateway: Gateway, data: Path, received: Received) -> Left:
    try:
        gateway.ready()
        return look(data, received)
    finally:
        gateway.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder), given.times, print))


if __name__ == "__main__":
    main()
