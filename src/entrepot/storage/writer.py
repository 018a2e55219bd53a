"""The one writer: its lock, across processes too, and commits whose answer was lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from entrepot.errors import Code, Error
from entrepot.storage import queries
from entrepot.storage.engine import WRITES, is_postgresql, lost, unavailable
from entrepot.storage.tables import outbox

# PostgreSQL's advisory locks: "entrepot" as a number, and for the follower the next one.
CHANGES = int.from_bytes(b"entrepot", "big")
FOLLOWING = CHANGES + 1

T = TypeVar("T")

_SETTLE_S = 30.0
_AGAIN_S = 0.2

log = logging.getLogger(__name__)


class Writer:
    """`turn` is held by whoever writes in this process, so that waiting is fair and costs nothing.

    `settle_s` bounds how long an unclear commit is looked into.
    """

    def __init__(self, engine: AsyncEngine, lock: int = CHANGES) -> None:
        self.turn = asyncio.Lock()
        self.settle_s = _SETTLE_S
        self._engine = engine
        self._lock_id = lock

    async def begin(self) -> AsyncConnection:
        """A connection in a transaction that holds the lock until its end. Faults of the database come as they are."""
        beginning = asyncio.ensure_future(self._begin())
        try:
            return await to_its_end(beginning)
        except asyncio.CancelledError:
            # Not left to itself: a connection that nobody knows of would keep the lock.
            if beginning.exception() is None:
                await to_its_end(give_back(beginning.result()))
            raise

    @asynccontextmanager
    async def held(self) -> AsyncIterator[AsyncConnection]:
        """The same for a block; commits on return."""
        connection = await self.begin()
        try:
            yield connection
            await to_its_end(connection.commit())
        finally:
            await to_its_end(give_back(connection))

    async def commit(self, connection: AsyncConnection, recorded: Sequence[str]) -> None:
        """Returns when the transaction, with these ids in the outbox, is committed; raises Error if it is not."""
        try:
            await connection.commit()
        except Exception as exc:
            await give_back(connection)
            if not lost(exc):
                raise
            log.warning("the connection to the database broke in a commit", extra={"fields": {"problem": str(exc)}})
            await self._settle(recorded, exc)
        else:
            await give_back(connection)

    async def _begin(self) -> AsyncConnection:
        connection = self._engine.connect()
        await connection.start()
        try:
            await connection.execution_options(**{WRITES: True})
            await connection.begin()
            if is_postgresql(self._engine):
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": self._lock_id})
        except BaseException:
            await give_back(connection)
            raise
        return connection

    async def _settle(self, recorded: Sequence[str], cause: Exception) -> None:
        """Find out what became of a commit."""
        deadline = time.monotonic() + self.settle_s
        while True:
            try:
                # INVARIANT: whoever holds the lock knows that the commit in question is over: its transaction held the
                # lock until its end, also where the server went on with it after we lost it.
                async with self.held() as again:
                    found = (await again.execute(queries.recorded(outbox.c.id.in_(recorded)))).all()
                break
            except Exception as exc:
                if not lost(exc):
                    raise
                if time.monotonic() > deadline:
                    raise Error(
                        Code.NOT_READY,
                        "the database went away while the change was committed: look whether it happened",
                        name="ChangeUncertain",
                        retry_after_s=5,
                    ) from cause
                await asyncio.sleep(_AGAIN_S)
        if not recorded:
            raise unavailable(cause, "the change may have happened or not: look, and try again") from cause
        if not found:
            raise unavailable(cause, "nothing was changed") from cause


async def give_back(connection: AsyncConnection) -> None:
    """To the pool; what is not committed is rolled back. A connection that is broken is no news here."""
    try:
        await connection.close()
    except Exception as exc:
        if not lost(exc):
            raise
        await connection.invalidate()


async def to_its_end(work: Awaitable[T]) -> T:
    """Whoever waits may be cancelled, the work is not; the cancellation is told once the work is done.

    INVARIANT: on a connection that holds the writer's lock every statement goes this way. SQLite's driver answers to
    the cancellation of one with a connection that nobody ends: it would keep the lock until the process does.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as told:
            cancelled = told
        except BaseException:  # noqa: BLE001 - `result` raises it, below
            break
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("what nobody waits for any more failed", exc_info=failure)
        raise cancelled
    return task.result()
