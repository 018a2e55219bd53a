"""Gateways and control planes over one PostgreSQL, every process restarted in turn while calls go on. By hand:

    .venv/bin/python tests/faults/fleet.py [--gateways 3] [--controls 2] [--rounds 2] [--kill]

Each process has a supervisor as systemd is with a socket unit: it holds the listening sockets, so connections wait
while a process is away. Clients are OpenAI's SDK with `max_retries=0`, and plain HTTP connections that are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import openai  # noqa: E402

from databases import cluster  # noqa: E402
from entrepot.ledger.verify import check, find_key  # noqa: E402
from entrepot.sim.server import simulated  # noqa: E402
from entrepot.sim.settings import Settings  # noqa: E402
from entrepot.storage import EVERYTHING, MasterKey, Store  # noqa: E402
from entrepot.storage.projected import Projected  # noqa: E402
from harness import body_of  # noqa: E402
from people import ACCESS, Served  # noqa: E402

ACCOUNT = "fleet"
PRICE = {"from": "2020-01-01T00:00:00Z", "inputMicros": 2_000_000, "outputMicros": 10_000_000}
BUDGET = {"amountMicros": 1_000_000_000, "period": "month"}


class Process:
    """One of the fleet. `listens` are its addresses; their sockets are held here."""

    def __init__(self, name: str, log: Path, sign: str, environ: dict[str, str], *listens: tuple[str, int]) -> None:
        self.name = name
        self.restarts: list[float] = []
        self._log, self._sign, self._environ = log, sign, environ
        self.sockets = []
        for where in listens:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(1_024)
            self.sockets.append(sock)
        self.master = environ["ENTREPOT_MASTER_KEY"]
        self.words: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        fds = [sock.fileno() for sock in self.sockets]
        passed = " ".join(f"{3 + at}<&{fd}" for at, fd in enumerate(fds))
        script = f'LISTEN_PID=$$ LISTEN_FDS={len(fds)} exec "$@" {passed}'
        command = ["bash", "-c", script, "-", sys.executable, "-m", "entrepot", *self.words]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=fds,
                env=self._environ,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(self._sign):
                return  # nothing else is printed there
        raise RuntimeError(f"{self.name} did not start: {self._log.read_text()[-2_000:]}")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            status = self._process.wait(60)
            if self._process.stdout is not None:
                self._process.stdout.close()
            if status != 0:
                raise RuntimeError(f"{self.name} ended with {status}")

    def end(self) -> None:
        try:
            self.stop()
        finally:
            for sock in self.sockets:
                sock.close()
            if self._process is not None and self._process.stdout is not None:
                self._process.stdout.close()

    def kill(self) -> None:
        """All of it, workers too."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def restart(self, *, kill: bool = False) -> None:
        begun = time.monotonic()
        if kill:
            self.kill()
        self.stop()
        self.start()
        self.restarts.append(time.monotonic() - begun)


class Load:
    """Threads that call without pause and never try again. `results` counts what came of it, by kind of client."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.failures: list[str] = []
        self.longest = 0.0
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._closing: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def add(self, kind: str, call: Callable[[], None], close: Callable[[], None] = lambda: None) -> None:
        self._closing.append(close)
        thread = threading.Thread(target=self._run, args=(kind, call), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, kind: str, call: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            begun = time.monotonic()
            failure = ""
            try:
                call()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                failure = f"{kind}: {type(error).__name__}: {error}"[:300]
            with self._lock:
                self.longest = max(self.longest, time.monotonic() - begun)
                self.results[f"{kind} {'failed' if failure else 'served'}"] += 1
                if failure:
                    self.failures.append(failure)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        for close in self._closing:
            close()


def by_sdk(url: str, key: str, *, stream: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """A call, and what closes the client."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)

    def call() -> None:
        given: Any = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
        if stream:
            assert list(client.chat.completions.create(**given, stream=True))
        else:
            assert client.chat.completions.create(**given).choices

    return call, client.close


def by_hand(where: tuple[str, int], key: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """One connection that is kept for as long as the gateway lets it, then another."""
    kept: list[http.client.HTTPConnection] = []

    def call() -> None:
        if kept and select.select([kept[0].sock], [], [], 0)[0]:  # closed meanwhile: every pool looks first
            kept.pop().close()
        if not kept:
            kept.append(http.client.HTTPConnection(*where, timeout=60))
        try:
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            kept[0].request("POST", "/v1/chat/completions", body_of("chat"), headers)
            answer = kept[0].getresponse()
            assert answer.read()
            assert answer.status == 200, answer.status
            if answer.getheader("connection") == "close":
                kept.pop().close()
        except BaseException:
            kept.pop().close()
            raise

    def close() -> None:
        for each in kept:
            each.close()

    return call, close


def by_management(houses: list[Served]) -> Callable[[], None]:
    """Changes and reads, at one control plane after the other."""
    turn = iter(range(1 << 30))

    def call() -> None:
        number = next(turn)
        who = houses[number % len(houses)].administrator
        who.do("PUT", f"{ACCESS}/providers/turn", {"legalName": f"turn {number}"})
        time.sleep(0.1)

    return call


@contextmanager
def fleet(
    home: Path, database: str, gateways: int, controls: int, sim: str, store: str | None = None
) -> Iterator[tuple[list[Process], list[Process], list[Served], str]]:
    """Running; and the key of an account. With a `store` of limits it has a budget, and gateways have two workers."""
    environ = {**os.environ, "ENTREPOT_DATABASE": database, "ENTREPOT_MASTER_KEY": MasterKey.generate().text()}
    planes, edges, houses = [], [], []
    with ExitStack() as stack:
        for number in range(controls):
            where = (f"127.0.0.{11 + number}", 0)
            plane = Process(f"control-{number + 1}", home / f"control-{number + 1}.log", "managing on ", environ, where)
            stack.callback(plane.end)
            port = plane.sockets[0].getsockname()[1]
            data = home / plane.name
            if planes:  # one instance has one authority
                (data / "ca").mkdir(parents=True)
                for name in ("ca.pem", "ca.key"):
                    shutil.copy(home / planes[0].name / "ca" / name, data / "ca")
            plane.words = ["control", "--data", str(data), "--listen", f"{where[0]}:{port}", "--territory=JP"]
            plane.words += ["--url", "https://localhost", "--data-url", "http://127.0.0.21:8080"]
            plane.start()
            planes.append(plane)
            if number:
                (data / "admin.secret").write_text((home / planes[0].name / "admin.secret").read_text())
            houses.append(_house(data, f"https://{where[0]}:{port}"))
        do = houses[0].administrator.do
        houses[0].upstream(sim, "gpt-4o@2024-11-20")
        do("PUT", f"{ACCESS}/models/gpt-4o@2024-11-20", {"provider": "openai", "prices": [PRICE]})
        key = _account(houses[0], {} if store is None else {"limits": {"budgets": [BUDGET]}})
        urls = [house.url for house in houses]
        for number in range(gateways):
            name, where = f"edge-{number + 1}", (f"127.0.0.{21 + number}", 0)
            edge = Process(name, home / f"{name}.log", "serving ", environ, where, where)
            stack.callback(edge.end)
            ports = [sock.getsockname()[1] for sock in edge.sockets]
            properties: dict[str, Any] = {
                "territory": "JP",
                "listen": f"{where[0]}:{ports[0]}",
                "adminListen": f"{where[0]}:{ports[1]}",
            }
            if store is not None:
                properties |= {"workers": 2, "limitStore": {"url": store}}
            do("PUT", f"{ACCESS}/gateways/{name}", properties)
            token = do("POST", f"{ACCESS}/gateways/{name}/enrol")["token"]
            edge.words = ["gateway", "--data", str(home / name), "--enrol", token]
            edge.words += [word for url in urls for word in ("--control", url)]
            edge.start()
            edges.append(edge)
        yield planes, edges, houses, key
        for house in houses:
            house.close()


def _house(data: Path, url: str) -> Served:
    told = data / "control.json"
    told.write_text(told.read_text().replace("https://localhost", url))
    return Served(data, {"data plane": "http://127.0.0.21:8080", "metrics": ""})


def _account(house: Served, properties: dict[str, Any]) -> str:
    do = house.administrator.do
    (subscription,) = do("GET", "/subscriptions")["value"]
    group = f"/subscriptions/{subscription['subscriptionId']}/resourceGroups/fleet"
    do("PUT", group, location="japaneast")
    at = f"{group}/providers/Microsoft.CognitiveServices/accounts/{ACCOUNT}"
    do("PUT", at, properties, location="japaneast", kind="OpenAI", sku={"name": "S0"})
    model = {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}
    do("PUT", f"{at}/deployments/chat", {"model": model}, sku={"name": "GlobalStandard", "capacity": 1_000})
    return str(do("POST", f"{at}/listKeys")["key1"])


def roll(
    home: Path,
    *,
    gateways: int,
    controls: int,
    rounds: int,
    clients: int,
    pause_s: float,
    spared: int = 0,
    kill: bool = False,
) -> Load:
    """Every process restarted so many times in turn, under load; of the control planes, `spared` are not.

    What came of the calls; raises where the ledgers, and their copies, do not have them all.
    """
    load = Load()
    with cluster() as server, simulated(Settings(api="openai")) as sim:
        database = _create(server)
        with fleet(home, database, gateways, controls, sim.base_url) as (planes, edges, houses, key):
            for edge in edges:
                host, port = edge.sockets[0].getsockname()
                for number in range(clients):
                    load.add("sdk", *by_sdk(f"http://{host}:{port}", key, stream=number % 2 == 1))
                    load.add("plain", *by_hand((host, port), key))
            managing = Load()
            managing.add("management", by_management(houses))
            time.sleep(pause_s)
            for _ in range(rounds):
                for process in (*edges, *planes[spared:]):
                    process.restart()
                    time.sleep(pause_s)
            if kill:
                _kill(server, edges, planes, load, pause_s)
            managing.stop()
            load.stop()
            for process in (*edges, *planes):
                took = ", ".join(f"{each:.1f}" for each in process.restarts)
                print(f"{process.name}: restarted {len(process.restarts)} times, away for {took} s")
            print(f"calls: {dict(load.results)}; the longest took {load.longest:.1f} s")
            print(f"changes, each tried once: {dict(managing.results)}; the longest took {managing.longest:.1f} s")
            for failure, number in Counter([*load.failures, *managing.failures]).most_common(8):
                print(f"  {number} times {failure}")
            served = sum(number for kind, number in load.results.items() if kind.endswith("served"))
            found = counted(home, [edge.name for edge in edges], [plane.name for plane in planes])
            print(f"in the ledgers: {found} admitted calls; all copies at all control planes proved")
            assert found >= served, (found, served)
            asyncio.run(added_up(database, planes[0].master, found))
            print("in the database: as many, each once")
    return load


def _kill(server: Any, edges: list[Process], planes: list[Process], load: Load, pause_s: float) -> None:
    """What calls do not need is killed first: no call may fail for it. Then gateways, whose calls under way fail."""
    before = load.results.copy()
    server.kill()
    time.sleep(3 * pause_s)
    server.start()
    for plane in planes:
        plane.restart(kill=True)
        time.sleep(pause_s)
    print(f"while PostgreSQL was away, and each control plane killed: {dict(load.results - before)}")
    before, unexpected = load.results.copy(), len(load.failures)
    for edge in edges:
        edge.restart(kill=True)
        time.sleep(pause_s)
    print(f"while each gateway was killed, with its workers: {dict(load.results - before)}")
    del load.failures[unexpected:]  # what was under way


def _create(server: Any) -> str:
    return str(asyncio.run(server.create()))


def counted(home: Path, edges: list[str], planes: list[str]) -> int:
    """Admitted calls in the gateways' ledgers, once each copy of them has as many and is proved."""
    total = 0
    for edge in edges:
        key = find_key(str(home / edge / "keys" / f"{edge}.vkey"))
        wanted = _decisions(home / edge / "ledger", key)
        for plane in planes:
            deadline = time.monotonic() + 30
            while True:
                found, findings = 0, ["not there"]
                copy = home / plane / "shipped" / edge / "ledger"
                if (copy / "logs").exists():
                    found, findings = _decisions(copy, key), check(copy, key).findings()
                if found == wanted and not findings:
                    break
                assert time.monotonic() < deadline, (edge, plane, wanted, found, findings)
                time.sleep(0.2)
        total += wanted
    return total


async def added_up(database: str, master: str, wanted: int) -> None:
    store = await Store.open(database, MasterKey.from_env({"ENTREPOT_MASTER_KEY": master}))
    try:
        deadline = time.monotonic() + 60
        while True:
            projected = Projected(store)
            found = sum(row["calls"] for row in await projected.usage(EVERYTHING))
            found += len(await projected.open_calls(EVERYTHING))
            if found == wanted:
                return
            assert time.monotonic() < deadline, (found, wanted)
            await asyncio.sleep(0.5)
    finally:
        await store.close()


def _decisions(ledger: Path, key: Any) -> int:
    proved = check(ledger, key)
    return proved.calls.decisions


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("gateways", 3), ("controls", 2), ("rounds", 2), ("clients", 4)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--kill", action="store_true", help="then PostgreSQL and each process with SIGKILL")
    given = vars(arguments.parse_args())
    with tempfile.TemporaryDirectory(prefix="entrepot-fleet-") as home:
        load = roll(Path(home), pause_s=2.0, **given)
    sys.exit(1 if load.failures else 0)


if __name__ == "__main__":
    main()
