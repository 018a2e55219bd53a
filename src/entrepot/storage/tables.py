"""The tables as the newest migration leaves them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

# INVARIANT: text is compared by code point in both databases, so that ranges of ids mean the same.
Plain = Text().with_variant(Text(collation="C"), "postgresql")
Number = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

resources = Table(
    "resources",
    metadata,
    Column("key", Plain, primary_key=True),  # the id in lower case
    Column("id", Plain, nullable=False),
    Column("kind", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("operator", Plain),
    Column("subscription", Plain),
    Column("parent", Plain, nullable=False),
    Column("body", Text, nullable=False),
    Column("etag", Plain, nullable=False),
    Column("created_ms", Number, nullable=False),
    Column("created_by", Plain, nullable=False),
    Column("changed_ms", Number, nullable=False),
    Column("changed_by", Plain, nullable=False),
    Column("deleted_ms", Number),
    Column("purge_ms", Number),
    Column("claim", Plain),  # what no other row may have, soft-deleted or not: an account's name in lower case
    Index("resources_by_kind", "kind", "key"),
    Index("resources_by_operator", "operator", "kind", "key"),
    Index("resources_by_subscription", "subscription", "kind", "key"),
    Index("resources_claims", "claim", unique=True),
)

secrets = Table(
    "secrets",
    metadata,
    Column("ref", Plain, primary_key=True),
    Column("key_id", Plain, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("n", Number, primary_key=True, autoincrement=False),
    Column("id", Plain, nullable=False),
    Column("at_ms", Number, nullable=False),
    Column("entry", LargeBinary, nullable=False),
    Column("touched", Text, nullable=False),
    Column("place", Plain),
    Index("outbox_ids", "id", unique=True),
    Index("outbox_places", "place"),
)

meta = Table(
    "meta",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("value", Text, nullable=False),
)

# Whose rows belong to tenants: every statement on them is bound, or says why it is not (`bound.py`).
TENANTS = frozenset({resources.name, secrets.name, outbox.name})
