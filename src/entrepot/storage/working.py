"""What a change of many rows holds in memory, so that it neither asks for each nor sends each by itself.

INVARIANT: nobody else writes while the change holds the writer's lock, so what was read is true until it writes itself;
and what it wrote is sent before any statement that could miss it. Rows are kept as the database has them, and made anew
for whoever asks: nobody's dict is another's.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Table, bindparam, or_, select, update
from sqlalchemy.sql import Executable

from entrepot.storage import queries
from entrepot.storage.bound import instance_wide
from entrepot.storage.queries import ONE_WRITER, SECRETS, Listing, key_of
from entrepot.storage.rows import Row, Tenancy
from entrepot.storage.tables import resources, secrets

_ROOT = "/subscriptions/"
_MANY = "a change of many rows reads them at one go, and shows each only to a tenancy that sees it"

Values = Mapping[str, Any]


class Sealed(NamedTuple):
    key_id: str
    sealed: bytes


class Claimed(NamedTuple):
    """By which row a name is taken."""

    key: str
    deleted: bool


class Working:
    """Of one transaction. It knows all of some subscriptions, secrets included, some other rows, and some names."""

    def __init__(self, subscriptions: Iterable[str], keys: Iterable[str], claims: Iterable[str]) -> None:
        """All in lower case: GUIDs, ids, accounts' names."""
        self.claims: dict[str, Claimed | None] = dict.fromkeys(claims)
        self._under: dict[str, dict[str, Values]] = {each: {} for each in subscriptions}
        self._others: dict[str, Values | None] = dict.fromkeys(keys)
        self._sealed: dict[str, Sealed] = {}
        self._listed: dict[tuple[Tenancy, Listing], list[Values]] = {}
        self._inserts: dict[str, Values] = {}
        self._updates: dict[str, Values] = {}
        self._secrets: dict[str, Sealed] = {}

    def wanted_rows(self) -> Select[Any] | None:
        """What to read to begin with, if anything, for `begin_rows`; likewise secrets, and names that are taken."""
        roots = self._roots()
        if not roots and not self._others:
            return None
        one = resources.c.key.in_([*roots, *self._others])
        return instance_wide(select(resources).where(or_(one, *(queries.below(each) for each in roots))), _MANY)

    def begin_rows(self, rows: Iterable[Values]) -> None:
        for each in rows:
            self.keep(each["key"], each)

    def wanted_secrets(self) -> Select[Any] | None:
        conditions = [_within(secrets, "ref", each) for each in self._roots()]
        return instance_wide(select(secrets).where(or_(*conditions)), SECRETS) if conditions else None

    def begin_secrets(self, kept: Iterable[Any]) -> None:
        self._sealed = {each.ref: Sealed(each.key_id, each.sealed) for each in kept}

    def wanted_claims(self) -> Select[Any] | None:
        taken = select(resources.c.claim, resources.c.key, resources.c.deleted_ms)
        return instance_wide(taken.where(resources.c.claim.in_([*self.claims])), ONE_WRITER) if self.claims else None

    def begin_claims(self, taken: Iterable[Any]) -> None:
        self.claims |= {each.claim: Claimed(each.key, each.deleted_ms is not None) for each in taken}

    def _roots(self) -> builtins.list[str]:
        return [_ROOT + each for each in self._under]

    def knows(self, key: str) -> bool:
        return _subscription(key) in self._under or key in self._others

    def keep(self, key: str, values: Values | None) -> None:
        """A row as it was read; None: there is none."""
        inside = self._under.get(_subscription(key))
        if inside is None:
            self._others[key] = values
        elif values is not None:
            inside[key] = values

    def row(self, key: str) -> Row | None:
        """In either state, of those that it knows."""
        values = self._under.get(_subscription(key), self._others).get(key)
        return None if values is None else queries.row_of(values)

    def list(self, tenancy: Tenancy, listing: Listing) -> builtins.list[Row] | None:
        """None where it does not know them all."""
        if (listed := self._listed.get((tenancy, listing))) is not None:
            return [queries.row_of(each) for each in listed]
        start = (key_of(listing.under) or "").rstrip("/") + "/"
        inside = self._under.get(_subscription(start))
        if inside is None:
            return None
        found = [
            queries.row_of(values)
            for key, values in sorted(inside.items())
            if key.startswith(start)
            and key > (key_of(listing.after) or "")
            and (values["deleted_ms"] is not None) == listing.deleted
            and listing.kind in {"", values["kind"]}
        ]
        return [row for row in found if tenancy.sees(row)][: listing.limit]

    def keep_list(self, tenancy: Tenancy, listing: Listing, rows: builtins.list[Values]) -> None:
        self._listed[tenancy, listing] = rows

    def put(self, key: str, values: Values, before: Row | None) -> None:
        states = {values["deleted_ms"] is not None, before is not None and before.deleted_ms is not None}
        for asked in [each for each in self._listed if each[1].kind in {"", values["kind"]}]:
            if asked[1].deleted in states:
                del self._listed[asked]
        self.keep(key, values)
        if values["claim"] is not None:
            self.claims[values["claim"]] = Claimed(key, deleted=False)
        waiting = self._inserts if before is None or key in self._inserts else self._updates
        waiting[key] = values

    def knows_secret(self, ref: str) -> bool:
        return ref in self._sealed or _subscription(ref) in self._under

    def secret(self, ref: str) -> Sealed | None:
        return self._sealed.get(ref)

    def put_secret(self, ref: str, sealed: Sealed) -> None:
        self._sealed[ref] = self._secrets[ref] = sealed

    def unsent(self) -> builtins.list[tuple[Executable, builtins.list[Values] | None]]:
        """The statements that send what was written since, with their parameters."""
        found: list[tuple[Executable, list[Values] | None]] = []
        if self._inserts:
            found.append((instance_wide(resources.insert(), ONE_WRITER), [*self._inserts.values()]))
        if self._updates:
            statement = update(resources).where(resources.c.key == bindparam("row"))
            given: list[Values] = [{**values, "row": key} for key, values in self._updates.items()]
            found.append((instance_wide(statement, ONE_WRITER), given))
        if self._secrets:
            found.append((queries.forget(secrets.c.ref.in_([*self._secrets])), None))
            given = [{"ref": ref, **each._asdict()} for ref, each in self._secrets.items()]
            found.append((instance_wide(secrets.insert(), SECRETS), given))
        self._inserts, self._updates, self._secrets = {}, {}, {}
        return found


def _subscription(key: str) -> str:
    """The subscription that an id in lower case is in; empty where it is in none."""
    return key.split("/", 3)[2] if key.startswith(_ROOT) else ""


def _within(table: Table, column: str, root: str) -> ColumnElement[bool]:
    """As `queries.below`."""
    return (table.c[column] > f"{root}/") & (table.c[column] < f"{root}0")


def lowered(ids: Collection[str]) -> builtins.list[str]:
    """Those that a database can hold, in lower case."""
    return sorted({key for each in ids if (key := key_of(each)) is not None})
