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

# What the follower adds up (`projected.py`).

followed = Table(
    "followed",
    metadata,
    Column("log", Plain, primary_key=True),
    Column("size", Number, nullable=False),  # entries taken
    Column("edge", LargeBinary, nullable=False),  # of their Merkle tree, to prove the next ones with
)

COUNTS = (
    *("calls", "served", "failed", "cut", "client_gone", "lost"),
    *("prompt_reported", "completion_reported", "prompt_counted", "completion_counted"),
    *("prompt_estimated", "completion_estimated", "cached", "reasoning"),
    *("failed_legs", "prompt_failed_legs", "completion_failed_legs"),
)

usage = Table(
    "usage",
    metadata,
    Column("cell", Plain, primary_key=True),  # a digest of the next five and `born_ms`, which are too long for an index
    Column("account", Plain, nullable=False),
    Column("deployment", Plain, nullable=False),
    Column("model", Plain, nullable=False),
    Column("region", Plain, nullable=False),
    Column("day", Plain, nullable=False),
    *(Column(name, Number, nullable=False) for name in COUNTS),
    Column("born_ms", Number),  # of the account, if it was the one that has the name when this was added up
    Index("usage_by_day", "day"),
)

refusals = Table(
    "refusals",
    metadata,
    Column("cell", Plain, primary_key=True),
    Column("account", Plain, nullable=False),
    Column("rule", Plain, nullable=False),
    Column("code", Plain, nullable=False),
    Column("territory", Plain, nullable=False),
    Column("day", Plain, nullable=False),
    Column("count", Number, nullable=False),
    Column("born_ms", Number),
    Index("refusals_by_day", "day"),
)

open_calls = Table(
    "open_calls",
    metadata,
    Column("place", Plain, primary_key=True),
    Column("at_ms", Number, nullable=False),
    Column("account", Plain, nullable=False),
    Column("deployment", Plain, nullable=False),
    Column("model", Plain, nullable=False),
    Column("version", Plain, nullable=False),
    Column("regions", Text, nullable=False),  # JSON: by upstream
    Column("born_ms", Number),
)

early_outcomes = Table(
    "early_outcomes",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("place", Plain, nullable=False),  # of the decision that is still to come
    Column("entry", LargeBinary, nullable=False),
    Index("early_outcomes_places", "place"),
)

# Whose rows belong to tenants: every statement on them is bound, or says why it is not (`bound.py`).
TENANTS = frozenset(table.name for table in (resources, secrets, outbox, usage, refusals, open_calls, early_outcomes))
