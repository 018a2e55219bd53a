"""Resources, secrets, the outbox of changes, and facts about the instance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Plain = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "resources",
        sa.Column("key", Plain, primary_key=True),
        sa.Column("id", Plain, nullable=False),
        sa.Column("kind", Plain, nullable=False),
        sa.Column("name", Plain, nullable=False),
        sa.Column("operator", Plain),
        sa.Column("subscription", Plain),
        sa.Column("parent", Plain, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("etag", Plain, nullable=False),
        sa.Column("created_ms", Number, nullable=False),
        sa.Column("created_by", Plain, nullable=False),
        sa.Column("changed_ms", Number, nullable=False),
        sa.Column("changed_by", Plain, nullable=False),
        sa.Column("deleted_ms", Number),
        sa.Column("purge_ms", Number),
        sa.Column("claim", Plain),
    )
    op.create_index("resources_by_kind", "resources", ["kind", "key"])
    op.create_index("resources_by_operator", "resources", ["operator", "kind", "key"])
    op.create_index("resources_by_subscription", "resources", ["subscription", "kind", "key"])
    op.create_index("resources_claims", "resources", ["claim"], unique=True)
    op.create_table(
        "secrets",
        sa.Column("ref", Plain, primary_key=True),
        sa.Column("key_id", Plain, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("n", Number, primary_key=True, autoincrement=False),
        sa.Column("id", Plain, nullable=False),
        sa.Column("at_ms", Number, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("touched", sa.Text, nullable=False),
        sa.Column("place", Plain),
    )
    op.create_index("outbox_ids", "outbox", ["id"], unique=True)
    op.create_index("outbox_places", "outbox", ["place"])
    op.create_table(
        "meta",
        sa.Column("name", Plain, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
