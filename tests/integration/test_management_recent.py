"""What requests are decided by is looked at once for those that wait together, and each hears of what was before it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import event

from entrepot.errors import Code, Error
from entrepot.management.recent import Recent
from entrepot.resources.ids import SETTINGS, access_id
from entrepot.storage import MasterKey, Store


async def touch(store: Store, *ids: str) -> tuple[int, int]:
    async with store.change() as tx:
        n = await tx.record(ids[0], 1, b"{}", ids)
    return (await tx.revision())[0], n


def test_marks_tell_what_was_touched_since(tmp_path: Path, url: str) -> None:
    async def run() -> None:
        store = await Store.open(url, MasterKey.generate())
        try:
            recent = Recent(store)
            first = await recent.look()
            assert first == await recent.look()
            settings = await touch(store, SETTINGS.upper())
            assert await recent.look() == (settings, settings)  # the first change of all: nothing is known of before
            await touch(store, access_id("region", "x"))
            assert await recent.look() == (settings, settings)
            access = await touch(store, access_id("principal", "Somebody"), access_id("region", "y"))
            assert await recent.look() == (settings, access)
            assigned = await touch(store, "/subscriptions/x/providers/Microsoft.Authorization/roleAssignments/1")
            assert await recent.look() == (settings, assigned)
            await touch(store, SETTINGS)
            again = await touch(store, access_id("region", "z"))  # seen together: the mark is that of the look
            assert await recent.look() == (again, assigned)
            assert await store.raise_epoch() == 2
            restored = await recent.look()
            assert restored.settings == restored.access == await store.revision()
        finally:
            await store.close()

    asyncio.run(run())


def test_the_first_look_reads_none_of_the_changes_that_were(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(f"sqlite:///{tmp_path / 'control.db'}", MasterKey.generate())
        statements: list[str] = []
        try:
            for each in ("x", "y"):
                await touch(store, access_id("region", each))
            event.listen(
                store.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(str(given[2]))
            )
            recent = Recent(store)
            assert (await recent.look()).access == await store.revision()
            assert statements
            assert not any("touched" in each for each in statements)
            await recent.look()
            assert "touched" in statements[-1]
        finally:
            await store.close()

    asyncio.run(run())


def test_those_that_wait_share_a_look_that_began_after_they_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        store = await Store.open(f"sqlite:///{tmp_path / 'control.db'}", MasterKey.generate())
        look, looks, begun, go = store.touched_since, 0, asyncio.Event(), asyncio.Event()

        async def slow(n: int) -> object:
            nonlocal looks
            looks += 1
            found = await look(n)
            begun.set()
            await go.wait()
            if looks == 2:
                raise Error(Code.NOT_READY, "the database does not answer")
            return found

        monkeypatch.setattr(store, "touched_since", slow)
        try:
            recent = Recent(store)
            before = asyncio.create_task(recent.look())
            await begun.wait()
            at = await touch(store, SETTINGS)  # the look under way has not seen it
            behind = [asyncio.create_task(recent.look()) for _ in range(5)]
            await asyncio.sleep(0)
            go.set()
            assert (await before).settings != at
            told = await asyncio.gather(*behind, return_exceptions=True)
            # The second look failed, which is told to who made it; the others share the third.
            assert [isinstance(each, Error) for each in told] == [True, False, False, False, False]
            assert all(each == (at, at) for each in told[1:])
            assert looks == 3
        finally:
            await store.close()

    asyncio.run(run())
