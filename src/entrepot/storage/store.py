"""The database of one instance: reads, and changes by one writer at a time."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import Executable

from entrepot.clock import wall_clock_ms
from entrepot.storage import facts, queries
from entrepot.storage.bound import instance_wide
from entrepot.storage.engine import ALONE, answered, is_postgresql, open_engine
from entrepot.storage.master import MasterKey
from entrepot.storage.migrate import migrate
from entrepot.storage.queries import SECRETS, Listing, key_of
from entrepot.storage.rows import Recorded, Row, Tenancy
from entrepot.storage.tables import outbox, secrets
from entrepot.storage.transaction import Transaction, unsealed
from entrepot.storage.writer import Writer, give_back, to_its_end

T = TypeVar("T")


async def _begin(connection: AsyncConnection, master: MasterKey) -> MasterKey:
    await migrate(connection)
    return await facts.begin(connection, master)


class Store:
    """Methods raise Error(NOT_READY) while the database does not answer; the next call connects anew."""

    def __init__(self, engine: AsyncEngine, master: MasterKey, now_ms: Callable[[], int]) -> None:
        """Use `open`. `engine` is there for tests that watch statements."""
        self.engine = engine
        self._reader = engine.execution_options(**{ALONE: True})
        self.writer = Writer(engine)
        self._master = master
        self._now_ms = now_ms

    @classmethod
    async def open(cls, url: str, master: MasterKey, *, now_ms: Callable[[], int] = wall_clock_ms) -> Store:
        """`sqlite:///PATH` or `postgresql://…`. Makes or migrates the tables.

        Raises Error: the database does not answer, its schema is a newer version's, or it is under another master key.
        """
        store = cls(open_engine(url), master, now_ms)
        try:
            store._master = await store._write(lambda connection: _begin(connection, master))
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        await self.engine.dispose()

    async def get(self, tenancy: Tenancy, id: str, *, deleted: bool = False) -> Row | None:  # noqa: A002
        """A live row, or with `deleted` a soft-deleted one; None where there is none, or none that may be seen."""
        key = key_of(id)
        found = await self._rows(queries.one(tenancy, key, deleted=deleted)) if key is not None else []
        return found[0] if found else None

    async def list(
        self,
        tenancy: Tenancy,
        kind: str,
        *,
        under: str = "",
        deleted: bool = False,
        limit: int | None = None,
        after: str = "",
    ) -> builtins.list[Row]:
        """Live rows of a kind (empty: of any), or with `deleted` the soft-deleted ones, by their ids in lower case.

        `under` is an id: rows below it. `after` is an id: rows that come after it, to go on where `limit` ended.
        """
        return await self._rows(queries.many(tenancy, Listing(kind, under, deleted, limit, after)))

    async def all(self) -> builtins.list[Row]:
        """All live rows of all tenants, by their ids in lower case."""
        return (await self.whole())[2]

    async def whole(self) -> tuple[int, int, builtins.list[Row]]:
        """Epoch, number of the last change, and all live rows, as they were at one instant."""
        async with self._reading(steady=True) as connection:
            epoch, n = await facts.revision(connection)
            rows: builtins.list[Row] = []
            result = await connection.stream(queries.every())
            async for part in result.mappings().partitions(1000):
                rows += map(queries.row_of, part)
            return epoch, n, rows

    async def revision(self) -> tuple[int, int]:
        """Epoch and number of the last change that was committed."""
        async with self._reading() as connection:
            return await facts.revision(connection)

    async def instance(self) -> str:
        """A GUID, made with the database."""
        async with self._reading() as connection:
            return await facts.get(connection, facts.INSTANCE)

    async def since(self, n: int) -> builtins.list[Recorded]:
        """The changes after number `n`, in their order."""
        return await self._recorded(queries.recorded(outbox.c.n > n))

    async def recorded(self, n: int) -> Recorded | None:
        """The change of that number."""
        found = await self._recorded(queries.recorded(outbox.c.n == n))
        return found[0] if found else None

    async def unplaced(self) -> builtins.list[Recorded]:
        """The changes of which it is not known that they stand in the ledger, in their order."""
        return await self._recorded(queries.recorded(outbox.c.place.is_(None)))

    async def touched_since(self, n: int) -> tuple[tuple[int, int], frozenset[str] | None]:
        """`revision`, and the ids in lower case that changes after number `n` touched; None: there is no change `n`."""
        if n < 1:  # the first change is number 1; nobody wants all that there ever were
            return await self.revision(), None
        async with self._reading() as connection:
            found = (await connection.execute(queries.AFTER, {"after": n})).all()
        if not found or found[0].n != n:
            return await self.revision(), None
        touched = (each.lower() for one in found[1:] for each in queries.touched_of(one.touched))
        return (int(found[0].epoch), int(found[-1].n)), frozenset(touched)

    async def placed(self, places: Mapping[int, str]) -> None:
        """Where the entries of changes stand in the ledger, by their numbers."""
        given = [{"number": n, "at": place} for n, place in places.items()]
        await self._write(lambda connection: connection.execute(queries.PLACED, given))

    async def secret(self, ref: str) -> bytes | None:
        """Raises Error where it cannot be decrypted."""
        statement = instance_wide(select(secrets).where(secrets.c.ref == ref), SECRETS)
        return (await self._unsealed(statement)).get(ref)

    async def secrets(self, prefix: str = "") -> dict[str, bytes]:
        """All whose references begin so, in their order. Raises Error where one cannot be decrypted."""
        return await self._unsealed(queries.secrets_of(prefix))

    async def rotate(self, fresh: MasterKey) -> int:
        """Encrypt all secrets anew, and take `fresh` from here on. How many there were."""
        count = await self._write(lambda connection: facts.rotate(connection, self._master, fresh))
        self._master = fresh
        return count

    async def raise_epoch(self) -> int:
        """After a restore: what gateways saw of the lost changes counts no more. The new epoch."""
        return await self._write(facts.raise_epoch)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Transaction]:
        """One writer at a time, across processes too. Committed on return; nothing happened if it raises.

        Where the connection breaks in the commit, what became of it is found out by the ids that were recorded. Only
        if the database stays away for half a minute is it left open, with Error(NOT_READY, name="ChangeUncertain"): the
        change is then in the outbox or never will be. A cancelled task waits for a commit that is under way. Whoever
        holds it must not ask for another one, nor for `placed`, `rotate` or `raise_epoch`: they wait for it.
        """
        async with self.writer.turn:
            with answered():
                connection = await self.writer.begin()
            try:
                transaction = Transaction(connection, self._master, self._now_ms)
                yield transaction
                await transaction.send()
            except BaseException:
                await to_its_end(give_back(connection))
                raise
            await to_its_end(self.writer.commit(connection, transaction.recorded))

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """A write of our own that may be repeated: where its commit is unclear, that is an Error as any other."""

        async def whole() -> T:
            async with self.writer.held() as connection:
                return await work(connection)

        async with self.writer.turn:
            with answered("try again"):
                return await to_its_end(whole())

    @asynccontextmanager
    async def _reading(self, *, steady: bool = False) -> AsyncIterator[AsyncConnection]:
        """For one statement; with `steady` for several, which see the database as it was at one instant."""
        with answered():
            async with (self.engine if steady else self._reader).connect() as connection:
                if steady and is_postgresql(self.engine):
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection

    async def _rows(self, statement: Executable) -> builtins.list[Row]:
        async with self._reading() as connection:
            return [queries.row_of(each) for each in (await connection.execute(statement)).mappings()]

    async def _recorded(self, statement: Executable) -> builtins.list[Recorded]:
        async with self._reading() as connection:
            return [queries.recorded_of(each) for each in (await connection.execute(statement)).mappings()]

    async def _unsealed(self, statement: Executable) -> dict[str, bytes]:
        async with self._reading() as connection:
            found = (await connection.execute(statement)).all()
        return {each.ref: unsealed(self._master, each.ref, each.key_id, each.sealed) for each in found}
