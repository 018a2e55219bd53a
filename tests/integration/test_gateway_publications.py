"""What a source publishes reaches every worker: wholes and changes, in order, also those that started later."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from entrepot.config import Config
from entrepot.gateway.parent import Parent
from entrepot.resources import model
from entrepot.sim.server import simulated
from entrepot.snapshot import Delta, Published, Revision, publish_files
from harness import BASE_PACK, Account, Place, Upstream, World, ask, body_of

ONE, TWO, LATER = Account("one"), Account("two"), Account("later")


class Queue:
    """A source that is told what to publish, and remembers what it is told."""

    def __init__(self, first: Published) -> None:
        self.problem: str | None = None
        self.asked: asyncio.Queue[Published | Delta] = asyncio.Queue()
        self.told: list[tuple[Revision, bool]] = []
        self.looked = 0
        self._first = first

    async def first(self) -> Published:
        return self._first

    async def changes(self) -> AsyncIterator[Published | Delta]:
        while True:
            yield await self.asked.get()

    def look(self) -> None:
        self.looked += 1

    def running(self, revision: Revision, ready: bool) -> None:
        self.told.append((revision, ready))


class Stage:
    """`served` is all that the source knows; `without` is the first publication."""

    def __init__(self, served: Published, without: Published) -> None:
        self.served = served
        self.source = Queue(without)
        self.revision = without.revision
        self.place = Place("", 0)
        self.parent: Parent

    def publish(self, after: Revision | None = None, **what: Any) -> None:
        after, self.revision = after or self.revision, Revision(self.revision.epoch, self.revision.n + 1)
        self.source.asked.put_nowait(Delta(after, self.revision, **what))

    def whole(self, published: Published) -> None:
        self.revision = Revision(self.revision.epoch, self.revision.n + 1)
        self.source.asked.put_nowait(msgspec.structs.replace(published, revision=self.revision))

    def account(self, name: str, **changed: Any) -> tuple[model.Account]:
        (found,) = [each for each in self.served.world.accounts if each.name == name]
        return (msgspec.structs.replace(found, **changed),)

    async def statuses(self) -> list[int]:
        def each() -> list[int]:
            return [ask(self.place, body=body_of(), key=account.key).status for account in (ONE, TWO, LATER)]

        return await asyncio.to_thread(each)

    async def in_force(self, statuses: list[int]) -> None:
        async def reached() -> bool:
            return (await self.parent.readiness()).revision == self.revision.number()

        await until(reached)
        assert await self.statuses() == statuses


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.02)


def kill_workers() -> None:
    """Those of a parent in this process: workers of others are not its children."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if b"entrepot.gateway.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)


def on_stage(tmp_path: Path, play: Callable[[Stage], Coroutine[Any, Any, None]], workers: int = 1) -> None:
    with simulated() as sim:
        text = World(Path(), [Upstream("main", sim.base_url)], [ONE, TWO, LATER]).text()
        files = {"world.toml": text.encode(), "packs/base.toml": BASE_PACK.encode()}
        config = Config(tmp_path, {**os.environ, "UPSTREAM_KEY": "the-operators-key"})
        served = publish_files(files, config, Revision(3, 1))
        clients = {
            "organizations": served.world.organizations[:2],
            "subscriptions": served.world.subscriptions[:2],
            "accounts": served.world.accounts[:2],
        }
        stage = Stage(served, msgspec.structs.replace(served, world=msgspec.structs.replace(served.world, **clients)))
        asyncio.run(_play(stage, config, workers, play))


async def _play(stage: Stage, config: Config, workers: int, play: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    stage.parent = Parent(stage.source, config, workers)
    up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(stage.parent.run(lambda data, _: up.set_result(data)))
    try:
        host, _, port = (await up).removeprefix("http://").rpartition(":")
        stage.place = Place(host, int(port))
        await play(stage)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await running


def test_changes_and_wholes_in_turn(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.in_force([200, 200, 401])
        world = stage.served.world
        stage.publish(accounts=stage.account("two", state="suspended"))
        await stage.in_force([200, 403, 401])
        stage.publish(
            organizations=world.organizations[2:], subscriptions=world.subscriptions[2:], accounts=world.accounts[2:]
        )
        stage.publish(gone=(("account", "one"),))
        await stage.in_force([401, 403, 200])
        stage.whole(stage.served)
        stage.publish(accounts=stage.account("later", state="suspended"))
        await stage.in_force([200, 200, 403])
        assert stage.source.told[-1] == (stage.revision, True)
        assert stage.revision == Revision(3, 6)

    on_stage(tmp_path, play, workers=2)


def test_a_change_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        running = stage.revision
        stage.publish(after=Revision(3, 9), gone=(("account", "one"),))

        async def told() -> bool:
            return (await stage.parent.readiness()).problem is not None

        await until(told)
        stage.publish(after=running, accounts=stage.account("two", location="nowhere"))
        await asyncio.sleep(0.1)
        readiness = await stage.parent.readiness()
        assert (readiness.revision, readiness.ready) == (running.number(), True)
        assert "nowhere" in (readiness.problem or "")
        assert stage.source.told[-1] == (running, True)
        assert await stage.statuses() == [200, 200, 401]
        stage.whole(stage.served)
        await stage.in_force([200, 200, 200])
        assert (await stage.parent.readiness()).problem is None

    on_stage(tmp_path, play)


def test_a_worker_that_starts_later_gets_the_whole_as_it_is(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        world = stage.served.world
        stage.publish(gone=(("account", "one"),))
        stage.publish(
            organizations=world.organizations[2:], subscriptions=world.subscriptions[2:], accounts=world.accounts[2:]
        )
        await stage.in_force([401, 200, 200])
        kill_workers()

        async def gone() -> bool:
            return not (await stage.parent.readiness()).ready

        await until(gone)
        for state in ("suspended", "active", "suspended"):
            stage.publish(accounts=stage.account("two", state=state))
        await stage.in_force([401, 403, 200])
        stage.publish(accounts=stage.account("two", state="active"))
        await stage.in_force([401, 200, 200])

    on_stage(tmp_path, play)


def test_sighup_has_the_source_look_again(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.1)
        assert stage.source.looked == 1

    on_stage(tmp_path, play)
