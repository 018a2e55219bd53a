"""What the follower added up from ledgers, and how far it is in each log: one transaction for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import Table, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import Executable

from entrepot.storage.bound import bound, instance_wide
from entrepot.storage.engine import answered, is_postgresql
from entrepot.storage.rows import Tenancy
from entrepot.storage.store import Store
from entrepot.storage.tables import COUNTS, early_outcomes, followed, open_calls, refusals, resources, usage
from entrepot.storage.writer import FOLLOWING, Writer, to_its_end

USAGE = ("account", "deployment", "model", "region", "day")
REFUSALS = ("account", "rule", "code", "territory", "day")
FOLLOWER = "the follower adds up the ledgers of all tenants"

_NAMES = 500  # in one statement

Cell = tuple[str | int | None, ...]
"""USAGE or REFUSALS, and when the account was born, or None."""

_regions = msgspec.json.Decoder(dict[str, str]).decode


class Followed(msgspec.Struct, frozen=True):
    """So many entries of a log were taken; `edge` is that of their Merkle tree: 32 bytes for each full subtree."""

    log: str
    size: int = 0
    edge: bytes = b""


class OpenCall(msgspec.Struct, frozen=True):
    """An admitted decision, at `place` in the ledger, that has no outcome yet. `regions` is by upstream.

    `born_ms` is when the account was made that has the name now, if it was there at the call.
    """

    place: str
    at_ms: int
    account: str
    deployment: str
    model: str
    version: str
    regions: Mapping[str, str]
    born_ms: int | None = None


class Early(msgspec.Struct, frozen=True):
    """An outcome that came before its decision, which will stand at `place`."""

    place: str
    entry: bytes


class Projected:
    """Over a store's database. Days are like `2026-11-22`; `until_day` is exclusive."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        # In PostgreSQL following does not keep changes waiting; SQLite has one writer for everything.
        self._writer = Writer(store.engine, FOLLOWING) if is_postgresql(store.engine) else store.writer

    async def followed(self) -> dict[str, Followed]:
        """By log."""
        return {found.log: Followed(found.log, found.size, found.edge) for found in await self._read(select(followed))}

    async def usage(self, tenancy: Tenancy, since_day: str = "", until_day: str = "9") -> list[dict[str, Any]]:
        """The finest sums, of the accounts that the tenancy may see: USAGE and COUNTS."""
        return await self._cells(usage, (*USAGE, *COUNTS), tenancy, (since_day, until_day))

    async def refusals(self, tenancy: Tenancy, since_day: str = "", until_day: str = "9") -> list[dict[str, Any]]:
        """The same of refusals: REFUSALS and `count`."""
        return await self._cells(refusals, (*REFUSALS, "count"), tenancy, (since_day, until_day))

    async def open_calls(self, tenancy: Tenancy) -> list[OpenCall]:
        """Calls in progress, and those whose gateway died and did not start again."""
        found = await self._read(bound(select(open_calls).order_by(open_calls.c.place), open_calls, tenancy))
        return [_call(each) for each in found]

    @asynccontextmanager
    async def step(self) -> AsyncIterator[Step]:
        """One transaction; one follower at a time, across processes too. Commits on return."""
        async with self._writer.turn:
            with answered("the follower goes on from where it was"):
                async with self._writer.held() as connection:
                    yield Step(connection, postgres=is_postgresql(self._engine))

    async def _cells(
        self, table: Table, columns: Iterable[str], tenancy: Tenancy, days: tuple[str, str]
    ) -> list[dict[str, Any]]:
        statement = select(*(table.c[name] for name in columns)).order_by(table.c.day, table.c.cell)
        statement = statement.where(table.c.day >= days[0], table.c.day < days[1])
        return [{**each._mapping} for each in await self._read(bound(statement, table, tenancy))]

    async def _read(self, statement: Executable) -> Sequence[Any]:
        with answered():
            async with self._engine.connect() as connection:
                return (await connection.execute(statement)).all()


class Step:
    """What one step of the follower reads and writes."""

    def __init__(self, connection: AsyncConnection, *, postgres: bool) -> None:
        self._connection = connection
        self._postgres = postgres

    async def followed(self, log: str) -> Followed:
        found = (await self._execute(select(followed).where(followed.c.log == log))).first()
        return Followed(log, found.size, found.edge) if found is not None else Followed(log)

    async def advance(self, to: Followed) -> None:
        await self._execute(delete(followed).where(followed.c.log == to.log))
        await self._execute(insert(followed).values(msgspec.structs.asdict(to)))

    async def waiting(self, places: Sequence[str]) -> list[OpenCall]:
        """Take out the open calls of these places."""
        return [_call(each) for each in await self._taken(open_calls, places)]

    async def wait(self, calls: Iterable[OpenCall]) -> None:
        values = [
            msgspec.structs.asdict(call) | {"regions": msgspec.json.encode(call.regions).decode()} for call in calls
        ]
        await self._insert(open_calls, values)

    async def early(self, places: Sequence[str]) -> list[Early]:
        """Take out the outcomes that came before their decisions at these places."""
        return [Early(each.place, each.entry) for each in await self._taken(early_outcomes, places)]

    async def keep(self, outcomes: Iterable[Early]) -> None:
        values = [{"id": uuid4().hex, "place": each.place, "entry": each.entry} for each in outcomes]
        await self._insert(early_outcomes, values)

    async def births(self, accounts: Iterable[str]) -> dict[str, int]:
        """When accounts were made that have these names now, soft-deleted ones too (ms), by the name in lower case."""
        names, found = sorted({each.lower() for each in accounts}), {}
        for start in range(0, len(names), _NAMES):
            claimed = resources.c.claim.in_(names[start : start + _NAMES])
            statement = select(resources.c.claim, resources.c.created_ms).where(claimed)
            found.update(
                {each.claim: each.created_ms for each in await self._execute(instance_wide(statement, FOLLOWER))}
            )
        return found

    async def add_usage(self, cells: Mapping[Cell, Mapping[str, int]]) -> None:
        """Add to the sums of each cell: its USAGE and when its account was born, and its COUNTS."""
        values: list[dict[str, Any]] = [{**_named(USAGE, cell), **sums} for cell, sums in cells.items()]
        await self._add(usage, COUNTS, values)

    async def add_refusals(self, cells: Mapping[Cell, int]) -> None:
        values: list[dict[str, Any]] = [_named(REFUSALS, cell) | {"count": number} for cell, number in cells.items()]
        await self._add(refusals, ("count",), values)

    async def _add(self, table: Table, counts: Iterable[str], values: Sequence[dict[str, Any]]) -> None:
        if not values:
            return
        dimensions = USAGE if table is usage else REFUSALS
        for each in values:
            told = [each[name] for name in dimensions]
            told += [] if each["born_ms"] is None else [str(each["born_ms"])]
            each["cell"] = sha256("\0".join(told).encode()).hexdigest()
        made = (postgresql.insert if self._postgres else sqlite.insert)(table)
        sums = {name: table.c[name] + made.excluded[name] for name in counts}
        statement = made.on_conflict_do_update(index_elements=[table.c.cell], set_=sums)
        await self._execute(instance_wide(statement, FOLLOWER), values)

    async def _insert(self, table: Table, values: Sequence[dict[str, Any]]) -> None:
        if values:
            await self._execute(instance_wide(insert(table), FOLLOWER), values)

    async def _execute(self, statement: Executable, values: Sequence[dict[str, Any]] | None = None) -> Any:
        return await to_its_end(self._connection.execute(statement, values))

    async def _taken(self, table: Table, places: Sequence[str]) -> Sequence[Any]:
        if not places:
            return ()
        there = table.c.place.in_(places)
        found: Sequence[Any] = (await self._execute(instance_wide(select(table).where(there), FOLLOWER))).all()
        if found:
            await self._execute(instance_wide(delete(table).where(there), FOLLOWER))
        return found


def _named(dimensions: tuple[str, ...], cell: Cell) -> dict[str, Any]:
    return dict(zip((*dimensions, "born_ms"), cell, strict=True))


def _call(found: Any) -> OpenCall:
    return OpenCall(**{**found._mapping, "regions": _regions(found.regions)})
