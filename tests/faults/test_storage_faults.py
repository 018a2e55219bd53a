"""Changes while the database, the connection to it, or the process dies: each happens once or not at all."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from databases import Postgres, cluster, wired
from entrepot.errors import Code, Error
from entrepot.storage import EVERYTHING, MasterKey, Row, Store

MASTER = MasterKey(bytes(32))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with cluster() as server:
        yield server


async def change(store: Store, name: str) -> None:
    async with store.change() as tx:
        await tx.put(Row(id=f"/{name}", kind="thing", name=name))
        await tx.put_secret(f"/{name}", name.encode())
        await tx.record(name, 0, b"{}", (f"/{name}",))


async def look(store: Store, done: set[str], refused: set[str], unclear: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """What was acknowledged is there, what was refused is not, nothing is there in part, and numbers have no gaps."""
    changes = await store.since(0)
    there = {each.id for each in changes}
    assert [each.n for each in changes] == list(range(1, len(changes) + 1))
    assert there - unclear == done - unclear, (done - there, there - done)
    assert not there & refused
    assert {each.name for each in await store.all()} == there == {ref[1:] for ref in await store.secrets()}


@pytest.mark.parametrize("breaks", ["before", "after"])
def test_a_commit_whose_answer_is_lost_is_looked_up(postgres: Postgres, breaks: str) -> None:
    async def work() -> None:
        async with wired(postgres, await postgres.create()) as (wire, url):
            store = await Store.open(url, MASTER)
            done, refused = {"first"}, set[str]()
            await change(store, "first")
            for number in range(5):
                wire.breaks = breaks
                try:
                    await change(store, f"c{number}")
                    done.add(f"c{number}")
                except Error as error:
                    (refused if "nothing was changed" in error.message else done).add(f"c{number}")
                await change(store, f"d{number}")
                done.add(f"d{number}")
            assert wire.broken == 5
            assert len(refused) == (5 if breaks == "before" else 0)
            await look(store, done, refused)
            await store.close()

    asyncio.run(work())


def test_a_commit_that_nobody_can_tell_of_is_said_to_be_open(postgres: Postgres) -> None:
    async def work() -> None:
        async with wired(postgres, await postgres.create()) as (wire, url):
            store = await Store.open(url, MASTER)
            store.writer.settle_s = 0.3
            wire.breaks, wire.then = "before", postgres.kill
            with pytest.raises(Error, match="look whether it happened") as caught:
                await change(store, "a")
            assert (caught.value.code, caught.value.name) == (Code.NOT_READY, "ChangeUncertain")
            await asyncio.to_thread(postgres.start)
            await change(store, "b")
            await look(store, {"b"}, set())
            await store.close()

    asyncio.run(work())


def test_a_server_that_is_killed_loses_and_doubles_nothing(postgres: Postgres) -> None:
    done, refused, unclear = set[str](), set[str](), set[str]()

    async def changes(store: Store, by: int, ended: asyncio.Event) -> None:
        number = 0
        while not ended.is_set():
            name = f"{by}-{number}"
            number += 1
            try:
                await change(store, name)
                done.add(name)
            except Error as error:
                (unclear if error.name == "ChangeUncertain" else refused).add(name)
                await asyncio.sleep(0.05)

    async def work() -> None:
        url = await postgres.create()
        stores = [await Store.open(url, MASTER) for _ in range(2)]
        ended = asyncio.Event()
        writing = [asyncio.ensure_future(changes(store, by, ended)) for by, store in enumerate(stores)]
        for _ in range(3):
            await asyncio.sleep(0.2 + random.random() / 5)
            postgres.kill()
            await asyncio.sleep(random.random() / 5)
            await asyncio.to_thread(postgres.start)
        for each in range(2):  # both go on by themselves
            await change(stores[each], f"again-{each}")
            done.add(f"again-{each}")
        ended.set()
        await asyncio.gather(*writing)
        await look(stores[0], done, refused, unclear)
        for store in stores:
            await store.close()

    asyncio.run(work())
    assert not unclear
    assert refused, "the kills hit nothing"


def test_a_database_that_is_away_is_said_and_nothing_is_stuck(postgres: Postgres) -> None:
    async def work() -> None:
        store = await Store.open(await postgres.create(), MASTER)
        await change(store, "a")
        postgres.kill()
        for _ in range(2):
            with pytest.raises(Error, match="the database does not answer") as caught:
                await store.get(EVERYTHING, "/a")
            assert caught.value.code is Code.NOT_READY
            with pytest.raises(Error, match="nothing was changed"):
                await change(store, "b")
        await asyncio.to_thread(postgres.start)
        assert await store.get(EVERYTHING, "/a")
        await change(store, "b")
        await look(store, {"a", "b"}, set())
        await store.close()

    asyncio.run(work())


def test_a_process_that_is_killed_leaves_whole_changes(tmp_path: Path) -> None:
    """SQLite: what a killed process acknowledged is there, and at most one change more."""
    url = f"sqlite:///{tmp_path}/control.db"
    done: set[str] = set()

    async def check(latest: str | None) -> None:
        store = await Store.open(url, MASTER)
        if latest is not None and await store.get(EVERYTHING, f"/{latest}") is not None:
            done.add(latest)
        await look(store, done, set())
        await store.close()

    for life in range(3):
        with subprocess.Popen(
            [sys.executable, __file__, url, str(life)], stdout=subprocess.PIPE, text=True, env=_environment()
        ) as writer:
            assert writer.stdout is not None
            told = [writer.stdout.readline() for _ in range(random.randrange(1, 12))]
            writer.kill()
            told += writer.stdout.readlines()
        said = [line.strip() for line in told if line.endswith("\n")]
        done |= set(said)
        asyncio.run(check(f"{life}-{len(said)}"))
    assert len(done) >= 3


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


async def _write(url: str, life: str) -> None:
    store = await Store.open(url, MASTER)
    number = 0
    while True:
        await change(store, f"{life}-{number}")
        os.write(1, f"{life}-{number}\n".encode())
        number += 1


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1], sys.argv[2]))


def test_a_database_that_refuses_is_one_that_is_away(postgres: Postgres) -> None:
    async def work() -> None:
        url = await postgres.create()
        store = await Store.open(url, MASTER)
        await change(store, "a")
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE ROLE stranger LOGIN")
        stranger = url.replace("entrepot@", "stranger@")
        nowhere = url.replace("?", "-gone?")
        for refused, says in ((stranger, "permission denied"), (nowhere, "does not exist")):
            with pytest.raises(Error, match=f"the database refuses .*{says}") as caught:
                await Store.open(refused, MASTER)
            assert caught.value.code is Code.NOT_READY
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.close()
        fresh = await Store.open(url, MASTER)  # as after a failover to a standby that is none yet
        with pytest.raises(Error, match=r"the database refuses .*read-only") as caught:
            await change(fresh, "b")
        assert caught.value.code is Code.NOT_READY
        await fresh.close()
        await store.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://x:pw@127.0.0.1:pw/y", "the database's URL cannot be read"),
        ("postgresql://x:pw@127.0.0.1/y?sslmode=some", "the database does not answer .*sslmode"),
    ],
)
def test_an_url_that_cannot_be_read_is_said_without_its_password(url: str, says: str) -> None:
    with pytest.raises(Error, match=says) as caught:
        asyncio.run(Store.open(url, MASTER))
    assert caught.value.code is Code.NOT_READY
    assert "pw" not in str(caught.value)
