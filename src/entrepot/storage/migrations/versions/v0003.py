"""Usage and refusals are those of the account that had the name, not of whoever takes it after a purge.

What was added up before is taken for that of the account that has the name now, from the day of its birth on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

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


def upgrade() -> None:
    connection = op.get_bind()
    resources = sa.table("resources", sa.column("claim"), sa.column("created_ms"))
    claimed = sa.select(resources).where(resources.c.claim.is_not(None))
    births: dict[str, int] = {found.claim: found.created_ms for found in connection.execute(claimed)}
    op.add_column("open_calls", sa.Column("born_ms", Number))
    calls = sa.table("open_calls", *map(sa.column, ("place", "account", "at_ms", "born_ms")))
    for call in connection.execute(sa.select(calls)).all():
        if (born_ms := births.get(call.account.lower(), call.at_ms + 1)) <= call.at_ms:
            connection.execute(sa.update(calls).where(calls.c.place == call.place).values(born_ms=born_ms))
    for name, dimensions in CELLS.items():
        op.add_column(name, sa.Column("born_ms", Number))
        table = sa.table(name, *map(sa.column, ("cell", *dimensions, "born_ms")))
        changed = []
        for row in connection.execute(sa.select(table)).all():
            born_ms = births.get(row.account.lower())
            if born_ms is not None and datetime.fromtimestamp(born_ms / 1_000, UTC).date().isoformat() <= row.day:
                told = "\0".join([*(getattr(row, each) for each in dimensions), str(born_ms)])
                changed.append({"old": row.cell, "new": sha256(told.encode()).hexdigest(), "born": born_ms})
        if changed:
            updated = sa.update(table).where(table.c.cell == sa.bindparam("old"))
            connection.execute(updated.values(cell=sa.bindparam("new"), born_ms=sa.bindparam("born")), changed)
