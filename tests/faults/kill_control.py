"""Kills a control plane at random moments while it changes things, again and again, and looks at what it left.

    python tests/faults/kill_control.py --times 50

The writer prints each change once it was answered: it must be in the database, in the ledger and published, once each.
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
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from entrepot.ledger import entries
from entrepot.ledger.read import entries_of, folders_of
from entrepot.management.changes import Change, digest_of
from entrepot.management.control import Control
from entrepot.resources.ids import access_id, account_id, deployment_id
from entrepot.storage import EVERYTHING, Recorded
from worlds import ADMIN, demo_world, open_control, put_world

SUBSCRIPTION = "11111111-1111-4111-8111-111111111111"
ACCOUNT = account_id(SUBSCRIPTION, "rg-ai", "robotics-ai")
WRITERS = 3


async def serve(data: Path, url: str | None) -> None:
    """Changes without end, of clients and of the catalogue; prints each that was answered."""
    control = await open_control(data, url)
    os.write(1, b"ready\n")
    await asyncio.gather(*(_write(control, writer) for writer in range(WRITERS)))


async def _write(control: Control, writer: int) -> None:
    while True:
        recorded = await change_something(control, writer)
        os.write(1, f"{recorded.n} {recorded.id}\n".encode())


async def change_something(control: Control, writer: int) -> Recorded:
    value = random.randrange(1, 1_000)
    async with control.change(ADMIN, "test/write") as change:
        if random.random() < 0.1:
            await _region(change, value)
        elif random.random() < 0.2:
            await _toggle(change, writer)
        else:
            await _scale(change, value)
    assert change.recorded is not None
    return change.recorded


async def _scale(change: Change, value: int) -> None:
    row = await change.get(EVERYTHING, deployment_id(ACCOUNT, "assistant"))
    assert row is not None
    row.body["sku"]["capacity"] = value
    await change.put(change.draft(row.id, row.kind, row.body, subscription=SUBSCRIPTION))


async def _toggle(change: Change, writer: int) -> None:
    """A deployment of the writer's own comes or goes."""
    at = deployment_id(ACCOUNT, f"extra-{writer}")
    if not await change.delete(at):
        model = {"format": "OpenAI", "name": "entrepot-tiny", "version": "1"}
        body = {"sku": {"name": "GlobalStandard", "capacity": 1}, "properties": {"model": model}}
        await change.put(change.draft(at, "deployment", body, subscription=SUBSCRIPTION))


async def _region(change: Change, value: int) -> None:
    row = await change.get(EVERYTHING, access_id("region", "japaneast"))
    assert row is not None
    row.body["properties"]["displayName"] = f"Japan East {value}"
    await change.put(change.draft(row.id, row.kind, row.body))


async def prepare(data: Path, url: str | None) -> None:
    control = await open_control(data, url)
    await put_world(control, demo_world())
    await control.close()


def life(data: Path, url: str | None, moment_s: float) -> dict[int, str]:
    """One control plane, killed so long after it began to change, below zero after its start. What it answered."""
    answered: dict[int, str] = {}
    command = [sys.executable, __file__, "--serve", str(data), *(["--database", url] if url else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        stream = writer.stdout
        if moment_s > 0:
            assert stream.readline() == "ready\n"
        reading = threading.Thread(target=lambda: [_take(line, answered) for line in stream])
        reading.start()
        time.sleep(abs(moment_s))
        writer.kill()
        reading.join()
    return answered


def _take(line: str, answered: dict[int, str]) -> None:
    n, _, identity = line.partition(" ")
    if identity.endswith("\n"):
        assert int(n) not in answered, "a number is given out twice"
        answered[int(n)] = identity[:-1]


async def look(data: Path, url: str | None, answered: dict[int, str]) -> int:
    """Restart, then: every change stands in the outbox, in the ledger and in what is published, once."""
    control = await open_control(data, url)
    try:
        recorded = await control.store.since(0)
        assert [each.n for each in recorded] == list(range(1, len(recorded) + 1)), "numbers have gaps"
        ids = {each.n: each.id for each in recorded}
        for n, identity in answered.items():
            assert ids.get(n) == identity, f"change {n} was answered and is not there"
        assert all(each.place is not None for each in recorded), "a change is in the outbox after a start"
        held = changes_in(data)
        assert Counter(each.id for each in held.values()) == Counter(ids.values()), "the ledger has others"
        for each in recorded:
            assert held[each.place or ""].id == each.id, "it does not stand where the outbox says"
        assert control.revision.n == len(recorded)
        await agree(control, held)
        return len(recorded)
    finally:
        await control.close()


def changes_in(data: Path) -> dict[str, entries.Change]:
    found = {}
    for log in folders_of(data / "control" / "ledger"):
        for read in entries_of(log):
            if isinstance(entry := entries.decode(read.entry), entries.Change):
                found[f"{read.origin}/{read.number}"] = entry
    return found


async def agree(control: Control, held: dict[str, entries.Change]) -> None:
    """The last digest of each resource in the ledger is that of its row; what is published is what rows say."""
    last: dict[str, str | msgspec.UnsetType] = {}
    for change in sorted(held.values(), key=lambda each: each.revision):
        last |= {touched.resource: touched.digest for touched in change.resources}
    rows = {row.id: digest_of(row) for row in await control.store.all()}
    assert rows == {resource: digest for resource, digest in last.items() if digest is not msgspec.UNSET}
    account = next(each for each in control.world.accounts if each.name == "robotics-ai")
    declared = {each.name: each.capacity for each in account.deployments}
    there = await control.store.list(EVERYTHING, "deployment", under=ACCOUNT)
    assert declared == {row.name: row.body["sku"]["capacity"] for row in there}


async def run(data: Path, times: int, url: str | None = None) -> str:
    await prepare(data, url)
    answered: dict[int, str] = {}
    made, started = 0, time.monotonic()
    for _ in range(times):
        # One in six is killed before it serves: while it starts and drains.
        moment_s = random.random() * 0.6 if random.random() > 1 / 6 else -1.5 * random.random()
        answered |= await asyncio.to_thread(life, data, url, moment_s)
        made = await look(data, url, answered)
    took = time.monotonic() - started
    return f"killed {times} times in {took:.0f} s: {len(answered)} answered, {made} made, all well"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--database")
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve, given.database))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(asyncio.run(run(Path(folder), given.times, given.database)))


if __name__ == "__main__":
    main()
