"""The follower: what the database says is what the entries say, through restarts, and nothing unproved is in it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from entrepot.ledger import entries as e
from entrepot.ledger.log import Batch
from entrepot.ledger.verify import CHECKPOINT, Key
from entrepot.projections import follower
from entrepot.projections.follow import Logs
from entrepot.projections.follower import Follower, Source, sources_in, usage_of
from entrepot.projections.refusals import Refusals
from entrepot.projections.usage import COUNTS, Cell, Sums, Usage
from entrepot.projections.window import DAY_MS
from entrepot.storage import EVERYTHING, MasterKey, Row, Store, Tenancy
from entrepot.storage.projected import USAGE, Projected
from entrepot.storage.tables import COUNTS as KEPT
from ledgers import NOW_MS, decision, key_of, outcome, write
from tenancies import watched

MASTER = MasterKey(bytes(32))
ACCOUNTS = ("kanto", "Far")


def some_entries(count: int, folder: str) -> list[bytes]:
    """Calls of both accounts with and without outcomes, refusals one by one and in numbers."""
    made: list[bytes] = []
    for number in range(count):
        account = ACCOUNTS[number % 2]
        match number % 5:
            case 0 | 1 | 2:
                made.append(decision(number, account=account)[0])
            case 3:
                made.append(outcome(f"{folder}/{number - 2 - number % 3}", number))
            case _ if number % 10 == 4:
                made.append(decision(number, account=account, admitted=False)[0])
            case _:
                made.append(e.encode(e.Refusals(account, NOW_MS, "limited", "00", 7, NOW_MS, "LIMIT")))
    return made


def grow(data: Path, count: int) -> None:
    """A gateway that writes so many entries more, beside those of its start and end, and its checkpoint."""
    writer = write(data)
    (log,) = [path.name for path in (data / "ledger").iterdir() if path.is_dir()]
    made = some_entries(count, log.replace("_", "/"))
    for start in range(0, count, 97):
        batch = made[start : start + 97]
        writer.append(Batch(batch, [b"s" * 16 + b"{}"] * len(batch)))
    writer.close()


def following(url: str, work: Callable[[Store, Projected], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store = await Store.open(url, MASTER)
        try:
            with watched(store.engine.sync_engine):
                await work(store, Projected(store))
        finally:
            await store.close()

    asyncio.run(run())


def follower_of(projected: Projected, *datas: Path) -> Follower:
    return Follower(projected, lambda: sources_in(datas))


async def agrees(projected: Projected, ledger: Path) -> None:
    usage, refusals = Usage(), Refusals()
    for read in Logs(ledger):
        usage.take(read)
        refusals.take(read)
    usage.finish()
    assert await usage_of(projected, EVERYTHING) == usage.cells
    kept = await projected.refusals(EVERYTHING)
    assert {tuple(row.values())[:5]: row["count"] for row in kept} == {c[:5]: n for c, n in refusals.cells.items()}
    assert usage.cells
    assert refusals.cells


def test_the_database_agrees_with_the_entries(url: str, tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def work(_store: Store, projected: Projected) -> None:
        one = follower_of(projected, data)
        total = 0
        for count in (1300, 3, 600):
            grow(data, count)
            taken = await one.follow()
            assert taken > count
            total += taken
            assert await one.follow() == 0
            # Another one finds nothing left to do.
            assert await follower_of(projected, data).follow() == 0
            assert one.problems == {}
        await agrees(projected, data / "ledger")
        assert [each.size for each in (await projected.followed()).values()] == [total]

    following(url, work)


def test_each_sees_what_its_accounts_used(url: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    grow(data, 50)

    async def work(store: Store, projected: Projected) -> None:
        async with store.change() as change:
            await change.put(Row(id="/s/kanto", kind="account", name="Kanto", operator="north", subscription="s"))
            await change.put(Row(id="/t/far", kind="account", name="far", operator="south", subscription="t"))
            await change.soft_delete("/t/far", 1)
        await follower_of(projected, data).follow()
        for tenancy, accounts in (
            (EVERYTHING, set(ACCOUNTS)),
            (Tenancy(operators=frozenset({"north"})), {"kanto"}),
            (Tenancy(subscriptions=frozenset({"t"})), {"Far"}),
            (Tenancy(), set()),
        ):
            assert {cell.account for cell in await usage_of(projected, tenancy)} == accounts
            assert {each["account"] for each in await projected.refusals(tenancy)} == accounts
            assert {each.account for each in await projected.open_calls(tenancy)} == accounts
        (day,) = {cell.day for cell in await usage_of(projected, EVERYTHING)}
        assert await projected.usage(EVERYTHING, day)
        assert not await projected.usage(EVERYTHING, "", day)
        assert not await projected.refusals(EVERYTHING, "", day)

    following(url, work)


def test_a_name_that_is_taken_anew_brings_nothing_of_who_had_it(url: str, tmp_path: Path) -> None:
    """Whenever it is added up: before the account was purged, after another has the name, or across both."""
    data = tmp_path / "data"
    everything = Tenancy(everything=True)
    first, second = (Tenancy(subscriptions=frozenset({each})) for each in ("s", "t"))

    async def seen(projected: Projected, tenancy: Tenancy) -> tuple[int, int, int]:
        cells = [sums for cell, sums in (await usage_of(projected, tenancy)).items() if cell.account == "kanto"]
        refused = [each["count"] for each in await projected.refusals(tenancy) if each["account"] == "kanto"]
        waiting = [each for each in await projected.open_calls(tenancy) if each.account == "kanto"]
        return sum(each.calls for each in cells), sum(refused), len(waiting)

    async def work(store: Store, projected: Projected) -> None:
        one = follower_of(projected, data)
        born = {"kind": "account", "name": "Kanto"}
        async with store.change() as change:
            await change.put(Row(id="/s/kanto", subscription="s", created_ms=NOW_MS, **born))
        grow(data, 50)
        await one.follow()
        before = await seen(projected, first)
        assert all(before)
        async with store.change() as change:
            await change.soft_delete("/s/kanto", 1)
        assert await seen(projected, first) == before
        async with store.change() as change:
            await change.delete("/s/kanto")
            await change.put(Row(id="/t/kanto", subscription="t", created_ms=NOW_MS + 1_000, **born))
        assert await seen(projected, second) == (0, 0, 0)
        assert await seen(projected, first) == (0, 0, 0)
        assert await seen(projected, everything) == before
        grow(data, 50)  # entries of the first, which were shipped late
        await one.follow()
        assert await seen(projected, second) == (0, 0, 0)
        grown = await seen(projected, everything)
        assert all(now > then for now, then in zip(grown, before, strict=True))
        async with store.change() as change:
            await change.delete("/t/kanto")
            await change.put(Row(id="/t/kanto", subscription="t", created_ms=NOW_MS - 1, **born))
        grow(data, 50)  # what the second does is its own
        await one.follow()
        assert all(await seen(projected, second))

    following(url, work)


def test_several_followers_count_each_entry_once(url: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    grow(data, 1800)

    async def work(store: Store, projected: Projected) -> None:
        other = await Store.open(url, MASTER)
        followers = [follower_of(each, data) for each in (projected, Projected(store), Projected(other))]
        await asyncio.gather(*(each.follow() for each in followers))
        while await followers[0].follow():
            pass
        await agrees(projected, data / "ledger")
        await other.close()

    following(url, work)


def test_logs_are_followed_by_the_keys_that_stand_beside_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    grow(first, 10)
    grow(second, 10)
    assert sources_in([first, tmp_path / "no"]) == [Source(first / "ledger", key_of(first))]

    async def work(_store: Store, projected: Projected) -> None:
        # Another's key of the same name, and one of another name, whose logs these are not.
        strange = Key("other.example/gateway", b"1234", bytes(32))
        for key, problems in ((strange, 0), (key_of(second), 1)):
            one = Follower(projected, lambda key=key: [Source(first / "ledger", key)])  # type: ignore[misc]
            assert await one.follow() == 0
            assert len(one.problems) == problems
        assert await projected.followed() == {}

    following(f"sqlite:///{tmp_path}/control.db", work)


def test_an_outcome_may_come_before_its_decision(url: str, tmp_path: Path) -> None:
    """A process died, the next one wrote its outcomes into another log, and that arrives first."""
    data = tmp_path / "data"
    grow(data, 20)
    (log,) = [path for path in (data / "ledger").iterdir() if path.is_dir()]
    writer = write(data, clock=lambda: NOW_MS + 40 * DAY_MS)
    stray = outcome(f"{log.name.replace('_', '/')}/1")
    writer.append(Batch([stray], [None]))
    writer.close()

    async def work(_store: Store, projected: Projected) -> None:
        one = follower_of(projected, data)
        hidden = log.rename(log.with_name(f".{log.name}"))
        assert await one.follow() > 1
        assert await usage_of(projected, EVERYTHING) == {}
        hidden.rename(log)
        assert await one.follow() > 20
        await agrees(projected, data / "ledger")
        cells = await usage_of(projected, EVERYTHING)
        assert sum(sums.lost for sums in cells.values()) > 0
        assert sum(sums.open for sums in cells.values()) == 0

    following(url, work)


def test_nothing_unproved_is_taken(url: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    grow(data, 700)
    (log,) = [path for path in (data / "ledger").iterdir() if path.is_dir()]
    (segment,) = log.glob("*.entries")

    async def refuses(projected: Projected, says: str) -> None:
        before = (await projected.followed(), await usage_of(projected, EVERYTHING))
        one = follower_of(projected, data)
        assert await one.follow() == 0
        assert says in one.problems[log.name], one.problems
        assert (await projected.followed(), await usage_of(projected, EVERYTHING)) == before

    async def work(_store: Store, projected: Projected) -> None:
        whole = segment.read_bytes()
        at = whole.index(b"guid-500")
        segment.write_bytes(whole[:at] + b"guid-501" + whole[at + 8 :])
        await refuses(projected, "an entry was changed, replaced")
        segment.write_bytes(whole[:at])
        await refuses(projected, "is damaged or missing")
        segment.write_bytes(whole)
        note = (log / CHECKPOINT).read_bytes()
        (log / CHECKPOINT).write_bytes(note.replace(b"\n", b"\n1", 1))
        await refuses(projected, "the signature of")
        (log / CHECKPOINT).write_bytes(note)
        assert await follower_of(projected, data).follow() > 700

        # Later: another history with the same name and key, and none at all.
        shutil.copytree(data, tmp_path / "kept")
        shutil.rmtree(data / "ledger")
        grow(data, 30)
        await refuses(projected, "it was cut back")
        grow(data, 900)
        await refuses(projected, "an entry was changed, replaced")
        shutil.rmtree(log)
        await refuses(projected, "it is missing, and was followed before")
        shutil.rmtree(data / "ledger")
        shutil.copytree(tmp_path / "kept" / "ledger", data / "ledger")
        grow(data, 10)
        assert await follower_of(projected, data).follow() > 10
        await agrees(projected, data / "ledger")

    following(url, work)


def test_a_follower_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    data, url = tmp_path / "data", f"sqlite:///{tmp_path}/control.db"
    grow(data, 3000)
    size = 0
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, __file__, url, str(data)], stdout=subprocess.PIPE, text=True, env=_environment()
        ) as process:
            assert process.stdout is not None
            told = next(int(line) for line in process.stdout if int(line) > size)
            process.kill()
        found: list[int] = []

        async def look(_store: Store, projected: Projected, found: list[int] = found) -> None:
            found.extend(each.size for each in (await projected.followed()).values())

        following(url, look)
        (size,) = found
        assert told <= size < 3000

    async def work(_store: Store, projected: Projected) -> None:
        await follower_of(projected, data).follow()
        await agrees(projected, data / "ledger")

    following(url, work)


def test_a_running_follower_survives_what_it_finds(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def work(_store: Store, projected: Projected) -> None:
        grow(data, 20)
        broken = True

        def sources() -> list[Source]:
            nonlocal broken
            if broken:
                broken = False
                raise RuntimeError
            return [Source(data / "ledger", key_of(data))]

        one = Follower(projected, sources)
        one.again_s = 0.01
        running = asyncio.ensure_future(one.run(0.01))
        for _ in range(3000):
            if await projected.followed():
                break
            await asyncio.sleep(0.01)
        assert await projected.followed()
        running.cancel()
        await asyncio.wait([running])

    following(f"sqlite:///{tmp_path}/control.db", work)


def test_the_table_keeps_every_count_that_entries_add_to() -> None:
    assert set(KEPT) == set(COUNTS) - {"open", "unpriced"}
    assert Cell._fields == (*USAGE, "born_ms")
    assert all(isinstance(getattr(Sums(), name), int) for name in KEPT)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


async def _follow(url: str, data: Path) -> None:
    store = await Store.open(url, MASTER)
    projected = Projected(store)
    follower.STEP = 50

    async def tell() -> None:
        while True:
            size = sum(each.size for each in (await projected.followed()).values())
            os.write(1, f"{size}\n".encode()) if size else None
            await asyncio.sleep(random.random() / 100)

    telling = asyncio.ensure_future(tell())
    await follower_of(projected, data).follow()
    await telling


if __name__ == "__main__":
    asyncio.run(_follow(sys.argv[1], Path(sys.argv[2])))
