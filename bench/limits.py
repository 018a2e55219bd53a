"""How exact limits are, and what they cost: processes that together ask for three times a limit, over each store.

    python bench/limits.py [--seconds 120] [--offered 3] [--limit 600000]

Each row: admitted tokens against what the bound of docs/limits.md allows (burst + amount a minute) and against the
amount alone, the least and the largest share of a process by what it offered, and round trips per call. `even`: all
processes offer the same; `skewed`: the first offers half of it all. `redis` starts a server of its own. At the end: the
CPU time of a call that fits (two limits reserved, told of and settled) in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from entrepot.limits.rate import requests_per_minute, tokens_per_minute
from entrepot.limits.reserve import Memory, Short, Store, StoreBusy, Want
from entrepot.limits.shared import Shared
from entrepot.limits.table import Table

KEY = b"the limit of all"
TOKENS = 500
LASTS_S = 0.02
PROCESSES = (1, 4, 8)


def options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=120, help="of load for each row; default: %(default)s")
    arguments.add_argument("--offered", type=float, default=3.0, help="times the limit, default: %(default)s")
    arguments.add_argument("--limit", type=int, default=600_000, help="tokens a minute; default: %(default)s")
    arguments.add_argument("--window-ms", type=int, default=10_000, help="of the burst; default: %(default)s")
    arguments.add_argument("--stores", default="memory,table,redis", help="default: %(default)s")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    return arguments.parse_args()


async def offer(store: Store, given: dict[str, float], chosen: argparse.Namespace) -> dict[str, float]:
    """Calls at a steady rate, each under way for a moment. Starts when all processes are there."""
    limit = tokens_per_minute(chosen.limit, chosen.window_ms)
    want, counted = [Want(KEY, limit, TOKENS)], {"calls": 0, "admitted": 0}
    under_way: list[tuple[float, int]] = []
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    ends, gap, due = began + chosen.seconds, 1 / given["calls_s"], began
    while (now := time.monotonic()) < ends:
        now_ms = time.time_ns() // 1_000_000
        with suppress(StoreBusy):  # then later, as in the gateway
            while under_way and under_way[0][0] <= now:
                store.settle(want, [TOKENS], now_ms)
                under_way.pop(0)
        if now < due:
            await asyncio.sleep(min(due - now, 0.005))
            continue
        due += gap
        counted["calls"] += 1
        try:
            refused = store.reserve(want, now_ms)
        except Short:
            refused = await store.reserve_there(want, now_ms)
        except StoreBusy:
            continue
        if refused is None:
            counted["admitted"] += TOKENS
            under_way.append((now + LASTS_S, TOKENS))
    for _ in under_way:
        store.settle(want, [TOKENS], time.time_ns() // 1_000_000)
    took = time.monotonic() - began
    return {**counted, "took_s": took, "trips": getattr(store, "trips", 0)}


async def work(given: dict[str, float | str], chosen: argparse.Namespace) -> None:
    kind, number, processes = given["store"], int(given["number"]), int(given["processes"])
    store: Store
    if kind == "memory":
        store = Memory()
    elif kind == "table":
        store = Table(Path(str(given["place"])), number, processes, slots=64)
    else:
        store = Shared(str(given["place"]), f"bench/w{number}")
        await store.start()
    numbers = {"calls_s": float(given["calls_s"])}
    print(json.dumps(await offer(store, numbers, chosen)), flush=True)
    await store.end()


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


def row(kind: str, processes: int, load: str, place: str, chosen: argparse.Namespace) -> str:
    total = chosen.offered * chosen.limit / 60 / TOKENS
    shares = [1 / processes] * processes
    if load == "skewed":
        shares = [0.5, *[0.5 / (processes - 1)] * (processes - 1)]
    passed = ["--seconds", str(chosen.seconds), "--limit", str(chosen.limit), "--window-ms", str(chosen.window_ms)]
    workers = []
    for number, share in enumerate(shares):
        given = {"store": kind, "number": number, "processes": processes, "place": place, "calls_s": total * share}
        command = [sys.executable, __file__, *passed, "--worker", json.dumps(given)]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    found = [json.loads(worker.communicate()[0]) for worker in workers]
    took, admitted = max(each["took_s"] for each in found), sum(each["admitted"] for each in found)
    calls = sum(each["calls"] for each in found)
    amount = chosen.limit * took / 60
    bound = amount + chosen.limit * chosen.window_ms / 60_000
    parts = [each["admitted"] / max(1, admitted) / share for each, share in zip(found, shares, strict=True)]
    trips = sum(each["trips"] for each in found) / calls
    return (
        f"| {kind} | {processes} | {load} | {admitted:,} | {admitted / bound:.2%} | {admitted / amount:.2%} | "
        f"{min(parts):.2f} to {max(parts):.2f} | {trips:.2f} |"
    )


async def cost(store: Store, calls: int = 20_000) -> float:
    """CPU µs a call, the least of a few goes."""
    asked = [
        Want(b"requests of all.", requests_per_minute(600_000_000), 1),
        Want(b"tokens of many..", tokens_per_minute(10_000_000_000), 1_200),
    ]
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(calls):
            now_ms = time.time_ns() // 1_000_000
            try:
                store.reserve(asked, now_ms)
            except Short:
                await store.reserve_there(asked, now_ms)
            store.states(asked, now_ms)
            store.settle(asked[1:], [900], now_ms)
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
        asyncio.run(work(json.loads(chosen.worker), chosen))
        return
    print(
        f"{chosen.limit:,} tokens a minute, {chosen.offered:g} times offered in calls of {TOKENS}, {chosen.seconds:g} s"
    )
    print("| store | processes | load | admitted | of the bound | of the amount | shares | trips a call |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for kind in chosen.stores.split(","):
        for processes in PROCESSES if kind != "memory" else (1,):
            for load in ("even", "skewed") if processes > 1 else ("even",):
                with tempfile.TemporaryDirectory() as folder:
                    if kind == "redis":
                        with redis_server(Path(folder)) as url:
                            print(row(kind, processes, load, url, chosen), flush=True)
                    else:
                        print(row(kind, processes, load, f"{folder}/table", chosen), flush=True)
    asyncio.run(costs())


if __name__ == "__main__":
    main()
