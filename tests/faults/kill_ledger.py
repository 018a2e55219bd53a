"""Kills a writing process at random moments, again and again, and looks at what it left.

    python tests/faults/kill_ledger.py --times 200

A writer prints each decision once it may be acted upon; that is what must be in the log afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from entrepot.ledger.ledger import Ledger
from entrepot.ledger.read import entries_of, folders_of
from ledgers import NAME, decision, outcome, undisclosed, verified, write

CALLERS = 12
LONGEST = 1500


async def serve(data: Path) -> None:
    """Decides without end, as a gateway would; prints where each decision stands, and what it says."""
    ledger = Ledger.open(data, key_name=NAME)
    ledger._writer.longest = LONGEST
    ledger.start()

    async def call(number: int) -> None:
        while True:
            entry, private = decision(number)
            place = await ledger.decide(entry, private)
            os.write(1, f"{place} {entry.decode()}\n".encode())
            await asyncio.sleep(random.random() / 500)
            ledger.outcome(outcome(str(place)))
            number += CALLERS

    os.write(1, b"ready\n")
    await asyncio.gather(*(call(number) for number in range(CALLERS)))


def life(data: Path, moment_s: float) -> dict[str, str]:
    """One writer, killed so long after it began to serve, below zero after its start. What it acknowledged."""
    acknowledged: dict[str, str] = {}
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", str(data)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        stream = writer.stdout
        if moment_s > 0:
            stream.readline()
        # The pipe is emptied meanwhile, so that the writer never waits for us.
        reading = threading.Thread(target=lambda: [_take(line, acknowledged) for line in stream])
        reading.start()
        time.sleep(abs(moment_s))
        writer.kill()
        reading.join()
    return acknowledged


def _take(line: str, acknowledged: dict[str, str]) -> None:
    place, _, entry = line.partition(" ")
    if entry.endswith("\n"):  # not one that was cut short, nor that it is ready
        entry = entry[:-1]
        assert place not in acknowledged, "an index is given out twice"
        acknowledged[place] = entry


def look(data: Path, acknowledged: dict[str, str]) -> int:
    """Restart, then: all that was acknowledged is there, all verifies, each decision has exactly one outcome."""
    write(data).close()
    held = {f"{r.origin}/{r.number}": r.entry.decode() for log in folders_of(data / "ledger") for r in entries_of(log)}
    for place, entry in acknowledged.items():
        assert held.get(place) == entry, f"{place} was acknowledged and is not there"
    missing, named = undisclosed(data)
    assert missing == named, "an entry without its personal data is not named"
    assert not acknowledged.keys() & {f"{origin}/{number}" for origin, number in missing}, "personal data is gone"
    report = verified(data)
    assert report.findings() == [], report.findings()
    assert report.open_calls() == 0, "a decision has no outcome"
    return report.calls.decisions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder), given.times))


def run(data: Path, times: int) -> str:
    acknowledged: dict[str, str] = {}
    decided = 0
    started = time.monotonic()
    for _ in range(times):
        # One in eight is killed before it serves: while it recovers.
        moment_s = random.random() * 0.4 * (-1 if random.random() < 0.125 else 1)
        acknowledged |= life(data, moment_s)
        decided = look(data, acknowledged)
    took = time.monotonic() - started
    logs = len(folders_of(data / "ledger"))
    return f"killed {times} times in {took:.0f} s: {len(acknowledged)} acknowledged, {decided} in {logs} logs, all well"


if __name__ == "__main__":
    main()
