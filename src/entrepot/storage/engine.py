"""Connections to SQLite or PostgreSQL, set up so that what is committed survives a loss of power."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, event
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entrepot.errors import Code, Error

# Execution options: the transaction writes, so SQLite takes its write lock at once; it is one statement that reads,
# so SQLite, where each statement costs a turn of the driver's thread, needs no transaction around it.
WRITES = "entrepot_writes"
ALONE = "entrepot_alone"

_BUSY_MS = 30_000
_CONNECT_S = 10
_COMMAND_S = 60
_POOL = 8

# PostgreSQL's SQLSTATE: connection exception, a standby that only reads, a login or a database that is unknown, what
# the role may not do, insufficient resources, the server is stopped or starts or ended a statement, its disk fails.
_ENDING = ("08", "25006", "28", "3D", "42501", "53", "57", "58")

# INVARIANT: what a statement that fails was given, which is tenants' records, stands in no log: `hide_parameters`.
FAULTS = (DBAPIError, PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


def open_engine(url: str) -> AsyncEngine:
    """For `sqlite:///PATH`, or `postgresql://…` as libpq reads it. Connects later.

    Raises Error for another URL, and for a file that cannot be opened.
    """
    if url.startswith("sqlite:///"):
        return _sqlite(Path(url.removeprefix("sqlite:///")))
    if url.startswith(("postgresql://", "postgres://")):
        return _postgresql(url)
    scheme = url.partition(":")[0][:40]
    raise Error(
        Code.NOT_READY, f"a database of the kind `{scheme}` is not known: use `sqlite:///PATH` or `postgresql://…`"
    )


def is_postgresql(engine: AsyncEngine) -> bool:
    return engine.dialect.name == "postgresql"


def _sqlite(path: Path) -> AsyncEngine:
    # The driver leaves a thread behind where it cannot open a file; so that is found out before.
    try:
        path.touch(mode=0o600)  # SQLite gives its other files the same mode
        sqlite3.connect(path).close()
    except (sqlite3.Error, OSError) as exc:
        raise unavailable(exc, f"the file is `{path}`") from exc
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=_POOL, max_overflow=0, hide_parameters=True)

    def connected(connection: Any, _record: Any) -> None:
        # Transactions are begun below, not by the driver, which would begin them too late and as readers.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(ALONE):
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITES) else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begun)
    return engine


def _postgresql(url: str) -> AsyncEngine:
    async def connect() -> asyncpg.Connection[Any]:
        # asyncpg reads the URL as libpq does: sslmode, host=/run/postgresql, several hosts, a password file.
        try:
            return await asyncpg.connect(
                url,
                timeout=_CONNECT_S,
                command_timeout=_COMMAND_S,
                server_settings={"synchronous_commit": "on", "application_name": "entrepot"},
            )
        except asyncpg.InterfaceError:
            raise
        except ValueError:  # what it says may hold part of the password
            raise Error(
                Code.NOT_READY,
                "the database's URL cannot be read: write `postgresql://USER:PASSWORD@HOST:PORT/NAME`, with other than "
                "letters and digits in the password percent-encoded",
            ) from None

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=_POOL,
        max_overflow=_POOL,
        pool_pre_ping=True,
        hide_parameters=True,
    )


@contextmanager
def answered(what: str = "nothing was changed") -> Iterator[None]:
    """Turns a database that cannot be reached, or fails, into an Error; `what` says what that means."""
    try:
        yield
    except FAULTS as exc:
        if not lost(exc):
            raise
        raise unavailable(exc, what) from exc


def lost(exc: BaseException) -> bool:
    """Whether it is the database that fails, rather than a statement that is wrong."""
    if isinstance(exc, DBAPIError):
        # SQLite says by the class above all others that a file is none of its databases, or is damaged.
        damaged = type(exc) is DatabaseError
        ending = str(getattr(exc.orig, "sqlstate", "")).startswith(_ENDING)
        return exc.connection_invalidated or damaged or ending or isinstance(exc, OperationalError | InterfaceError)
    return isinstance(exc, FAULTS)


def unavailable(exc: BaseException, what: str) -> Error:
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    state = str(getattr(cause, "sqlstate", None) or "08")
    problem = "does not answer" if state.startswith("08") else "refuses"
    return Error(Code.NOT_READY, f"the database {problem} ({reason}); {what}", retry_after_s=1)
