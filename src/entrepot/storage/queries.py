"""Statements over the tables, and how their rows become structs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Delete, RowMapping, Select, bindparam, func, or_, select, update
from sqlalchemy import delete as sql_delete

from entrepot.storage.bound import bound, instance_wide
from entrepot.storage.rows import Recorded, Row, Tenancy
from entrepot.storage.tables import meta, outbox, resources, secrets

_COLUMNS = [resources.c[name] for name in Row.__struct_fields__]
_encode = msgspec.json.Encoder().encode
_body = msgspec.json.Decoder(dict[str, Any]).decode
touched_of = msgspec.json.Decoder(tuple[str, ...]).decode

ONE_WRITER = "a change addresses a row by its id, after its caller was authorised for it"
WORLD = "the world is compiled from the rows of all tenants"
SECRETS = "a secret is reached by a reference that stands in a row that was authorised"
OUTBOX = "the ledger holds the changes of all tenants"
EPOCH = "epoch"  # its name among what the database knows about itself


def key_of(id: str) -> str | None:  # noqa: A002 - an ARM id is called so
    """What a row is found by; None for what can be no row's id, as no database could hold it."""
    try:
        id.encode()
    except UnicodeEncodeError:
        return None
    return None if "\0" in id else id.lower()


def below(key: str) -> ColumnElement[bool]:
    """Rows whose ids begin with `key` and a slash."""
    start = key.rstrip("/") + "/"
    # `0` is the character after `/`: a range of the index, where LIKE would need escapes.
    return (resources.c.key > start) & (resources.c.key < start[:-1] + "0")


def state(*, deleted: bool) -> ColumnElement[bool]:
    return resources.c.deleted_ms.is_not(None) if deleted else resources.c.deleted_ms.is_(None)


def one(tenancy: Tenancy, key: str, *, deleted: bool) -> Select[Any]:
    return bound(select(*_COLUMNS).where(resources.c.key == key, state(deleted=deleted)), resources, tenancy)


class Listing(msgspec.Struct, frozen=True):
    """Which rows: of a kind (empty: of any), with ids below `under`, after a key, so many; or the soft-deleted ones."""

    kind: str
    under: str = ""
    deleted: bool = False
    limit: int | None = None
    after: str = ""


def many(tenancy: Tenancy, listing: Listing) -> Select[Any]:
    statement = select(*_COLUMNS).where(state(deleted=listing.deleted)).order_by(resources.c.key).limit(listing.limit)
    if listing.kind:
        statement = statement.where(resources.c.kind == listing.kind)
    if listing.under:
        statement = statement.where(below(key_of(listing.under) or "\x7f"))
    if listing.after:
        statement = statement.where(resources.c.key > (key_of(listing.after) or ""))
    return bound(statement, resources, tenancy)


def every() -> Select[Any]:
    return instance_wide(select(*_COLUMNS).where(state(deleted=False)).order_by(resources.c.key), WORLD)


# The row of a `key` in either state, for who writes it.
HELD = instance_wide(select(*_COLUMNS).where(resources.c.key == bindparam("key")), ONE_WRITER)


def family(key: str, *, deleted: bool) -> ColumnElement[bool]:
    """A row and those below it, in the same state."""
    return or_(resources.c.key == key, below(key)) & state(deleted=deleted)


def members(key: str, *, deleted: bool) -> Select[Any]:
    statement = select(*_COLUMNS).where(family(key, deleted=deleted)).order_by(resources.c.key)
    return instance_wide(statement, ONE_WRITER)


def claimed(claim: str, key: str) -> Select[Any]:
    """Whether another row has it."""
    statement = select(resources.c.id, resources.c.deleted_ms)
    return instance_wide(statement.where(resources.c.claim == claim, resources.c.key != key), ONE_WRITER)


def claim_of(row: Row) -> str | None:
    return row.name.lower() if row.kind == "account" else None


def values_of(row: Row, key: str) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(row)
    return values | {"key": key, "body": _encode(row.body).decode(), "claim": claim_of(row)}


def row_of(found: RowMapping | Mapping[str, Any]) -> Row:
    """Of all columns, or of those that a row has."""
    values: dict[str, Any] = {name: found[name] for name in Row.__struct_fields__}
    values["body"] = _body(found["body"])
    return Row(**values)


def last_number() -> Select[Any]:
    return instance_wide(select(func.coalesce(func.max(outbox.c.n), 0)), OUTBOX)


def recorded(*conditions: ColumnElement[bool]) -> Select[Any]:
    return instance_wide(select(outbox).where(*conditions).order_by(outbox.c.n), OUTBOX)


# A row for change `after` itself, by which it is known to be there.
AFTER = instance_wide(
    select(
        outbox.c.n, outbox.c.touched, select(meta.c.value).where(meta.c.name == EPOCH).scalar_subquery().label("epoch")
    )
    .where(outbox.c.n >= bindparam("after"))
    .order_by(outbox.c.n),
    OUTBOX,
)
PLACED = instance_wide(update(outbox).where(outbox.c.n == bindparam("number")).values(place=bindparam("at")), OUTBOX)


NUMBERED = instance_wide(select(outbox.c.n).where(outbox.c.id == bindparam("id")), OUTBOX)
RECORD = instance_wide(outbox.insert(), OUTBOX)


def recorded_of(found: RowMapping) -> Recorded:
    values: dict[str, Any] = {**found}
    return Recorded(**values | {"touched": touched_of(found["touched"])})


def recorded_values(made: Recorded) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(made)
    return values | {"touched": _encode(made.touched).decode()}


def beginning(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    return func.substr(column, 1, len(prefix)) == prefix


def secrets_of(prefix: str) -> Select[Any]:
    return instance_wide(select(secrets).where(beginning(secrets.c.ref, prefix)).order_by(secrets.c.ref), SECRETS)


def forget(condition: ColumnElement[bool]) -> Delete:
    return instance_wide(sql_delete(secrets).where(condition), SECRETS)
