"""One change, inside its transaction: what it reads, writes and touches. Nothing of it is visible before it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from entrepot.storage import Recorded, Row, Tenancy, Transaction


class Actor(msgspec.Struct, frozen=True):
    """On whose behalf: the principal's object id and shown name, the request's id, the peer's address."""

    principal: str
    name: str
    request: str
    peer: str


class Change:
    """Reads see the change's own writes. `recorded` is there after the block, unless nothing was touched."""

    actor: Actor
    action: str
    recorded: Recorded | None

    def __init__(
        self, transaction: Transaction, actor: Actor, action: str, noted: Mapping[str, str], at_ms: int
    ) -> None:
        self._transaction = transaction
        self.actor = actor
        self.action = action
        self.noted = dict(noted)
        self.at_ms = at_ms
        self.touched: dict[str, bytes | None] = {}
        self.recorded = None

    async def get(self, tenancy: Tenancy, id: str, *, deleted: bool = False) -> Row | None:  # noqa: A002
        return await self._transaction.get(tenancy, id, deleted=deleted)

    async def list(self, tenancy: Tenancy, kind: str, *, under: str = "", deleted: bool = False) -> list[Row]:
        return await self._transaction.list(tenancy, kind, under=under, deleted=deleted)

    def draft(
        self,
        id: str,  # noqa: A002
        kind: str,
        body: dict[str, Any],
        *,
        operator: str | None = None,
        subscription: str | None = None,
    ) -> Row:
        """A row that is new, or the successor of one that was read: `put` keeps who made it, and when."""
        raise NotImplementedError

    async def put(self, row: Row, *, if_match: str | None = None, if_none_match: bool = False) -> Row:
        raise NotImplementedError

    async def delete(self, id: str, *, if_match: str | None = None) -> None:  # noqa: A002
        raise NotImplementedError

    async def soft_delete(self, id: str, purge_ms: int) -> None:  # noqa: A002
        raise NotImplementedError

    async def secret(self, ref: str) -> bytes | None:
        raise NotImplementedError

    async def put_secret(self, ref: str, value: bytes) -> None:
        raise NotImplementedError

    async def forget_secrets(self, prefix: str) -> None:
        raise NotImplementedError

    async def enforce(self, release: str) -> Row:
        """Put a policy release into force: its row says so since now, the one before is superseded."""
        raise NotImplementedError

    def note(self, **noted: str) -> None:
        """`proposal`, `break_glass`: goes into the change's ledger entry."""
        self.noted.update(noted)
