"""One change, inside its transaction: what it reads, writes and touches. None of it is visible before it is whole."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.ledger import entries
from entrepot.resources.documents import timestamp
from entrepot.resources.ids import access_id
from entrepot.storage import EVERYTHING, Recorded, Row, Tenancy, Transaction


class Actor(msgspec.Struct, frozen=True):
    """On whose behalf: the principal's object id and shown name, the request's id, the peer's address."""

    principal: str
    name: str
    request: str
    peer: str


# The control plane itself, for what it does at an instant that was set before.
ITSELF = Actor("entrepot", "entrepot", "", "")


def parent_of(id: str) -> str:  # noqa: A002
    """The id, in lower case, of the resource that this one lies in; empty for one that lies in none."""
    parts = id.lower().strip("/").split("/")[:-2]
    while len(parts) >= 2 and parts[-2] == "providers":
        parts = parts[:-2]
    return "/" + "/".join(parts) if len(parts) >= 2 else ""


class Change:
    """Reads see the change's own writes. `recorded` is there after the block, unless nothing was touched.

    `touched` maps ids in lower case to the row as it is now; None: it is not there any more.
    """

    def __init__(self, transaction: Transaction, actor: Actor, action: str, noted: Mapping[str, str]) -> None:
        self.actor = actor
        self.action = action
        self.noted = dict(noted)
        self.at_ms = wall_clock_ms()
        self.touched: dict[str, Row | None] = {}
        self.recorded: Recorded | None = None
        self.judged: builtins.list[asyncio.Future[str]] = []  # decisions that become durable before it does
        self._spelt: dict[str, str] = {}
        self.transaction = transaction

    async def hold(self, subscriptions: Iterable[str], ids: Iterable[str], accounts: Iterable[str]) -> None:
        """As `Transaction.hold`."""
        await self.transaction.hold({*subscriptions}, {*ids}, {*accounts})

    async def get(self, tenancy: Tenancy, id: str, *, deleted: bool = False) -> Row | None:  # noqa: A002
        """As `Store.get`."""
        return await self.transaction.get(tenancy, id, deleted=deleted)

    async def list(
        self, tenancy: Tenancy, kind: str, *, under: str = "", deleted: bool = False, limit: int | None = None
    ) -> builtins.list[Row]:
        """As `Store.list`."""
        return await self.transaction.list(tenancy, kind, under=under, deleted=deleted, limit=limit)

    def draft(
        self,
        id: str,  # noqa: A002
        kind: str,
        body: dict[str, Any],
        *,
        operator: str | None = None,
        subscription: str | None = None,
    ) -> Row:
        """A row to `put`, made or changed by the actor now; its name and parent follow from the id."""
        return Row(
            id=id,
            kind=kind,
            name=id.rpartition("/")[2],
            operator=operator,
            subscription=subscription,
            parent=parent_of(id),
            body=body,
            created_ms=self.at_ms,
            created_by=self.actor.name,
            changed_ms=self.at_ms,
            changed_by=self.actor.name,
        )

    async def put(self, row: Row, *, if_match: str | None = None, if_none_match: bool = False) -> Row:
        """As `Transaction.put`."""
        row = await self.transaction.put(row, if_match=if_match, if_none_match=if_none_match)
        self._touch(row.id, row)
        return row

    async def delete(self, id: str, *, if_match: str | None = None) -> builtins.list[Row]:  # noqa: A002
        """As `Transaction.delete`."""
        return self._gone(await self.transaction.delete(id, if_match=if_match))

    async def soft_delete(self, id: str, purge_ms: int, *, if_match: str | None = None) -> builtins.list[Row]:  # noqa: A002
        """As `Transaction.soft_delete`."""
        return self._gone(await self.transaction.soft_delete(id, purge_ms, if_match=if_match))

    async def recover(self, id: str) -> builtins.list[Row]:  # noqa: A002
        """As `Transaction.recover`."""
        rows = await self.transaction.recover(id)
        for row in rows:
            self._touch(row.id, row)
        return rows

    async def secret(self, ref: str) -> bytes | None:
        return await self.transaction.secret(ref)

    async def put_secret(self, ref: str, value: bytes) -> None:
        """Touches the resource that the secret is of."""
        await self.transaction.put_secret(ref, value)
        await self._touch_owner(ref)

    async def forget_secret(self, ref: str) -> None:
        await self.transaction.forget_secret(ref)
        await self._touch_owner(ref)

    async def forget_secrets(self, prefix: str) -> None:
        """All whose references begin so: `{id in lower case}/`."""
        await self.transaction.forget_secrets(prefix)
        await self._touch_owner(prefix)

    async def enforce(self, release: str) -> Row:
        """Put a policy release into force: its row says so since now, the one before is superseded.

        Raises Error NOT_FOUND.
        """
        row = await self._release(release)
        for other in await self.list(EVERYTHING, "policyRelease"):
            if other.body.get("properties", {}).get("state") == "inForce" and other.id != row.id:
                await self._put_properties(other, state="superseded")
        return await self._put_properties(row, state="inForce", inForceSince=timestamp(self.at_ms))

    async def supersede(self, release: str) -> Row:
        """A policy release whose time has passed never comes into force. Raises Error NOT_FOUND."""
        return await self._put_properties(await self._release(release), state="superseded")

    def tell(self, id: str, n: int, entry: bytes) -> None:  # noqa: A002
        """What the outbox holds of it."""
        self.recorded = Recorded(n, id, self.at_ms, entry, tuple(self.ids()), None)

    def note(self, **noted: str) -> None:
        """`proposal`, `break_glass`: goes into the change's ledger entry."""
        self.noted.update(noted)

    def ids(self) -> builtins.list[str]:
        """What was touched, as it is spelled, in order."""
        return [self._spelt[key] for key in sorted(self.touched)]

    def entry(self, id: str, epoch: int, n: int) -> bytes:  # noqa: A002
        """The ledger's entry of the change, when it is number `n`."""
        return entries.encode(
            entries.Change(
                action=self.action,
                at_ms=self.at_ms,
                break_glass=self.noted.get("break_glass", msgspec.UNSET),
                by=self.actor.principal,
                epoch=epoch,
                id=id,
                proposal=self.noted.get("proposal", msgspec.UNSET),
                resources=tuple(self._told()),
                revision=n,
            )
        )

    def _told(self) -> Iterable[entries.Touched]:
        for key in sorted(self.touched):
            row = self.touched[key]
            digest = msgspec.UNSET if row is None else digest_of(row)
            yield entries.Touched(digest=digest, resource=self._spelt[key])

    async def _release(self, release: str) -> Row:
        row = await self.get(EVERYTHING, release)
        if row is None or row.kind != "policyRelease":
            raise Error(Code.NOT_FOUND, f"there is no policy release `{release}`", name="ResourceNotFound")
        return row

    async def _put_properties(self, row: Row, **changed: str) -> Row:
        body = {**row.body, "properties": {**row.body.get("properties", {}), **changed}}
        made = self.draft(row.id, row.kind, body, operator=row.operator, subscription=row.subscription)
        return await self.put(made)

    async def _touch_owner(self, ref: str) -> None:
        owner = ref.rpartition("/")[0]
        if owner not in self.touched:
            row = await self.get(EVERYTHING, owner)
            self._touch(row.id if row is not None else owner, row)

    def _gone(self, rows: builtins.list[Row]) -> builtins.list[Row]:
        for row in rows:
            self._touch(row.id, None)
        return rows

    def _touch(self, id: str, row: Row | None) -> None:  # noqa: A002
        key = id.lower()
        self._spelt.setdefault(key, id)
        self.touched[key] = row


def digest_of(row: Row) -> str:
    """Of a resource as it is stored: its id, its tenancy and its document, as JSON with sorted keys."""
    form = {
        "body": row.body,
        "id": row.id,
        "kind": row.kind,
        "operator": row.operator,
        "subscription": row.subscription,
    }
    return sha256(msgspec.json.encode(form, order="deterministic")).hexdigest()


def gateway_id(name: str) -> str:
    return access_id("gateway", name)
