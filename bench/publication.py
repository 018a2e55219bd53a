"""What it costs to put a large world, or one change of it, into force; and whether calls notice.

Compiles a world of 10,000 organizations and 20,000 deployments, whole and by changes. Then starts a gateway over it,
calls it lightly from other processes, and publishes wholes and changes meanwhile. What a prober sees on a path that the
worker answers by itself is how long the worker was away: compare it with the phase in which nothing changes, since
other processes take their share of the processors too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from entrepot.config import Config
from entrepot.gateway.parent import Parent
from entrepot.resources.model import Account
from entrepot.snapshot import Compiled, Delta, Published, Revision, decode, difference, encode, publish_files

REGIONS = (
    ("japaneast", "JP", "apac"),
    ("koreacentral", "KR", "apac"),
    ("westeurope", "NL", "eu"),
    ("eastus", "US", "us"),
)
PACKS = ["entrepot:base", "entrepot:openai-api", "entrepot:screening", "entrepot:regional-residency"]
TERRITORIES = ("JP", "DE", "US", "CN")
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
SETTLE_S = 6.0  # what was replaced is freed within that


def key(number: int, which: int = 1) -> str:
    return f"sk-bench-{number}-{which}-0123456789abcdef"


def world_text(organizations: int, upstream: str) -> str:
    """An organization, a subscription and an account each; two deployments an account."""
    text = [
        '[gateway]\nlisten = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"\nterritory = "JP"\n',
        '[[site]]\nnetwork = "127.0.0.0/8"\nterritory = "JP"\nnetwork_class = "business"\n',
        '[[operator]]\nname = "harbour"\nlegal_name = "Harbour Cloud K.K."\nterritory = "JP"\n',
        '[[provider]]\nname = "openai"\n',
        f"[policy]\npacks = {json.dumps(PACKS)}\n",
    ]
    for name, territory, zone in REGIONS:
        text.append(
            f'[[region]]\nname = "{name}"\nterritory = "{territory}"\nzones = ["{zone}"]\noperator = "harbour"\n'
            f'[[upstream]]\nname = "{name}-1"\nprovider = "openai"\nregion = "{name}"\napi = "openai"\n'
            f'base_url = "{upstream}"\ncredential = "none"\n'
            'models = { "gpt-4o@2024-11-20" = "gpt-4o", "gpt-4o-mini@2024-07-18" = "gpt-4o-mini" }\n'
        )
    text += [_client(number) for number in range(organizations)]
    return "".join(text)


def _client(number: int) -> str:
    owners = (
        'owners = [{ name = "A", territory = "JP", share = 60 }, '
        '{ name = "B", territory = "SG", share = 20.5, of = "A" }]\n'
    )
    expires = f"kyc_expires = 20{30 + number % 20}-0{1 + number % 9}-01\n"
    guid = f"00000000-0000-0000-0000-{number:012x}"
    return (
        f'[[organization]]\nname = "org-{number}"\nlegal_name = "Organization {number}"\n'
        f'territory = "{TERRITORIES[number % 4 if number else 0]}"\nentity_type = "enterprise"\nkyc = "approved"\n'
        f'screening = "clear"\n{owners if number % 3 == 0 else ""}{expires if number % 2 else ""}'
        f'eligibility = ["openai@cloud"]\n'
        f'[[subscription]]\nid = "{guid}"\norganization = "org-{number}"\n'
        f'[[account]]\nname = "account-{number}"\nsubscription = "{guid}"\nresource_group = "rg"\n'
        f'location = "{REGIONS[number % 4][0]}"\nchannel = "{"cloud" if number % 4 == 3 else "direct"}"\n'
        f'operator = "harbour"\nkeys = {{ key1 = "{_hash(key(number))}", key2 = "{_hash(key(number, 2))}" }}\n'
        + (
            f'egress = [{{ network = "10.{number // 256 % 256}.{number % 256}.0/24", territory = "JP" }}]\n'
            * (number % 10 == 0)
        )
        + '[[account.deployment]]\nname = "gpt-4o"\nmodel = "gpt-4o"\nversion = "2024-11-20"\nsku = "GlobalStandard"\n'
        "capacity = 1_000_000\n"
        f'[[account.deployment]]\nname = "mini-{number}"\nmodel = "gpt-4o-mini"\nversion = "2024-07-18"\n'
        'sku = "DataZoneStandard"\n'
    )


def _hash(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def timed(what: str, work: Callable[[], Any], times: int = 5) -> Any:
    """Print the median and the worst CPU time, and the worst wall-clock time; return what the last one made."""
    cpu, wall, made = [], [], None
    for _ in range(times):
        made = None
        started = time.perf_counter(), time.process_time()
        made = work()
        wall.append((time.perf_counter() - started[0]) * 1_000)
        cpu.append((time.process_time() - started[1]) * 1_000)
    median = sorted(cpu)[len(cpu) // 2]
    print(f"{what:<46} CPU median {median:8.1f}, worst {max(cpu):8.1f} ms; wall worst {max(wall):8.1f} ms", flush=True)
    return made


def resident_mib(pid: int | str = "self") -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1_024


def last_child() -> int:
    return int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])


def prefer(pid: int, priority: int) -> None:
    """Let it run before all that has no real-time priority: what else the machine does is not what is measured.

    Linux takes the processor from such a one for 50 ms of each second that it fills, so worst cases may be its doing.
    """
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(priority))


def change(published: Published, number: int, after: Revision) -> Delta:
    """One account's state, to and fro."""
    account = published.world.accounts[1 + number % (len(published.world.accounts) - 1)]
    changed: Account = msgspec.structs.replace(account, state="suspended" if number % 2 else "active")
    return Delta(after, Revision(after.epoch, after.n + 1), accounts=(changed,))


def compile_alone(text: str, config: Config) -> Published:
    files = {"world.toml": text.encode()}
    print(f"the world's file: {len(text) / 2**20:.1f} MiB; this process without it: {resident_mib():.0f} MiB")
    published: Published = timed("publish_files: TOML read, checked", lambda: publish_files(files, config), 1)
    print(f"with the world: {resident_mib():.0f} MiB")
    data: bytes = timed("encode, whole", lambda: encode(published))
    print(f"encoded: {len(data) / 2**20:.1f} MiB")
    again: Published = timed("decode, whole", lambda: decode(data))
    timed("difference of two equal worlds", lambda: difference(published, again))
    compiled: Compiled = timed("Compiled.whole", lambda: Compiled.whole(published))
    timed("decode and Compiled.whole, as a worker does", lambda: Compiled.whole(decode(data)))  # type: ignore[arg-type]
    one = change(published, 4, published.revision)
    timed("Compiled.changed, one account", lambda: compiled.changed(one), 50)
    organization = msgspec.structs.replace(published.world.organizations[4], kyc="expired")
    of_org = msgspec.structs.replace(one, accounts=(), organizations=(organization,))
    timed("Compiled.changed, one organization", lambda: compiled.changed(of_org), 50)
    many = msgspec.structs.replace(one, accounts=published.world.accounts[: len(published.world.accounts) // 10])
    timed("Compiled.changed, a tenth of the accounts", lambda: compiled.changed(many))
    timed("encode and decode a change", lambda: decode(encode(one)), 50)
    return published


class Queue:
    """A source that is told what to publish."""

    def __init__(self, first: Published) -> None:
        self.problem: str | None = None
        self.asked: asyncio.Queue[Published | Delta] = asyncio.Queue()
        self._first = first

    async def first(self) -> Published:
        return self._first

    async def changes(self) -> AsyncIterator[Published | Delta]:
        while True:
            yield await self.asked.get()

    def look(self) -> None: ...

    def running(self, revision: Revision, ready: bool) -> None: ...


def probe(address: str, call: str) -> None:
    """Ask until standard input ends, as a process of its own; then print each question's instant and latency (s, ms).

    `call` is a key: then calls are made, about a hundred a second, else the worker's own path is asked, every ms.
    """
    host, _, port = address.rpartition(":")
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\napi-key: {call}\r\ncontent-length: {len(body)}\r\n\r\n"
    asked, pause_s = (head.encode() + body, 0.01) if call else (HEALTH, 0.001)
    found: list[tuple[float, float]] = []
    os.set_blocking(0, False)
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while sys.stdin.buffer.read(1) is None:
            started = time.monotonic()
            sock.sendall(asked)
            answer(sock)
            found.append((started, (time.monotonic() - started) * 1_000))
            time.sleep(pause_s)
    json.dump(found, sys.stdout)


def answer(sock: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65_536)
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"a call failed: {data[:400]!r}")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(rest) < length:
        rest += sock.recv(65_536)


class Prober:
    def __init__(self, address: str, call: str = "") -> None:
        command = [sys.executable, __file__, "--probe", address, "--call", call]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def ended(self) -> list[tuple[float, float]]:
        return [(at, ms) for at, ms in json.loads(self._process.communicate()[0])]


class Changing:
    """A gateway in this process and its child, and what is put into force there."""

    def __init__(self, published: Published, config: Config) -> None:
        self.took_ms: list[float] = []
        self._published = published
        self._revision = published.revision
        self._source = Queue(published)
        self._parent = Parent(self._source, config)
        self._up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._parent.run(lambda data, _: self._up.set_result(data)))

    async def address(self) -> str:
        return (await self._up).removeprefix("http://")

    async def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await self._running

    async def nothing(self) -> None:
        await asyncio.sleep(10.0)

    async def changes(self, count: int) -> None:
        for number in range(count):
            await self._apply(change(self._published, number, self._revision))
            await asyncio.sleep(0.05)

    async def wholes(self, count: int) -> None:
        for _ in range(count):
            revision = Revision(self._revision.epoch, self._revision.n + 1)
            await self._apply(msgspec.structs.replace(self._published, revision=revision))
            await asyncio.sleep(SETTLE_S)

    async def _apply(self, message: Published | Delta) -> None:
        began = time.monotonic()
        self._revision = message.revision
        self._source.asked.put_nowait(message)
        while (await self._parent.readiness()).revision != self._revision.number():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.002)
        self.took_ms.append((time.monotonic() - began) * 1_000)


async def serve_meanwhile(published: Published, config: Config, chosen: argparse.Namespace) -> None:
    """Put wholes and changes into force under light load, and print what the probers saw in each phase."""
    started = time.monotonic()
    gateway = Changing(published, config)
    address = await gateway.address()
    worker = last_child()
    print(f"\ngateway started in {time.monotonic() - started:.1f} s")
    print(f"worker {resident_mib(worker):.0f} MiB, parent {resident_mib():.0f} MiB")
    probers = [Prober(address), Prober(address, key(0))]
    if chosen.realtime:
        prefer(worker, 1)
        for prober in probers:
            prefer(prober.pid, 2)
    await asyncio.sleep(2.0)
    phases: list[tuple[str, float, float]] = []
    for what, work in (
        ("nothing changes", gateway.nothing()),
        (f"{chosen.deltas} changes", gateway.changes(chosen.deltas)),
        (f"{chosen.wholes} wholes", gateway.wholes(chosen.wholes)),
        ("nothing changes, again", gateway.nothing()),
    ):
        began = time.monotonic()
        gateway.took_ms.clear()
        await work
        phases.append((what, began, time.monotonic()))
        took = sorted(gateway.took_ms)
        in_force = f"; in force after {took[len(took) // 2]:.0f} ms, worst {took[-1]:.0f}" if took else ""
        print(f"{what}: worker {resident_mib(worker):.0f} MiB{in_force}", flush=True)
    for name, prober in zip(("prober", "calls"), probers, strict=True):
        seen = await asyncio.to_thread(prober.ended)
        for what, began, ended in phases:
            print(line(f"{name}, {what}", sorted(ms for at, ms in seen if began <= at < ended)))
    await gateway.stop()


def line(what: str, took: list[float]) -> str:
    at = [took[int(len(took) * share)] for share in (0.5, 0.99, 0.999)]
    cuts = "   ".join(f"{name} {ms:6.2f}" for name, ms in zip(("p50", "p99", "p99.9"), at, strict=True))
    return f"{what:<36} {len(took):6} asked   {cuts}   worst {took[-1]:6.2f} ms"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--organizations", type=int, default=10_000, help="default: %(default)s")
    arguments.add_argument("--wholes", type=int, default=3, help="published under load; default: %(default)s")
    arguments.add_argument("--deltas", type=int, default=50, help="published under load; default: %(default)s")
    arguments.add_argument("--realtime", action="store_true", help="worker and probers before all else (as root)")
    arguments.add_argument("--probe", help=argparse.SUPPRESS)
    arguments.add_argument("--call", default="", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.probe:
        probe(chosen.probe, chosen.call)
        return
    with ExitStack() as stack:
        sim = subprocess.Popen([sys.executable, "-m", "entrepot", "sim"], stdout=subprocess.PIPE, text=True)
        stack.callback(sim.wait)
        stack.callback(sim.terminate)
        assert sim.stdout is not None
        found = re.search(r"http://(\S+)", stack.enter_context(sim.stdout).readline())
        assert found is not None
        config = Config.load(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        published = compile_alone(world_text(chosen.organizations, f"http://{found[1]}/v1"), config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_meanwhile(published, config, chosen))


if __name__ == "__main__":
    main()
