"""One change: everything in it becomes true together, or nothing."""

from __future__ import annotations

import builtins
import secrets as random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import Executable

from entrepot.errors import Code, Error
from entrepot.storage import facts, queries
from entrepot.storage.bound import instance_wide
from entrepot.storage.engine import answered
from entrepot.storage.master import MasterKey
from entrepot.storage.queries import ONE_WRITER, SECRETS, Listing, key_of
from entrepot.storage.rows import Recorded, Row, Tenancy
from entrepot.storage.tables import resources, secrets
from entrepot.storage.working import Claimed, Sealed, Working, lowered
from entrepot.storage.writer import to_its_end


class Transaction:
    """Reads its own writes. Of use only inside `Store.change`. A caller that is cancelled never cuts off a statement.

    Writes are not bound to a tenancy: who may write what was decided before. `recorded` are the outbox ids so far.
    """

    def __init__(self, connection: AsyncConnection, master: MasterKey, now_ms: Callable[[], int]) -> None:
        self.recorded: builtins.list[str] = []
        self._connection = connection
        self._master = master
        self._now_ms = now_ms
        self._working: Working | None = None
        self._key_checked = False
        self._revision: tuple[int, int] | None = None

    async def hold(self, subscriptions: Collection[str], ids: Collection[str], accounts: Collection[str]) -> None:
        """Read all that is in these subscriptions (GUIDs), and these rows, at one go.

        What is asked of them then, and of rows that were read one by one, costs no statement, and writes are sent
        together. `accounts` are names that it may give. Of no effect but that.
        """
        await self.send()
        self._working = working = Working(lowered(subscriptions), lowered(ids), lowered(accounts))
        if (rows := working.wanted_rows()) is not None:
            working.begin_rows(map(dict, (await self._execute(rows)).mappings()))
        if (kept := working.wanted_secrets()) is not None:
            working.begin_secrets(await self._execute(kept))
        if (taken := working.wanted_claims()) is not None:
            working.begin_claims(await self._execute(taken))

    async def send(self) -> None:
        """What was written so far and waits to be sent with more. `Store.change` does it before it commits."""
        for statement, given in () if self._working is None else self._working.unsent():
            with answered():
                await to_its_end(self._connection.execute(statement, given))

    async def get(self, tenancy: Tenancy, id: str, *, deleted: bool = False) -> Row | None:  # noqa: A002
        """As `Store.get`."""
        key = key_of(id)
        if key is None:
            return None
        if self._working is not None:
            row = await self._held(key)
            seen = row is not None and (row.deleted_ms is not None) == deleted and tenancy.sees(row)
            return row if seen else None
        found = await self._rows(queries.one(tenancy, key, deleted=deleted))
        return found[0] if found else None

    async def list(
        self,
        tenancy: Tenancy,
        kind: str,
        *,
        under: str = "",
        deleted: bool = False,
        limit: int | None = None,
        after: str = "",
    ) -> builtins.list[Row]:
        """As `Store.list`."""
        listing = Listing(kind, under, deleted, limit, after)
        if self._working is None:
            return await self._rows(queries.many(tenancy, listing))
        if (known := self._working.list(tenancy, listing)) is None:
            found = (await self._execute(queries.many(tenancy, listing))).mappings()
            self._working.keep_list(tenancy, listing, [dict(each) for each in found])
            known = self._working.list(tenancy, listing) or []
        return known

    async def all(self) -> builtins.list[Row]:
        """As `Store.all`, with what this change wrote."""
        return await self._rows(queries.every())

    async def put(self, row: Row, *, if_match: str | None = None, if_none_match: bool = False) -> Row:
        """Write a row as it is given, but for a fresh `etag`, and `id` and `created_*` of the row that it replaces.

        `if_match` is an etag or `*`. A live row replaces a soft-deleted one only with that one's etag: it recovers it.
        Raises Error: PRECONDITION_FAILED; CONFLICT where it would replace a soft-deleted row, or where another account,
        soft-deleted or not, has that name; INVALID_BODY for an id that no database can hold.
        """
        key = key_of(row.id)
        if key is None or key_of(row.name) is None:
            raise Error(Code.INVALID_BODY, f"`{row.id!a}` is no id: it holds characters that are none")
        held = await self._held(key)
        _check(row.id, held, if_match, none=if_none_match)
        if held is not None and held.deleted_ms is not None and row.deleted_ms is None and if_match != held.etag:
            message = f"`{held.id}` is soft-deleted: recover or purge it first"
            raise Error(Code.CONFLICT, message, name="SoftDeleted", param=held.id)
        await self._claim(row, key, held)
        row = replace(row, etag=random.token_hex(8))
        if held is not None:
            row = replace(row, id=held.id, created_ms=held.created_ms, created_by=held.created_by)
        values = queries.values_of(row, key)
        if self._working is not None:
            self._working.put(key, values, held)
        elif held is None:
            await self._execute(instance_wide(insert(resources).values(values), ONE_WRITER))
        else:
            await self._write(key, values)
        return row

    async def delete(self, id: str, *, if_match: str | None = None) -> builtins.list[Row]:  # noqa: A002
        """Remove a row and those below it that are in its state: live ones, or soft-deleted ones (a purge).

        What was removed, the row itself first; nothing where there is none. Raises Error(PRECONDITION_FAILED).
        """
        gone = await self._family(id, if_match)
        if gone:
            condition = queries.family(gone[0].id.lower(), deleted=gone[0].deleted_ms is not None)
            await self._execute(instance_wide(delete(resources).where(condition), ONE_WRITER))
        return gone

    async def soft_delete(self, id: str, purge_ms: int, *, if_match: str | None = None) -> builtins.list[Row]:  # noqa: A002
        """Hide a live row and those below it until `put` or `recover` brings them back, or `delete` purges them.

        What was hidden, as it is now, the row itself first. Raises Error(PRECONDITION_FAILED).
        """
        key = key_of(id)
        held = await self._held(key) if key is not None else None
        if held is None or held.deleted_ms is not None:
            _check(id, None, if_match)
            return []
        return await self._turn(await self._family(id, if_match), self._now_ms(), purge_ms)

    async def recover(self, id: str) -> builtins.list[Row]:  # noqa: A002
        """Bring a soft-deleted row back, with those below it that were hidden with it."""
        hidden = await self._family(id, None)
        if not hidden or hidden[0].deleted_ms is None:
            return []
        since_ms = hidden[0].deleted_ms
        return await self._turn([row for row in hidden if row.deleted_ms == since_ms], None, None)

    async def put_secret(self, ref: str, value: bytes) -> None:
        """`value` is encrypted before it leaves this process. Raises Error if the master key was rotated meanwhile."""
        if not self._key_checked:  # once: a rotation is a writer too
            with answered():
                await to_its_end(facts.check_key(self._connection, self._master))
            self._key_checked = True
        if self._working is not None:
            self._working.put_secret(ref, Sealed(self._master.id, self._master.seal(ref, value)))
            return
        await self._execute(queries.forget(secrets.c.ref == ref))
        sealed = {"ref": ref, "key_id": self._master.id, "sealed": self._master.seal(ref, value)}
        await self._execute(instance_wide(insert(secrets).values(sealed), SECRETS))

    async def secret(self, ref: str) -> bytes | None:
        """As `Store.secret`."""
        if self._working is not None and self._working.knows_secret(ref):
            kept = self._working.secret(ref)
            return None if kept is None else unsealed(self._master, ref, kept.key_id, kept.sealed)
        found = (await self._execute(instance_wide(select(secrets).where(secrets.c.ref == ref), SECRETS))).first()
        return unsealed(self._master, found.ref, found.key_id, found.sealed) if found is not None else None

    async def secrets(self, prefix: str = "") -> dict[str, bytes]:
        """As `Store.secrets`."""
        found = (await self._execute(queries.secrets_of(prefix))).all()
        return {each.ref: unsealed(self._master, each.ref, each.key_id, each.sealed) for each in found}

    async def revision(self) -> tuple[int, int]:
        """Epoch, and the number of the last change: `record` gives the next one."""
        if self._revision is None:  # once: nobody else gives numbers meanwhile
            with answered():
                self._revision = await to_its_end(facts.revision(self._connection))
        return self._revision

    async def forget_secret(self, ref: str) -> None:
        await self._let_go()
        await self._execute(queries.forget(secrets.c.ref == ref))

    async def forget_secrets(self, prefix: str) -> None:
        """All whose references begin so."""
        await self._let_go()
        await self._execute(queries.forget(queries.beginning(secrets.c.ref, prefix)))

    async def record(self, id: str, at_ms: int, entry: bytes, touched: Sequence[str]) -> int:  # noqa: A002
        """Put the change into the outbox. Its number: the instance's last one plus one, in the order of commits.

        Raises Error(CONFLICT) where the outbox has that id already.
        """
        if (await self._execute(queries.NUMBERED, {"id": id})).first() is not None:
            raise Error(Code.CONFLICT, f"the change `{id}` was recorded before")
        # Only the one writer gets here, and its number is lost with it when it rolls back: so no gaps.
        epoch, last = await self.revision()
        n = last + 1
        await self._execute(
            queries.RECORD, queries.recorded_values(Recorded(n, id, at_ms, entry, tuple(touched), None))
        )
        self._revision = epoch, n
        self.recorded.append(id)
        return n

    async def _claim(self, row: Row, key: str, held: Row | None) -> None:
        """Raises Error where what no two rows may have is another's."""
        claim = queries.claim_of(row)
        if claim is None or (held is not None and queries.claim_of(held) == claim):
            return
        if (other := await self._claimed(claim, key)) is not None:
            state = "a soft-deleted" if other.deleted else "another"
            raise Error(Code.CONFLICT, f"the name `{row.name}` is taken by {state} account", name="CustomDomainInUse")

    async def _claimed(self, claim: str, key: str) -> Claimed | None:
        """By another row than that of the key."""
        if self._working is not None and claim in self._working.claims:
            known = self._working.claims[claim]
            return known if known is not None and known.key != key else None
        other = (await self._execute(queries.claimed(claim, key))).first()
        return None if other is None else Claimed(other.id.lower(), other.deleted_ms is not None)

    async def _let_go(self) -> None:
        """Of what is held in memory: what follows is not kept account of there."""
        await self.send()
        self._working = None

    async def _turn(self, rows: builtins.list[Row], deleted_ms: int | None, purge_ms: int | None) -> builtins.list[Row]:
        turned = [replace(row, etag=random.token_hex(8), deleted_ms=deleted_ms, purge_ms=purge_ms) for row in rows]
        for row in turned:
            values = {"etag": row.etag, "deleted_ms": deleted_ms, "purge_ms": purge_ms}
            await self._write(row.id.lower(), values)
        return turned

    async def _family(self, id: str, if_match: str | None) -> builtins.list[Row]:  # noqa: A002
        await self._let_go()
        key = key_of(id)
        held = await self._held(key) if key is not None else None
        _check(id, held, if_match)
        if key is None or held is None:
            return []
        return await self._rows(queries.members(key, deleted=held.deleted_ms is not None))

    async def _held(self, key: str) -> Row | None:
        working = self._working
        if working is not None and working.knows(key):
            return working.row(key)
        found = (await self._execute(queries.HELD, {"key": key})).mappings().first()
        if working is not None:
            working.keep(key, None if found is None else dict(found))
        return None if found is None else queries.row_of(found)

    async def _write(self, key: str, values: dict[str, Any]) -> None:
        await self._execute(instance_wide(update(resources).where(resources.c.key == key).values(values), ONE_WRITER))

    async def _rows(self, statement: Executable) -> builtins.list[Row]:
        found = await self._execute(statement)
        return [queries.row_of(each) for each in found.mappings()]

    async def _execute(self, statement: Executable, given: Mapping[str, Any] | None = None) -> Any:
        await self.send()
        with answered():
            return await to_its_end(self._connection.execute(statement, given))


def unsealed(master: MasterKey, ref: str, key_id: str, sealed: bytes) -> bytes:
    """Raises Error where it is under another key than ours."""
    if key_id != master.id:
        raise Error(
            Code.NOT_READY,
            f"the secret `{ref}` is under the master key {key_id}, and this process has {master.id}:"
            " the key was rotated meanwhile; restart with the new one",
        )
    return master.open(ref, sealed)


def _check(id: str, held: Row | None, if_match: str | None, *, none: bool = False) -> None:  # noqa: A002
    """What the client expects to be there."""
    if none and held is not None and held.deleted_ms is None:
        raise Error(Code.PRECONDITION_FAILED, f"`{held.id}` exists already", name="PreconditionFailed", param=id)
    if if_match is not None and (held is None or if_match not in {held.etag, "*"}):
        what = "was changed meanwhile: read it again" if held is not None else "does not exist"
        raise Error(Code.PRECONDITION_FAILED, f"`{id}` {what}", name="PreconditionFailed", param=id)
