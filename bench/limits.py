"""How exact limits are, and what they cost: processes that together ask for three times a limit, over each store.

    python bench/limits.py [--seconds 120] [--offered 3] [--limit 600000] [--stores memory,table,redis]

Calls come at random (Poisson), each under way for a moment. `even`: all processes offer the same; `skewed`: the first
offers half of it all; `edge`: everything comes in four seconds, a second each at the beginning, before and after the
middle (with two minutes: the edge of a minute) and before the end.

A row: tokens offered and admitted; the bound of docs/limits.md, a burst and the amount for so long, and the part of it
that was admitted; the fullest bucket: of every stretch of time, what was admitted beyond the amount for so long, by the
burst (above 100 % the bound was broken); what the second half admitted, by the amount alone; the least and the
most that a process got of its fair share, by what it offered; calls that waited for the store; round trips a call, of
all kinds. It fails if a bound is broken or a
process starved.

`redis` starts a server of its own. At the end: processes that fight for the table's lock, and the CPU time of a call
that fits (two limits reserved, told of and settled).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from entrepot.limits.rate import requests_per_minute, tokens_per_minute
from entrepot.limits.reserve import Asked, Memory, Short, Store, StoreBusy, asked_of
from entrepot.limits.shared import Shared
from entrepot.limits.table import Table

KEY = b"the limit of all"
TOKENS = {"even": 200, "skewed": 200, "edge": 1_000}
"""Of a call: so many that few processors can make the calls of a burst in time."""
LASTS_S = 0.02
BURST_S = 1.0
"""Of a run shorter than twenty such a twentieth."""
EXACT = 1.001
STARVED = 0.25
STAGGER_S = 1.5
HEADS = (
    *("store", "processes", "load", "offered", "admitted", "bound", "of the bound"),
    *("fullest", "second half", "shares", "calls that waited", "trips a call"),
)


class Row(NamedTuple):
    store: str
    processes: int
    load: str


class Found(NamedTuple):
    """Of one row. The shares are by what a process offered."""

    row: Row
    offered: int
    admitted: int
    bound: float
    fullest: float
    second_half: float
    shares: list[float]
    waited: float
    trips: float

    @property
    def problem(self) -> str | None:
        if max(self.fullest, self.admitted / self.bound) > EXACT:
            return "the bound is broken"
        return "a process is starved" if min(self.shares) < STARVED else None

    def __str__(self) -> str:
        shares = f"{min(self.shares):.2f} to {max(self.shares):.2f}"
        cells = [*self.row, f"{self.offered:,}", f"{self.admitted:,}", f"{self.bound:,.0f}"]
        cells += [f"{self.admitted / self.bound:.2%}", f"{self.fullest:.2%}", f"{self.second_half:.2%}", shares]
        return f"| {' | '.join(map(str, [*cells, f'{self.waited:.1%}', f'{self.trips:.2f}']))} |"


def options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=120, help="of load for each row; default: %(default)g")
    arguments.add_argument("--offered", type=float, default=3.0, help="times the limit; default: %(default)g")
    arguments.add_argument("--limit", type=int, default=600_000, help="tokens a minute; default: %(default)s")
    arguments.add_argument("--window-ms", type=int, default=60_000, help="of the burst; default: %(default)s")
    arguments.add_argument("--stores", default="memory,table,redis", help="default: %(default)s")
    arguments.add_argument("--processes", default="1,4,8", help="default: %(default)s")
    arguments.add_argument(
        "--at-once", type=int, default=6, help="rows measured beside each other; default: %(default)s"
    )
    arguments.add_argument("--no-cost", action="store_true", help="the table only")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    return arguments.parse_args()


def arrivals(given: dict[str, Any], chosen: argparse.Namespace) -> list[float]:
    """When each call comes, in seconds from the beginning."""
    seconds, at = chosen.seconds, 0.0
    bursts = [(0.0, seconds)]
    if given["load"] == "edge":
        one = min(BURST_S, seconds / 20)
        bursts = [(0.0, one), (seconds / 2 - one, seconds / 2 + one), (seconds - one, seconds)]
    rate = given["calls_s"] * seconds / sum(end - start for start, end in bursts)
    chance, found = random.Random(given["number"]), []
    for start, end in bursts:
        at = start + chance.expovariate(rate)
        while at < end:
            found.append(at)
            at += chance.expovariate(rate)
    return found


class Offering:
    """One process's calls."""

    def __init__(self, store: Store, tokens: int, chosen: argparse.Namespace) -> None:
        self._store = store
        self._limit = tokens_per_minute(chosen.limit, chosen.window_ms)
        self._tokens = tokens
        self._under_way: set[asyncio.Task[None]] = set()
        self.admitted_ms: list[int] = []
        self.calls = self.waited = 0

    async def run(self, times: Sequence[float], began: float, ends: float) -> None:
        for at in times:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            if time.monotonic() > ends:
                break
            self.calls += 1
            self._offer()
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _offer(self) -> None:
        now_ms, asked = time.time_ns() // 1_000_000, asked_of((KEY, self._limit, self._tokens))
        try:
            if self._store.reserve(asked, now_ms) is None:
                self._begin(self._last(asked, now_ms))
        except Short:
            self.waited += 1
            self._begin(self._ask(asked, now_ms))
        except StoreBusy:  # a call that is not admitted
            return

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _ask(self, asked: Asked, now_ms: int) -> None:
        if await self._store.reserve_there(asked, now_ms) is None:
            await self._last(asked, time.time_ns() // 1_000_000)

    async def _last(self, asked: Asked, now_ms: int) -> None:
        self.admitted_ms.append(now_ms)
        while True:
            await asyncio.sleep(LASTS_S)
            try:
                return self._store.settle(asked, asked.units, time.time_ns() // 1_000_000)
            except StoreBusy:  # then later, as in the gateway
                continue


async def work(given: dict[str, Any], chosen: argparse.Namespace) -> None:
    number, times = given["number"], arrivals(given, chosen)
    store = await opened(given["store"], given["place"], number, given["processes"])
    offering = Offering(store, TOKENS[given["load"]], chosen)
    print("ready", flush=True)
    began = float(await asyncio.to_thread(sys.stdin.readline))
    await offering.run(times, began, began + chosen.seconds)
    told = {"calls": offering.calls, "waited": offering.waited, "trips": getattr(store, "trips", 0)}
    print(json.dumps({**told, "admitted_ms": sorted(offering.admitted_ms)}), flush=True)
    await store.end()


async def opened(kind: str, place: str, number: int, processes: int) -> Store:
    if kind == "memory":
        return Memory()
    if kind == "table":
        return Table(Path(place), number, processes, slots=64)
    shared = Shared(place, f"bench/w{number}")
    await shared.start()
    return shared


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("install redis-server or valkey-server, or leave `redis` out of --stores")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def measured(row: Row, delay_s: float, chosen: argparse.Namespace) -> Found:
    """`delay_s`: so much after its processes are there it begins, so that bursts of rows do not meet."""
    with tempfile.TemporaryDirectory() as folder:
        if row.store != "redis":
            return judged(row, *offered(row, f"{folder}/table", delay_s, chosen), chosen)
        with redis_server(Path(folder)) as url:
            return judged(row, *offered(row, url, delay_s, chosen), chosen)


def offered(row: Row, place: str, delay_s: float, chosen: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """When it began (Unix ms), and what each process says."""
    parts = [1 / row.processes] * row.processes
    if row.load == "skewed":
        parts = [0.5, *[0.5 / (row.processes - 1)] * (row.processes - 1)]
    calls_s, commands = chosen.offered * chosen.limit / 60 / TOKENS[row.load], []
    for number, part in enumerate(parts):
        given = {**row._asdict(), "number": number, "place": place, "calls_s": calls_s * part}
        passed = ["--seconds", str(chosen.seconds), "--limit", str(chosen.limit), "--window-ms", str(chosen.window_ms)]
        commands.append([*passed, "--worker", json.dumps(given)])
    return run_together(commands, delay_s)


def run_together(commands: Sequence[list[str]], delay_s: float = 0.0) -> tuple[float, list[dict[str, Any]]]:
    """Started, all there, then told when to begin."""
    workers = [
        subprocess.Popen([sys.executable, __file__, *each], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for each in commands
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", "a process did not start"
    wait_s = 0.2 + delay_s
    began, began_ms = time.monotonic() + wait_s, (time.time() + wait_s) * 1_000
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{began}\n")
        worker.stdin.flush()
    return began_ms, [json.loads(worker.communicate()[0]) for worker in workers]


def judged(row: Row, began_ms: float, told: Sequence[dict[str, Any]], chosen: argparse.Namespace) -> Found:
    times = sorted(at for each in told for at in each["admitted_ms"])
    tokens, calls = TOKENS[row.load], sum(each["calls"] for each in told)
    by_ms, burst = chosen.limit / 60_000, chosen.limit * chosen.window_ms / 60_000
    level, fullest, last = 0.0, 0.0, 0
    for at in times:  # a bucket without any limit
        level = max(0.0, level - (at - last) * by_ms) + tokens
        fullest, last = max(fullest, level), at
    half_ms = chosen.seconds * 500
    later = sum(tokens for at in times if at >= began_ms + half_ms)
    return Found(
        row,
        calls * tokens,
        len(times) * tokens,
        burst + chosen.limit * chosen.seconds / 60,
        fullest / burst,
        later / (half_ms * by_ms),
        [len(each["admitted_ms"]) * calls / max(1, len(times) * each["calls"]) for each in told],
        sum(each["waited"] for each in told) / calls,
        sum(each["trips"] for each in told) / calls,
    )


def rows(chosen: argparse.Namespace) -> list[Row]:
    return [
        Row(store, processes, load)
        for store in chosen.stores.split(",")
        for processes in map(int, chosen.processes.split(","))
        for load in TOKENS
        if (store != "memory" or processes == 1) and (load != "skewed" or processes > 1)
    ]


def accuracy(chosen: argparse.Namespace) -> list[Found]:
    """Some rows at a time; they are printed in their order."""
    wanted, done, stagger_s = rows(chosen), [], min(STAGGER_S, chosen.seconds / 20)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    with ThreadPoolExecutor(chosen.at_once) as pool:
        running: list[Future[Found]] = [
            pool.submit(measured, row, index % chosen.at_once * stagger_s, chosen) for index, row in enumerate(wanted)
        ]
        with progress(running):
            for each in running:
                done.append(each.result())
                print(f"{done[-1]}", flush=True)
    return done


@contextmanager
def progress(running: Sequence[Future[Found]]) -> Iterator[None]:
    """A line on the terminal that is written again each second."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(1.0):
            done = sum(each.done() for each in running)
            print(f"\r{time.monotonic() - began:.0f} s, {done} of {len(running)} rows ", end="", file=sys.stderr)

    telling = threading.Thread(target=tell)
    if sys.stderr.isatty():
        telling.start()
    try:
        yield
    finally:
        over.set()
        if telling.is_alive():
            telling.join()
            print("\r", end="", file=sys.stderr)


def fight(number: int, processes: int, place: str, seconds: float) -> None:
    """Calls that all fit, one after the other as fast as can be."""
    table, asked, done, busy = Table(Path(place), number, processes, slots=64), wide(), 0, 0
    print("ready", flush=True)
    ends = float(sys.stdin.readline()) + seconds
    while time.monotonic() < ends:
        try:
            call(table, asked)
            done += 1
        except StoreBusy:
            busy += 1
    print(json.dumps({"calls": done, "busy": busy}))


def fought(processes: int, seconds: float = 5.0) -> str:
    with tempfile.TemporaryDirectory() as folder:
        given = [{"fight": [number, processes, f"{folder}/table", seconds]} for number in range(processes)]
        _, told = run_together([["--worker", json.dumps(each)] for each in given])
    calls = [each["calls"] for each in told]
    shares = [each * processes / sum(calls) for each in calls]
    return (
        f"table, {processes} processes as fast as they can: {sum(calls) / seconds:,.0f} calls a second, "
        f"shares {min(shares):.2f} to {max(shares):.2f}, {sum(each['busy'] for each in told)} calls found it busy"
    )


def wide() -> Asked:
    return asked_of(
        (b"requests of all.", requests_per_minute(600_000_000), 1),
        (b"tokens of many..", tokens_per_minute(10_000_000_000), 1_200),
    )


def call(store: Store, like: Asked) -> None:
    """Raises Short, StoreBusy."""
    now_ms, asked = time.time_ns() // 1_000_000, Asked(like.keys, like.limits, like.units)
    store.reserve(asked, now_ms)
    for met in asked.met:
        met.left(now_ms)
        met.reset_ms(now_ms)
    store.settle(asked, [0, 900], now_ms)


async def cost(store: Store, calls: int = 4_000) -> float:
    """CPU µs a call, the least of many goes."""
    asked, best = wide(), float("inf")
    for _ in range(20):
        began, done = time.process_time(), 0
        while done < calls:
            try:
                call(store, asked)
                done += 1
            except Short:
                await store.reserve_there(asked, time.time_ns() // 1_000_000)
                store.settle(asked, [0, 900], time.time_ns() // 1_000_000)
        best = min(best, (time.process_time() - began) / calls * 1e6)
        await asyncio.sleep(0.3)
    return best


async def costs() -> None:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url:
        shared = Shared(url, "bench/cost")
        await shared.start()
        stores: dict[str, Store] = {"memory": Memory(), "table": Table(Path(folder) / "table", 0, 4), "redis": shared}
        for name, store in stores.items():
            print(f"{name}: {await cost(store):.1f} µs of CPU a call", flush=True)
            await store.end()


def main() -> None:
    chosen = options()
    if chosen.worker:
        given = json.loads(chosen.worker)
        if "fight" in given:
            fight(*given["fight"])
        else:
            asyncio.run(work(given, chosen))
        return
    print(
        f"{chosen.limit:,} tokens a minute, a burst of {chosen.window_ms / 1_000:g} s, {chosen.offered:g} times "
        f"offered, {chosen.seconds:g} s; {min(chosen.at_once, len(rows(chosen)))} rows at once"
    )
    problems = [f"{'/'.join(map(str, each.row))}: {each.problem}" for each in accuracy(chosen) if each.problem]
    if not chosen.no_cost:
        for processes in (4, 8):
            print(fought(processes), flush=True)
        asyncio.run(costs())
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
