"""Usage and refusals are those of the account that had the name, not of whoever takes it after a purge.

What was added up before is taken for that of the account that has the name now, from the day of its birth on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import TypeVar

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
CELLS = {
    "usage": ("account", "deployment", "model", "region", "day"),
    "refusals": ("account", "rule", "code", "territory", "day"),
}
S = TypeVar("S", bound=sa.sql.Executable)


def upgrade() -> None:
    resources = sa.table("resources", sa.column("claim"), sa.column("created_ms"))
    claimed = sa.select(resources).where(resources.c.claim.is_not(None))
    births: dict[str, int] = {each.claim: each.created_ms for each in op.get_bind().execute(_all(claimed))}
    op.add_column("open_calls", sa.Column("born_ms", Number))
    _calls(births)
    for name, dimensions in CELLS.items():
        op.add_column(name, sa.Column("born_ms", Number))
        _cells(name, dimensions, births)


def _calls(births: dict[str, int]) -> None:
    table = sa.table("open_calls", *map(sa.column, ("place", "account", "at_ms", "born_ms")))
    for call in op.get_bind().execute(_all(sa.select(table))).all():
        if (born_ms := births.get(call.account.lower(), call.at_ms + 1)) <= call.at_ms:
            op.get_bind().execute(_all(sa.update(table).where(table.c.place == call.place).values(born_ms=born_ms)))


def _cells(name: str, dimensions: tuple[str, ...], births: dict[str, int]) -> None:
    table = sa.table(name, *map(sa.column, ("cell", *dimensions, "born_ms")))
    changed = []
    for row in op.get_bind().execute(_all(sa.select(table))).all():
        born_ms = births.get(row.account.lower())
        if born_ms is not None and datetime.fromtimestamp(born_ms / 1_000, UTC).date().isoformat() <= row.day:
            told = "\0".join([*(getattr(row, each) for each in dimensions), str(born_ms)])
            changed.append({"old": row.cell, "new": sha256(told.encode()).hexdigest(), "born": born_ms})
    if changed:
        updated = sa.update(table).where(table.c.cell == sa.bindparam("old"))
        updated = updated.values(cell=sa.bindparam("new"), born_ms=sa.bindparam("born"))
        op.get_bind().execute(_all(updated), changed)


def _all(statement: S) -> S:
    marked: S = statement.execution_options(entrepot_instance_wide="a migration is of the rows of all tenants")
    return marked
