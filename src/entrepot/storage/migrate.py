"""Brings a database to the schema that this version needs, in one transaction of the one who came first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.errors import Code, Error

MIGRATIONS = Path(__file__).parent / "migrations"


def revisions() -> list[str]:
    """From the first to the newest that this version knows."""
    return [script.revision for script in _scripts(Config()).walk_revisions()][::-1]


async def migrate(connection: AsyncConnection, to: str = "head") -> None:
    """On a connection that holds the writer's lock. Raises Error for a schema that a newer version made."""
    await connection.run_sync(_migrate, to)


def _migrate(connection: Connection, to: str) -> None:
    config = Config()
    scripts = _scripts(config)
    current = MigrationContext.configure(connection).get_current_revision()
    known = revisions()
    if current is not None and current not in known:
        raise Error(
            Code.NOT_READY,
            f"the database has the schema {current}, made by a newer version of entrepot; this one knows up to"
            f" {known[-1]}: install that version again, or restore the backup that was made before the upgrade",
        )

    def steps(revision: Any, _context: Any) -> Any:
        return scripts._upgrade_revs(to, revision)  # as alembic's own command does

    with EnvironmentContext(config, scripts, fn=steps, destination_rev=to) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def _scripts(config: Config) -> ScriptDirectory:
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return ScriptDirectory.from_config(config)
