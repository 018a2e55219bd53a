"""What the follower adds up from the ledgers: usage and refusals, and how far it is in each log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Plain = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
COUNTS = (
    *("calls", "served", "failed", "cut", "client_gone", "lost"),
    *("prompt_reported", "completion_reported", "prompt_counted", "completion_counted"),
    *("prompt_estimated", "completion_estimated", "cached", "reasoning"),
    *("failed_legs", "prompt_failed_legs", "completion_failed_legs"),
)


def upgrade() -> None:
    op.create_table(
        "followed",
        sa.Column("log", Plain, primary_key=True),
        sa.Column("size", Number, nullable=False),
        sa.Column("edge", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("cell", Plain, primary_key=True),
        *(sa.Column(name, Plain, nullable=False) for name in ("account", "deployment", "model", "region", "day")),
        *(sa.Column(name, Number, nullable=False) for name in COUNTS),
    )
    op.create_index("usage_by_day", "usage", ["day"])
    op.create_table(
        "refusals",
        sa.Column("cell", Plain, primary_key=True),
        *(sa.Column(name, Plain, nullable=False) for name in ("account", "rule", "code", "territory", "day")),
        sa.Column("count", Number, nullable=False),
    )
    op.create_index("refusals_by_day", "refusals", ["day"])
    op.create_table(
        "open_calls",
        sa.Column("place", Plain, primary_key=True),
        sa.Column("at_ms", Number, nullable=False),
        *(sa.Column(name, Plain, nullable=False) for name in ("account", "deployment", "model", "version")),
        sa.Column("regions", sa.Text, nullable=False),
    )
    op.create_table(
        "early_outcomes",
        sa.Column("id", Plain, primary_key=True),
        sa.Column("place", Plain, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )
    op.create_index("early_outcomes_places", "early_outcomes", ["place"])
