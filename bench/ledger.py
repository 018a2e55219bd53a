"""What an entry costs, beside what this disk costs: prints microseconds, the least of several rounds.

    python bench/ledger.py [--rounds 3] [--seconds 5] [--against DIR]

`--against` names another checkout's `src`: its rounds and ours take turns, so that both see the same neighbours, and
what is printed last is ours as a part of its.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from entrepot.ledger import entries as e
from entrepot.ledger.commitments import commit
from entrepot.ledger.ledger import Ledger

NAME = "bench.example/ledger"
LONE = 400
RATE = 5_000
CROWD = 32
CROWD_CALLS = 40_000
WAIT_S = 0.001


class Figures(NamedTuple):
    """Times in µs. CPU is that of the whole process; an entry is a decision or an outcome."""

    disk_fdatasync_p50: float
    lone_append_p50: float
    lone_append_over_disk: float
    lone_cpu_a_call: float
    crowd_cpu_an_entry: float
    paced_append_p50: float
    paced_append_p99: float
    paced_calls_a_second: float


def decision(number: int) -> tuple[bytes, bytes]:
    """One as a gateway writes it, with three candidates."""
    personal, commitment = commit(e.Personal(f"203.0.113.{number & 255}", "kanto/key1", f"user-{number & 1023}"))
    made = e.Decision(
        admitted=True,
        at_ms=1_795_000_000_000 + number,
        candidates=CANDIDATES,
        client=CLIENT,
        commitment=commitment,
        deployment=DEPLOYMENT,
        operation="chat",
        origin=ORIGIN,
        release="sha256:" + "0" * 64,
        request=f"00000000-0000-0000-0000-{number:012x}",
        revision=1,
    )
    return e.encode(made), personal


def _facts(region: str) -> msgspec.Raw:
    given = {
        "egress.territory": "JP",
        "target.in_residency": "true",
        "target.model": "gpt-4o",
        "target.operator": "harbour",
        "target.provider": "openai",
        "target.region": region,
        "target.territory": "JP",
        "target.zone": ["apac"],
    }
    return msgspec.Raw(msgspec.json.encode(e.facts(given)))


REGIONS = ("japaneast", "koreacentral", "westeurope")
CANDIDATES = [e.raw(e.Candidate(_facts(region), True, ("BASE-01",), f"up-{region}")) for region in REGIONS]
_ORGANIZATION = {
    "account.channel": "cloud",
    "account.operator": "harbour",
    "account.state": "active",
    "org.eligibility": [],
    "org.entity_type": "enterprise",
    "org.flag": [],
    "org.kyc": "approved",
    "org.licence": "valid",
    "org.screening": "clear",
    "org.territory": "JP",
}
CLIENT = e.raw(e.Client("kanto", e.facts(_ORGANIZATION), "org-kanto", ()))
DEPLOYMENT = e.raw(e.Deployment("gpt-4o", "gpt-4o", "2024-11-20"))
ORIGIN = e.raw(e.Origin(False, "site", "business", "site", "JP"))


def outcome(place: str, number: int) -> bytes:
    usage = e.Usage(0, 200, 100, 0, "reported")
    legs = (e.Leg(120, "answered", "up-japaneast"),)
    return e.encode(e.Outcome(1_795_000_000_000 + number, place, UNSET, 100, legs, "served", 200, 120, usage=usage))


UNSET = msgspec.UNSET


async def call(ledger: Ledger, number: int) -> float:
    """One call: its decision, a short while, its outcome. How long the decision took, in seconds."""
    entry, personal = decision(number)
    started = time.perf_counter()
    place = await ledger.decide(entry, personal)
    took = time.perf_counter() - started
    ledger.outcome(outcome(str(place), number))
    return took


async def lone(ledger: Ledger) -> tuple[float, float]:
    began_s, times = time.process_time(), []
    for number in range(LONE):
        times.append(await call(ledger, number))
        await asyncio.sleep(WAIT_S)
    return sorted(times)[LONE // 2], (time.process_time() - began_s) / LONE


async def crowd(ledger: Ledger) -> float:
    """CPU an entry with so many callers at once, what it costs to make the entries taken out."""
    began_s = time.process_time()
    for number in range(0, CROWD_CALLS, 8):
        decision(number)
        outcome("bench.example/ledger/2026-11/0/1000", number)
    making_s = (time.process_time() - began_s) * 8

    async def caller(first: int) -> None:
        for number in range(first, CROWD_CALLS, CROWD):
            await call(ledger, number)
            await asyncio.sleep(WAIT_S)

    began_s = time.process_time()
    await asyncio.gather(*map(caller, range(CROWD)))
    return (time.process_time() - began_s - making_s) / (2 * CROWD_CALLS)


async def paced(ledger: Ledger, seconds: float) -> tuple[list[float], float]:
    """Calls at a steady rate, whether the ones before are done or not. What has ended is not kept, as in a gateway."""
    running: set[asyncio.Task[None]] = set()
    times: list[float] = []

    async def one(number: int) -> None:
        times.append(await call(ledger, number))

    began_s, number = time.perf_counter(), 0
    while (now_s := time.perf_counter() - began_s) < seconds:
        while number < now_s * RATE:
            task = asyncio.create_task(one(number))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.sleep(WAIT_S)
    await asyncio.gather(*running)
    return sorted(times), number / (time.perf_counter() - began_s)


def disk(folder: Path) -> float:
    """A write of one entry's size over room that is there, durable: the least that any append can take."""
    fd = os.open(folder / "disk", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, bytes(1 << 22), 0)
        os.fdatasync(fd)
        times = []
        for number in range(LONE):
            started = time.perf_counter()
            os.pwrite(fd, b"x" * 1500, number * 1500)
            os.fdatasync(fd)
            times.append(time.perf_counter() - started)
    finally:
        os.close(fd)
    return sorted(times)[LONE // 2]


async def measure(folder: Path, seconds: float) -> Figures:
    synced_s = disk(folder)
    ledger = Ledger.open(folder / "data", key_name=NAME)
    ledger.start()
    await lone(ledger)  # to get warm
    lone_s, lone_cpu_s = await lone(ledger)
    crowd_s = await crowd(ledger)
    times, rate = await paced(ledger, seconds)
    await ledger.close()
    at = [times[len(times) * part // 100] * 1e6 for part in (50, 99)]
    return Figures(synced_s * 1e6, lone_s * 1e6, lone_s / synced_s, lone_cpu_s * 1e6, crowd_s * 1e6, at[0], at[1], rate)


def round_of(source: Path, seconds: float) -> Figures:
    """In a process of its own, over the ledger of that source."""
    command = [sys.executable, __file__, "--one", "--seconds", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Figures(*json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of calls at a steady rate")
    parser.add_argument("--against", type=Path, metavar="DIR")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            print(json.dumps(uvloop.run(measure(Path(folder), given.seconds))))
        return
    sources = {"this": Path(__file__).resolve().parent.parent / "src"}
    if given.against is not None:
        sources["against"] = given.against.resolve()
    rounds: dict[str, list[Figures]] = {name: [] for name in sources}
    for _ in range(given.rounds):
        for name, source in sources.items():
            rounds[name].append(round_of(source, given.seconds))
    least = {name: [min(column) for column in zip(*found, strict=True)] for name, found in rounds.items()}
    print(f"{'':24}" + "".join(f"{name:>12}" for name in sources) + ("       ratio" if given.against else ""))
    for at, what in enumerate(Figures._fields):
        line = f"{what:24}" + "".join(f"{least[name][at]:12.2f}" for name in sources)
        print(line + (f"{least['this'][at] / least['against'][at]:12.3f}" if given.against else ""))


if __name__ == "__main__":
    main()
