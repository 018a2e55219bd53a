"""What the store holds, as callers see it."""

from __future__ import annotations

from typing import Any

import msgspec


class Tenancy(msgspec.Struct, frozen=True):
    """Whose rows a query may see: rows of these operators or subscriptions, and the instance's catalogue.

    The catalogue is what has neither an operator nor a subscription (None in both).
    """

    everything: bool = False
    operators: frozenset[str] = frozenset()
    subscriptions: frozenset[str] = frozenset()

    def sees(self, row: Row) -> bool:
        """As `bound.visible` has it in SQL."""
        return (
            self.everything
            or (row.operator is None and row.subscription is None)
            or row.operator in self.operators
            or row.subscription in self.subscriptions
        )


EVERYTHING = Tenancy(everything=True)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A resource. `id` is spelled as it was first written; rows are found by it without regard to case.

    `parent` is the parent's id in lower case, or empty. `etag` is opaque and without quotes; the store sets it.
    `deleted_ms` and `purge_ms` are there while the row is soft-deleted. `body` is JSON: unknown fields are kept.
    """

    id: str
    kind: str
    name: str
    operator: str | None = None
    subscription: str | None = None
    parent: str = ""
    body: dict[str, Any] = {}
    etag: str = ""
    created_ms: int = 0
    created_by: str = ""
    changed_ms: int = 0
    changed_by: str = ""
    deleted_ms: int | None = None
    purge_ms: int | None = None


class Recorded(msgspec.Struct, frozen=True):
    """A change in the outbox: number `n` of the instance, in the order of commits, without gaps.

    `entry` is what the ledger shall hold, `touched` the ids that changed; `place` is where the entry stands in the
    ledger, None as long as that is not known.
    """

    n: int
    id: str
    at_ms: int
    entry: bytes
    touched: tuple[str, ...]
    place: str | None
