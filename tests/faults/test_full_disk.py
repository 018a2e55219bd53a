"""A disk that is really full under a running gateway: nothing goes unrecorded, and when there is room all goes on.

Where the test may mount, the data folder is a small tmpfs, and a file fills it. Elsewhere no file of the gateway may
grow any more (RLIMIT_FSIZE), which its writes meet in the same place with another error. Which it was is printed.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from entrepot.ledger.read import entries_of, folders_of
from entrepot.ledger.verify import ADMITTED, REFUSED, check, find_key
from entrepot.sim.server import simulated
from harness import FROM_CN, FROM_JP, Account, Fleet, Gateway, Upstream, World, ask, asked, body_of, opened, until

DISK_BYTES = 32 << 20
CALLERS = 6
# Run by every Python that the gateway starts: a ledger makes less room ahead of its use, so that it is used up soon.
LITTLE_ROOM = "import entrepot.ledger.store; entrepot.ledger.store.AHEAD = 1 << 20"


class Disk(NamedTuple):
    what: str
    folder: Path
    fill: Callable[[Gateway], None]
    free: Callable[[Gateway], None]


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "entrepot-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        yield Disk("RLIMIT_FSIZE", folder, grow_no_more, grow_again)
        return
    ballast = folder / "ballast"
    try:
        yield Disk("tmpfs", folder, lambda _: fill(ballast), lambda _: ballast.unlink())
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def grow_no_more(gateway: Gateway) -> None:
    limit(gateway, 1 << 20)


def grow_again(gateway: Gateway) -> None:
    limit(gateway, resource.RLIM_INFINITY)


def limit(gateway: Gateway, size: int) -> None:
    for pid in gateway.workers():
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))


class Callers:
    """What each call was answered with, by receipt; and how many were answered without one."""

    def __init__(self, gateway: Gateway, account: Account) -> None:
        self.gateway = gateway
        self.account = account
        self.received: dict[str, int] = {}
        self.unavailable = 0

    def until_unavailable(self, number: int) -> None:
        """Refused calls mostly: they need no upstream, and are decisions all the same."""
        source = FROM_JP if number == 0 else FROM_CN
        with opened(self.gateway.data, source) as connection:
            for _ in range(100_000):
                answer = asked(connection, body=body_of(max_tokens=2), key=self.account.key)
                if answer.status == 503:
                    assert answer.json["error"]["code"] == "ledger_unavailable", answer
                    assert "x-entrepot-receipt" not in answer.headers
                    self.unavailable += 1
                    return
                assert answer.status == (200 if number == 0 else 403), answer
                self.received[answer.headers["x-entrepot-receipt"]] = answer.status
        pytest.fail("the disk never filled")

    def once(self) -> int:
        answer = ask(self.gateway.data, body=body_of(max_tokens=2), key=self.account.key)
        if answer.status == 200:
            self.received[answer.headers["x-entrepot-receipt"]] = 200
        return answer.status


def test_a_full_disk_and_then_room(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(LITTLE_ROOM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    account = Account("kanto")
    with small_disk(tmp_path / "data") as disk, simulated() as sim:
        print(f"the disk is full by {disk.what}")
        world = World(tmp_path / "world", [Upstream("main", sim.base_url)], [account])
        world.write()
        with fleet.gateway(world, tmp_path / "gateway", "--data", str(disk.folder)) as gateway:
            callers = Callers(gateway, account)
            assert callers.once() == 200
            disk.fill(gateway)
            with ThreadPoolExecutor(CALLERS) as pool:
                list(pool.map(callers.until_unavailable, range(CALLERS)))
            served = sim.counters.requests
            assert callers.once() == 503
            assert sim.counters.requests == served, "a call went on unrecorded"
            ready = until(lambda: readyz(gateway) if readyz(gateway)[0] != 200 else None, "readiness is red")
            assert (ready[0], "ledger" in ready[1]) == (503, True)
            disk.free(gateway)
            until(lambda: callers.once() == 200, "it serves again")
            until(lambda: readyz(gateway)[0] == 200, "readiness is green")
            assert callers.once() == 200
            gateway.signal(signal.SIGTERM)  # once: it ends in good order
            assert gateway.wait() == 0
        look(disk.folder, callers)


def readyz(gateway: Gateway) -> tuple[int, str]:
    answer = ask(gateway.admin, "/readyz")
    return answer.status, answer.body.decode()


def look(data: Path, callers: Callers) -> None:
    held = {
        f"{read.origin}/{read.number}": read.entry for log in folders_of(data / "ledger") for read in entries_of(log)
    }
    assert len(callers.received) > 100 > callers.unavailable >= CALLERS
    for place, status in callers.received.items():
        assert held[place].startswith(ADMITTED if status == 200 else REFUSED), place
    (key,) = (data / "keys").glob("*.vkey")
    report = check(data / "ledger", find_key(str(key)))
    assert (report.findings(), report.open_calls()) == ([], 0)
    assert any(entry.startswith(b'{"degraded":') and b'"what":"ledger"' in entry for entry in held.values())
