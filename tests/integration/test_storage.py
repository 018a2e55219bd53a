"""The store means the same on SQLite and on PostgreSQL, each a real one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Select, select, text
from sqlalchemy.exc import DBAPIError

from entrepot.errors import Code, Error
from entrepot.storage import EVERYTHING, MasterKey, Row, Store, Tenancy, Transaction
from entrepot.storage.bound import TENANCY, bound, instance_wide
from entrepot.storage.engine import open_engine
from entrepot.storage.master import fresh_path
from entrepot.storage.migrate import migrate, revisions
from entrepot.storage.projected import Followed, Projected
from entrepot.storage.rotation import rotate_file
from entrepot.storage.tables import metadata, resources
from tenancies import watched

MASTER = MasterKey.generate()
NOW_MS = 1_795_000_000_000
NORTH, SOUTH = Tenancy(operators=frozenset({"north"})), Tenancy(operators=frozenset({"south"}))
Work = Callable[[], Coroutine[Any, Any, None]]


def opened(url: str, work: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store = await Store.open(url, MASTER, now_ms=lambda: NOW_MS)
        try:
            with watched(store.engine.sync_engine):
                await work(store)
        finally:
            await store.close()

    asyncio.run(run())


def row(key: str, kind: str = "thing", **more: Any) -> Row:
    return Row(**{"id": key, "kind": kind, "name": key.rpartition("/")[2], "created_by": "me", **more})


async def put(store: Store, *rows: Row) -> None:
    async with store.change() as change:
        for each in rows:
            await change.put(each)


async def ids(store: Store, tenancy: Tenancy = EVERYTHING, kind: str = "thing", **more: Any) -> list[str]:
    return [each.id for each in await store.list(tenancy, kind, **more)]


def test_rows_come_back_as_they_were(url: str) -> None:
    async def work(store: Store) -> None:
        body = {"properties": {"größe": [1, 2.5, None, True], "nul": "\0", "later": {"unknown": 2**53}}, "tags": {}}
        given = row("/Subscriptions/S", body=body, operator="north", subscription="s", parent="", changed_ms=7)
        async with store.change() as change:
            written = await change.put(given)
            assert await change.get(EVERYTHING, "/SUBSCRIPTIONS/s") == written
        assert await store.get(EVERYTHING, "/subscriptions/S") == written
        assert (written.body, written.id, len(written.etag)) == (body, "/Subscriptions/S", 16)
        async with store.change() as change:
            again = await change.put(row("/subscriptions/s", created_by="another", changed_by="another"))
        assert (again.id, again.created_by, again.changed_by) == ("/Subscriptions/S", "me", "another")
        assert again.etag != written.etag
        for odd in ("\0", "\ud800", ""):
            assert await store.get(EVERYTHING, f"/subscriptions/s{odd}x") is None
            assert await ids(store, under=f"/nowhere{odd}") == []

    opened(url, work)


def test_lists_are_in_the_order_of_ids_whatever_stands_in_them(url: str) -> None:
    names = ["/a", "/A/b", "/a/b-c", "/a/b/c", "/a/b/C/d", "/a/b%", "/a/b_", "/a/bé", "/a0", "/ab/c", "/Z"]

    async def work(store: Store) -> None:
        await put(store, *(row(name) for name in reversed(names)), row("/a/other", "other"))
        there = sorted(names, key=str.lower)
        assert await ids(store) == there
        assert await ids(store, kind="other") == ["/a/other"]
        assert await ids(store, kind="") == sorted([*names, "/a/other"], key=str.lower)
        assert await ids(store, under="/A/B") == ["/a/b/c", "/a/b/C/d"]
        assert await ids(store, under="/") == there
        assert await ids(store, under="/a") == [name for name in there if name.lower().startswith("/a/")]
        assert await ids(store, limit=3) + await ids(store, after=there[2]) == there
        assert await ids(store, under="/a", limit=2, after="/a/b") == ["/a/b%", "/a/b-c"]

    opened(url, work)


def test_a_writer_says_what_it_expects(url: str) -> None:
    async def work(store: Store) -> None:
        async with store.change() as change:
            first = await change.put(row("/x"), if_none_match=True)
            second = await change.put(row("/x"), if_match=first.etag)
            third = await change.put(row("/x"), if_match="*")
        for wrong in ({"if_none_match": True}, {"if_match": second.etag}):
            assert await refused(store, lambda tx, w=wrong: tx.put(row("/x"), **w)) == Code.PRECONDITION_FAILED
        assert await refused(store, lambda tx: tx.put(row("/y"), if_match="*")) == Code.PRECONDITION_FAILED
        for gone in (Transaction.delete, lambda *a, **k: Transaction.soft_delete(*a, 5, **k)):
            assert await refused(store, lambda tx, g=gone: g(tx, "/x", if_match="no")) == Code.PRECONDITION_FAILED
            assert await refused(store, lambda tx, g=gone: g(tx, "/y", if_match="*")) == Code.PRECONDITION_FAILED
        assert await refused(store, lambda tx: tx.put(row("/\0"))) == Code.INVALID_BODY
        assert await refused(store, lambda tx: tx.put(row("/\ud800"))) == Code.INVALID_BODY
        assert await store.get(EVERYTHING, "/x") == third
        async with store.change() as change:
            assert await change.delete("/x", if_match=third.etag) == [third]
            assert await change.delete("/x") == []
            assert await change.soft_delete("/x", 1) == []
            assert await change.recover("/x") == []

    opened(url, work)


async def refused(store: Store, what: Callable[[Transaction], Coroutine[Any, Any, Any]]) -> Code:
    before = await store.whole()

    async def fail() -> None:
        async with store.change() as change:
            await change.put(row("/before-it-fails"))
            await change.record("before it fails", 0, b"", ())
            await what(change)

    with pytest.raises(Error) as caught:
        await fail()
    assert await store.whole() == before, "what came before the mistake is there"
    return caught.value.code


def test_soft_deleted_rows_come_back_or_go_for_good(url: str) -> None:
    async def work(store: Store) -> None:
        account = row("/g/a", "account", name="Shop")
        await put(store, row("/g"), account, row("/g/a/d"), row("/g/ab"))
        async with store.change() as change:
            await change.delete("/g/a/d")
            await change.put(row("/g/a/e"))
            hidden = await change.soft_delete("/G/A", NOW_MS + 5)
        assert [each.id for each in hidden] == ["/g/a", "/g/a/e"]
        assert (hidden[0].deleted_ms, hidden[0].purge_ms) == (NOW_MS, NOW_MS + 5)
        assert await store.get(EVERYTHING, "/g/a") is None
        assert await store.get(EVERYTHING, "/g/a", deleted=True) == hidden[0]
        assert await store.list(EVERYTHING, "", deleted=True) == hidden
        assert await ids(store, kind="") == ["/g", "/g/ab"] == [each.id for each in await store.all()]
        # A plain write does not bring it back, its name stays taken, and a group that goes leaves it.
        assert await refused(store, lambda tx: tx.put(account)) == Code.CONFLICT
        assert await refused(store, lambda tx: tx.put(account, if_match="*")) == Code.CONFLICT
        assert await refused(store, lambda tx: tx.put(row("/g/other", "account", name="sHOP"))) == Code.CONFLICT
        async with store.change() as change:
            assert [each.id for each in await change.delete("/g")] == ["/g", "/g/ab"]
            back = await change.recover("/g/a")
            assert await change.soft_delete("/g/a", 1)
            assert [each.id for each in await change.recover("/g/a")] == ["/g/a", "/g/a/e"]
        assert [each.deleted_ms for each in back] == [None, None]
        assert await refused(store, lambda tx: tx.put(row("/h/a", "account", name="shop"))) == Code.CONFLICT
        async with store.change() as change:
            (again, *_) = await change.soft_delete("/g/a", 1)
            await change.put(account, if_match=again.etag)
            await change.soft_delete("/g/a", 1)
            assert [each.id for each in await change.delete("/g/a")] == ["/g/a", "/g/a/e"]
            await change.put(row("/h/a", "account", name="shop"))

    opened(url, work)


def test_nobody_sees_the_rows_of_others(url: str) -> None:
    async def work(store: Store) -> None:
        await put(
            store,
            row("/catalogue"),
            row("/instance", operator=""),
            row("/north", operator="north"),
            row("/south", operator="south"),
            row("/n1", operator="north", subscription="n1"),
            row("/s1", operator="south", subscription="s1"),
        )
        assert await ids(store, Tenancy()) == ["/catalogue"]
        assert await ids(store, NORTH) == ["/catalogue", "/n1", "/north"]
        assert await ids(store, Tenancy(subscriptions=frozenset({"s1", "x"}))) == ["/catalogue", "/s1"]
        assert len(await ids(store)) == 6
        assert await store.get(NORTH, "/s1") is None
        async with store.change() as change:
            await change.soft_delete("/s1", 1)
            assert [each.id for each in await change.list(SOUTH, "", under="/")] == ["/catalogue", "/south"]
            assert await change.get(NORTH, "/s1", deleted=True) is None
            assert await change.get(SOUTH, "/s1", deleted=True)
        assert await ids(store, NORTH, deleted=True) == []
        assert await ids(store, SOUTH, deleted=True) == ["/s1"]

    opened(url, work)


def test_every_method_binds_its_statements(url: str) -> None:
    """`opened` watches them all; here each public method is called, and what looks like a method but is not watched is
    found out."""
    called: set[str] = set()

    def tried(name: str) -> None:
        called.add(name)

    async def work(store: Store) -> None:
        with watched() as watch:
            for tenancy in (NORTH, EVERYTHING):
                await store.get(tenancy, "/x")
                await store.list(tenancy, "thing", under="/", after="/a", limit=1)
            async with store.change() as tx:
                await tx.put(row("/x"))
                await tx.put(row("/x"))
                await tx.put(row("/y", "account"))
                await tx.get(NORTH, "/x")
                await tx.list(NORTH, "")
                await tx.all()
                await tx.soft_delete("/x", 1)
                await tx.recover("/x")
                await tx.delete("/x")
                await tx.put_secret("a", b"")
                await tx.secret("a")
                await tx.secrets("")
                await tx.forget_secret("a")
                await tx.forget_secrets("a")
                await tx.revision()
                await tx.record("id", 1, b"{}", ())
                await tx.hold({"s"}, {"/x", "/providers/z"}, {"y"})
                await tx.put(row("/y", "account"))
                await tx.list(NORTH, "thing")
                await tx.send()
            for method in (store.all, store.whole, store.revision, store.instance, store.unplaced, store.raise_epoch):
                await method()
                tried(method.__name__)
            await asyncio.gather(store.since(0), store.touched_since(0))
            await store.recorded(1)
            await store.placed({1: "log/1"})
            await store.secret("a")
            await store.secrets("")
            await store.rotate(MasterKey.generate())
        assert watch.bound > 4
        assert all(reason.count(" ") > 3 for reason in watch.reasons)

    opened(url, work)
    for kind in (Store, Transaction):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            source = inspect.getsource(test_every_method_binds_its_statements)
            assert name.startswith("_") or name in {"close", "open"} or f".{name}" in source, f"{kind}.{name}"
            del method


def test_the_watch_finds_what_is_not_bound(url: str) -> None:
    everything = select(resources.c.key)
    nested = select(resources.c.key).where(resources.c.key.in_(everything))
    either = bound(everything, resources, NORTH).whereclause
    assert either is not None
    bad: list[Any] = [
        everything,
        text("SELECT key FROM resources"),
        text("DELETE FROM secrets"),
        bound(nested, resources, NORTH),  # the inner one is not
        everything.where(either | (resources.c.key == "x")).execution_options(**{TENANCY: NORTH}),  # got round
        bound(everything, resources, SOUTH).execution_options(**{TENANCY: NORTH}),  # to another
        instance_wide(everything, ""),
    ]
    good: list[Select[Any]] = [bound(everything, resources, NORTH), bound(everything, resources, EVERYTHING)]

    async def work(store: Store) -> None:
        async with store.engine.connect() as connection:
            for statement in good:
                with watched():
                    await connection.execute(statement)
            for statement in bad:
                with pytest.raises(AssertionError, match="not bound"), watched():
                    await connection.execute(statement)

    async def run() -> None:
        store = await Store.open(url, MASTER)
        await work(store)
        await store.close()

    asyncio.run(run())


def test_changes_are_numbered_as_they_are_committed(url: str) -> None:
    async def work(store: Store) -> None:
        other = await Store.open(url, MASTER)
        acknowledged: list[int] = []

        async def change(by: Store, number: int) -> None:
            try:
                async with by.change() as tx:
                    before = (await tx.revision())[1]
                    n = await tx.record(f"change-{number}", number, b'{"n":%d}' % number, (f"/{number}",))
                    assert n == before + 1
                    await asyncio.sleep(0)
                    await tx.put(row(f"/{number}"))
                    assert number // (number % 5)
                assert (await by.revision())[1] >= n
                acknowledged.append(n)
            except ZeroDivisionError:
                pass

        await asyncio.gather(*(change((store, other)[number % 2], number) for number in range(40)))
        assert sorted(acknowledged) == list(range(1, 33)) == [each.n for each in await store.since(0)]
        assert await store.revision() == (1, 32)
        changes = await other.since(30)
        assert [(each.entry, each.touched, each.place) for each in changes] == [
            (b'{"n":%d}' % each.at_ms, (f"/{each.at_ms}",), None) for each in changes
        ]
        assert await refused(store, lambda tx: tx.record(changes[0].id, 0, b"", ())) == Code.CONFLICT
        await store.placed({1: "log/7"})
        assert [each.n for each in await other.unplaced()] == list(range(2, 33))
        assert (await other.recorded(1)).place == "log/7"
        assert await other.recorded(99) is None
        assert await other.raise_epoch() == 2
        assert await store.revision() == (2, 32)
        await other.close()

    opened(url, work)


def test_a_cancelled_change_is_whole_or_not_at_all(url: str) -> None:
    async def work(store: Store) -> None:
        async def change(number: int) -> None:
            async with store.change() as tx:
                await tx.put(row(f"/{number}/a"))
                await tx.put(row(f"/{number}/b"))
                await tx.record(str(number), 0, b"", ())

        for number in range(30):
            task = asyncio.ensure_future(change(number))
            for _ in range(number):
                await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.wait([task])
        recorded = {each.id for each in await store.since(0)}
        assert {each.id.split("/")[1] for each in await store.all()} == recorded
        assert len(await store.all()) == 2 * len(recorded)
        await change(99)

    opened(url, work)


def test_whoever_goes_away_leaves_no_lock_behind(url: str) -> None:
    async def work(store: Store) -> None:
        async with store.change() as tx:
            await tx.record("one", 0, b"", ())

        async def read() -> None:
            async with store.change() as tx:
                await tx.revision()

        async def follow() -> None:
            async with Projected(store).step() as step:
                await step.advance(Followed("log", 1, b""))
                await step.followed("log")

        for number in range(24):
            for writing in (store.placed({1: "log/1"}), store.raise_epoch(), follow(), read()):
                task = asyncio.ensure_future(writing)
                for _ in range(number):
                    await asyncio.sleep(0.0002)
                task.cancel()
                await asyncio.wait([task])
                async with asyncio.timeout(10), store.change() as tx:
                    await tx.put(row("/x"))

    opened(url, work)


def test_readers_see_what_was_committed_while_a_change_goes_on(url: str) -> None:
    async def work(store: Store) -> None:
        async with store.change() as tx:
            await tx.put(row("/x"))
            assert await store.whole() == (1, 0, [])
            assert len(await tx.all()) == 1
        assert len(await store.all()) == 1

    opened(url, work)


def test_secrets_are_never_in_the_clear(url: str, tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        async with store.change() as tx:
            for name in ("/a/key1", "/a/key2", "/a_/key1", "/b/key1"):
                await tx.put_secret(name, b"Sesam" + name.encode())
            await tx.put_secret("/a/key1", b"Sesam again")
            assert await tx.secret("/a/key1") == b"Sesam again"
            assert await tx.secret("/none") is None
        assert await store.secret("/none") is None
        assert list(await store.secrets("/a/")) == ["/a/key1", "/a/key2"]
        async with store.engine.connect() as connection:
            held = (await connection.execute(instance_wide(text("SELECT * FROM secrets"), "a test looks"))).all()
        assert len(held) == 4
        assert b"Sesam" not in b"".join(each.sealed for each in held)
        async with store.change() as tx:
            await tx.forget_secrets("/a/")
            await tx.forget_secret("/b/key1")
        assert await store.secrets() == {"/a_/key1": b"Sesam/a_/key1"}

        # Nor in what is told of a statement that fails.
        async with store.engine.connect() as connection:
            with pytest.raises(DBAPIError) as told:
                await connection.execute(text("SELECT name FROM nowhere WHERE name = :value"), {"value": "Sesam"})
        assert "Sesam" not in str(told.value)

        # Under another reference it is nothing.
        async with store.engine.begin() as connection:
            await connection.execute(instance_wide(text("UPDATE secrets SET ref = '/c'"), "a test swaps"))
        with pytest.raises(Error, match="it was changed or moved"):
            await store.secret("/c")

    opened(url, work)
    assert not [path for path in tmp_path.iterdir() if b"Sesam" in path.read_bytes()]


def test_the_master_key_is_the_right_one_or_nothing_starts(url: str) -> None:
    async def work(store: Store) -> None:
        other = await Store.open(url, MASTER)
        async with store.change() as tx:
            await tx.put_secret("/a", b"A")
            await tx.put_secret("/b", b"B")
        with pytest.raises(Error, match=f"under the master key {MASTER.id}, and the key that was given is"):
            await Store.open(url, MasterKey.generate())
        fresh = MasterKey.generate()
        assert await store.rotate(fresh) == 2
        assert await store.secrets() == {"/a": b"A", "/b": b"B"}
        with pytest.raises(Error, match="the key was rotated meanwhile"):
            await other.secret("/a")
        # What a process with the old key writes would be lost with it.
        assert await refused(other, lambda tx: tx.put_secret("/c", b"C")) == Code.NOT_READY
        with pytest.raises(Error, match="the master key was rotated meanwhile"):
            await other.rotate(MasterKey.generate())
        with pytest.raises(Error, match=f"under the master key {fresh.id}"):
            await Store.open(url, MASTER)
        await other.close()
        third = await Store.open(url, fresh)
        assert await third.secret("/b") == b"B"
        await third.close()

    opened(url, work)


def test_a_rotation_of_the_keys_file_can_be_cut_anywhere(url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "master.key"

    async def secret_of(master: MasterKey) -> bytes | None:
        store = await Store.open(url, master)
        try:
            return await store.secret("/a")
        finally:
            await store.close()

    async def work() -> None:
        first = MasterKey.from_file(path)
        store = await Store.open(url, first)
        async with store.change() as tx:
            await tx.put_secret("/a", b"A")
        # Cut after the new key was written: the old one is in force.
        MasterKey.generate().write(fresh_path(path))
        assert await secret_of(MasterKey.from_file(path)) == b"A"
        # Cut after the database changed: the new one is.
        await store.rotate(MasterKey.from_file(fresh_path(path)))
        await store.close()
        assert await secret_of(MasterKey.from_file(path)) == b"A"
        assert await rotate_file(url, path) == 1
        again = MasterKey.from_file(path)
        assert not fresh_path(path).exists()
        assert again.id != first.id
        assert await secret_of(again) == b"A"
        assert await rotate_file(url, path) == 1
        assert MasterKey.from_file(path).id != again.id
        assert path.stat().st_mode & 0o777 == 0o600

    asyncio.run(work())


def test_the_schema_grows_from_its_first_revision(url: str) -> None:
    async def work() -> None:
        engine = open_engine(url)
        for revision in revisions():
            async with engine.begin() as connection:
                await migrate(connection, revision)
                if revision == revisions()[0]:
                    await connection.execute(
                        text(
                            "INSERT INTO resources (key, id, kind, name, parent, body, etag, created_ms, created_by,"
                            " changed_ms, changed_by) VALUES ('/x', '/X', 'thing', 'X', '', '{}', 'e', 1, 'a', 2, 'b')"
                        )
                    )
        async with engine.connect() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
            )
            assert differences == []
        store = await Store.open(url, MASTER)
        assert [each.id for each in await store.all()] == ["/X"]
        instance = await store.instance()
        await store.close()
        # A newer version's database is left alone.
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(Error, match=r"the schema 9999, made by a newer version of entrepot.* install that version"):
            await Store.open(url, MASTER)
        async with engine.begin() as connection:
            await connection.execute(text(f"UPDATE alembic_version SET version_num = '{revisions()[-1]}'"))
        store = await Store.open(url, MASTER)
        assert await store.instance() == instance
        await store.close()
        await engine.dispose()

    asyncio.run(work())


def test_what_was_added_up_before_is_of_the_account_that_has_the_name(url: str) -> None:
    day_ms = 86_400_000
    accounts = (("kanto", 10 * day_ms + 5), ("far", 10 * day_ms))
    cells = (("Kanto", 9, None), ("Kanto", 10, accounts[0][1]), ("far", 12, accounts[1][1]), ("gone", 12, None))

    async def work() -> None:
        engine = open_engine(url)
        async with engine.begin() as connection:
            await migrate(connection, "0002")
            made = "INSERT INTO resources (key, id, kind, name, parent, body, etag, created_ms, created_by, changed_ms,"
            for name, born_ms in accounts:
                values = f"'/{name}', '/{name}', 'account', '{name}', '', '{{}}', 'e', {born_ms}, 'a', 2, 'b', '{name}'"
                await connection.execute(text(f"{made} changed_by, claim) VALUES ({values})"))
            for name, day, _ in cells:
                dimensions = f"'{name}', 'r', 'c', 'JP', '1970-01-{day + 1:02}'"
                values = f"'{name}{day}', {dimensions}, 7"
                names = "cell, account, rule, code, territory, day, count"
                await connection.execute(text(f"INSERT INTO refusals ({names}) VALUES ({values})"))
            names = "place, at_ms, account, deployment, model, version, regions"
            for at_ms in (accounts[0][1] - 1, accounts[0][1]):
                values = f"'log/{at_ms}', {at_ms}, 'Kanto', 'd', 'm', '1', '{{}}'"
                await connection.execute(text(f"INSERT INTO open_calls ({names}) VALUES ({values})"))
        store = await Store.open(url, MASTER)
        projected = Projected(store)
        assert [each.born_ms for each in await projected.open_calls(EVERYTHING)] == [None, accounts[0][1]]
        more = {(name, "r", "c", "JP", f"1970-01-{day + 1:02}", born_ms): 1 for name, day, born_ms in cells}
        async with projected.step() as step:
            assert await step.births({"KANTO", "far", "gone"}) == dict(accounts)
            await step.add_refusals({cell: 1 for cell in more if cell[-1] is not None})
        kept = {(each["account"], each["day"]): each["count"] for each in await projected.refusals(EVERYTHING)}
        # Cells that are some account's go on from where they were.
        assert kept == {cell[:1] + cell[4:5]: 7 if cell[-1] is None else 8 for cell in more}
        await store.close()
        await engine.dispose()

    asyncio.run(work())


def test_several_may_start_at_once(url: str) -> None:
    async def work() -> None:
        stores = await asyncio.gather(*(Store.open(url, MASTER) for _ in range(4)))
        assert len({await store.instance() for store in stores}) == 1
        for store in stores:
            await store.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://x", "a database of the kind `mysql` is not known"),
        ("sqlite:////nowhere/at/all/control.db", "the database does not answer .*o such file"),
        ("postgresql://x@/y?host=/nowhere", "the database does not answer"),
        ("postgresql://x:pw@127.0.0.1:1/y", "the database does not answer"),
    ],
)
def test_a_database_that_is_not_there_is_said(url: str, says: str) -> None:
    with pytest.raises(Error, match=says) as caught:
        asyncio.run(Store.open(url, MASTER))
    assert caught.value.code == Code.NOT_READY
    assert "pw" not in str(caught.value)


def test_sqlite_keeps_what_it_committed_when_the_power_goes(tmp_path: Path) -> None:
    """That is the setting; that the setting does it is SQLite's word."""

    async def work(store: Store) -> None:
        async with store.engine.connect() as connection:
            said = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        assert said == ["wal", 2, 1]

    opened(f"sqlite:///{tmp_path}/control.db", work)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(Error, match="not a database"):
        asyncio.run(Store.open(f"sqlite:///{path}", MASTER))
