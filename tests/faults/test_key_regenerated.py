"""Two gateways of two workers each behind a control plane: a key is regenerated, the control plane dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import Fleet, Gateway, Place, World, ask, asked, body_of, opened, until
from people import ACCESS, YANGTZE, Served
from servings import free_ports

WITHIN_S = 1.0
GROUP = "rg"


class House:
    """A control plane that can be killed, two gateways, and two accounts that serve `chat`."""

    def __init__(self, folder: Path, sim_url: str) -> None:
        self.folder, (self._port,) = folder, free_ports(1)
        self.start()
        self.people = Served(folder, {"data plane": "http://127.0.0.1:0", "metrics": ""})
        self.people.upstream(sim_url, "gpt-4o@2024-11-20")
        subscription = self.people.contract("tokyo", {**YANGTZE, "territory": "JP", "registration": None})
        self.group = f"/subscriptions/{subscription}/resourcegroups/{GROUP}"
        self.people.administrator.do("PUT", self.group, location="japaneast")

    def start(self) -> None:
        command = [sys.executable, "-m", "entrepot", "control", "--data", str(self.folder), "--territory=JP"]
        command += [f"--listen=127.0.0.1:{self._port}"]
        with (self.folder.parent / "control.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("managing on "):
            assert line, (self.folder.parent / "control.log").read_text()

    def end(self, signum: int) -> None:
        self.process.send_signal(signum)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def account(self, name: str) -> dict[str, str]:
        """Makes it; its keys."""
        do, path = self.people.administrator.do, self.path(name)
        do("PUT", path, {}, location="japaneast", kind="OpenAI", sku={"name": "S0"})
        model = {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}
        do("PUT", f"{path}/deployments/chat", {"model": model}, sku={"name": "GlobalStandard", "capacity": 5_000})
        keys: dict[str, str] = do("POST", f"{path}/listKeys")
        return keys

    def path(self, name: str) -> str:
        return f"{self.group}/providers/Microsoft.CognitiveServices/accounts/{name}"

    def regenerate(self, name: str) -> str:
        """The new key1."""
        keys = self.people.administrator.do("POST", f"{self.path(name)}/regenerateKey", keyName="Key1")
        return str(keys["key1"])

    def token(self, gateway: str) -> list[str]:
        """Arguments that enrol a gateway."""
        do, path = self.people.administrator.do, f"{ACCESS}/gateways/{gateway}"
        do("PUT", path, {"listen": "127.0.0.1:0", "adminListen": "127.0.0.1:0", "territory": "JP", "workers": 2})
        return ["--control", self.people.url, "--enrol", do("POST", f"{path}/enrol")["token"]]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with simulated(Settings()) as sim:
        made = House(tmp_path / "control", sim.base_url)
        try:
            yield made
        finally:
            made.people.close()
            if made.process.poll() is None:
                made.end(signal.SIGTERM)


def world() -> World:
    """Of the harness: nothing of it is read."""
    return World(Path("nowhere"), [], [])


@contextmanager
def gateways(fleet: Fleet, house: House, folder: Path) -> Iterator[list[Gateway]]:
    with ExitStack() as stack:
        made = []
        for name in ("one", "two"):
            data = ("--data", str(folder / name / "data"))
            made.append(stack.enter_context(fleet.gateway(world(), folder / name, *house.token(name), *data)))
        yield made


def answered(place: Place, key: str) -> int:
    return ask(place, body=body_of("chat", max_tokens=1), key=key).status


class Load:
    """Calls one after the other in threads, until the block ends. Each is (began, answered, status), in seconds."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def of(self, place: Place, key: str, *, fresh: bool) -> list[tuple[float, float, int]]:
        """`fresh`: a connection for each call, so that every worker is met; else one for all."""
        calls: list[tuple[float, float, int]] = []

        def run() -> None:
            with opened(place) as connection:
                while not self._over.is_set():
                    began = time.monotonic()
                    body = body_of("chat", max_tokens=1)
                    answer = ask(place, body=body, key=key) if fresh else asked(connection, body=body, key=key)
                    calls.append((began, time.monotonic(), answer.status))
                    time.sleep(0.005)  # what the account may call in a minute is limited

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        return calls


def test_a_regenerated_key_is_refused_everywhere_at_once_and_nothing_else_fails(
    fleet: Fleet, house: House, tmp_path: Path
) -> None:
    one, other = house.account("acct-one"), house.account("acct-other")
    with gateways(fleet, house, tmp_path) as running:
        for gateway in running:
            assert len(gateway.workers()) == 2
            assert answered(gateway.data, one["key1"]) == 200
        with Load() as load:
            old = [
                load.of(gateway.data, one["key1"], fresh=fresh)
                for gateway in running
                for fresh in (True, True, False, False)
            ]
            rest = [
                load.of(gateway.data, key, fresh=fresh)
                for gateway in running
                for key, fresh in ((one["key2"], False), (one["key2"], True), (other["key1"], False))
            ]
            until(lambda: all(len(calls) >= 5 for calls in old + rest), "everybody calls")
            new = house.regenerate("acct-one")
            told = time.monotonic()
            until(lambda: time.monotonic() > told + WITHIN_S, "a second")
            assert [answered(gateway.data, new) for gateway in running for _ in range(4)] == [200] * 8
            until(lambda: all(calls[-1][2] == 401 for calls in old), "the old key is refused")
        for calls in old:
            assert {status for _, _, status in calls} == {200, 401}
            late = [began - told for began, _, status in calls if status == 200]
            assert max(late) < WITHIN_S
            first = next(at for at, (_, _, status) in enumerate(calls) if status == 401)
            print(
                f"last served with the old key began {max(late) * 1_000:+.0f} ms after the answer; {len(calls)} calls"
            )
            assert len(calls) - first > 3
        assert {status for calls in rest for _, _, status in calls} == {200}
        print(f"{sum(map(len, rest))} other calls, all served")


def test_a_dead_control_plane_is_not_missed_and_its_changes_flow_again(
    fleet: Fleet, house: House, tmp_path: Path
) -> None:
    keys = house.account("acct-one")
    with gateways(fleet, house, tmp_path) as running, Load() as load:
        calls = load.of(running[0].data, keys["key1"], fresh=True)
        until(lambda: len(calls) >= 5, "calls are served")
        house.end(signal.SIGKILL)
        before = len(calls)
        # One gateway is started again, by its folder alone.
        running[1].stop()
        again = ("--control", house.people.url, "--data", str(tmp_path / "two" / "data"))
        with fleet.gateway(world(), tmp_path / "two-again", *again) as restarted:
            assert answered(restarted.data, keys["key1"]) == 200
            until(lambda: len(calls) >= before + 20, "calls go on")
            house.start()
            new = house.regenerate("acct-one")
            places = [running[0].data, restarted.data]
            for place in places:
                until(_status(place, new, 200), "the new key is known")
                until(_status(place, keys["key1"], 401), "the old key is not")
        statuses = [status for _, _, status in calls]
        assert statuses == [200] * statuses.count(200) + [401] * statuses.count(401)
        assert statuses.count(200) > before + 20


def _status(place: Place, key: str, status: int) -> Callable[[], Any]:
    return lambda: answered(place, key) == status
