"""What the database knows about itself: the instance's id, its epoch, and which master key its secrets are under."""

from __future__ import annotations

import base64
import uuid

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.errors import Code, Error
from entrepot.storage import queries
from entrepot.storage.bound import instance_wide
from entrepot.storage.master import MasterKey
from entrepot.storage.queries import EPOCH, OUTBOX, SECRETS
from entrepot.storage.tables import meta, secrets

INSTANCE = "instance"

# Sealed under the master key, so that a wrong key is found at the start, not when the first secret is asked for.
_CHECK, _CHECK_KEY, _CHECKED = "master_key_check", "master_key", b"entrepot"

# One statement: each request asks.
_REVISION = instance_wide(
    queries.last_number().add_columns(select(meta.c.value).where(meta.c.name == EPOCH).scalar_subquery()), OUTBOX
)


async def begin(connection: AsyncConnection, master: MasterKey) -> MasterKey:
    """Make what is not there yet. The key that fits: `master`, or the successor of an unfinished rotation."""
    found = (await connection.execute(select(meta.c.name))).scalars().all()
    if INSTANCE not in found:
        await put(connection, INSTANCE, str(uuid.uuid4()), new=True)
        await put(connection, EPOCH, "1", new=True)
        await put(connection, _CHECK_KEY, master.id, new=True)
        await put(connection, _CHECK, _check_of(master), new=True)
        return master
    key_id, check = await get(connection, _CHECK_KEY), await get(connection, _CHECK)
    for key in (master, master.successor):
        if key is not None and key.id == key_id:
            key.open(_CHECK, base64.b64decode(check))
            return key
    raise Error(
        Code.NOT_READY,
        f"the secrets in the database are under the master key {key_id}, and the key that was given is {master.id}:"
        " give the right one; without it the secrets are lost, restore the database with its key",
    )


async def check_key(connection: AsyncConnection, master: MasterKey) -> None:
    """Raises Error where the secrets are under another key by now: what this process wrote nobody could read."""
    if await get(connection, _CHECK_KEY) != master.id:
        raise Error(
            Code.NOT_READY,
            f"the master key was rotated meanwhile, and this process has the old one ({master.id}):"
            " restart it with the new one",
        )


async def rotate(connection: AsyncConnection, old: MasterKey, fresh: MasterKey) -> int:
    await check_key(connection, old)
    held = (await connection.execute(queries.secrets_of(""))).all()
    for each in held:
        sealed = fresh.seal(each.ref, old.open(each.ref, each.sealed))
        statement = update(secrets).where(secrets.c.ref == each.ref).values(key_id=fresh.id, sealed=sealed)
        await connection.execute(instance_wide(statement, SECRETS))
    await put(connection, _CHECK_KEY, fresh.id)
    await put(connection, _CHECK, _check_of(fresh))
    return len(held)


async def raise_epoch(connection: AsyncConnection) -> int:
    epoch = int(await get(connection, EPOCH)) + 1
    await put(connection, EPOCH, str(epoch))
    return epoch


async def get(connection: AsyncConnection, name: str) -> str:
    return str((await connection.execute(select(meta.c.value).where(meta.c.name == name))).scalar_one())


async def revision(connection: AsyncConnection) -> tuple[int, int]:
    """Epoch, and the number of the last change."""
    last, epoch = (await connection.execute(_REVISION)).one()
    return int(epoch), int(last)


async def put(connection: AsyncConnection, name: str, value: str, *, new: bool = False) -> None:
    if new:
        await connection.execute(insert(meta).values(name=name, value=value))
    else:
        await connection.execute(update(meta).where(meta.c.name == name).values(value=value))


def _check_of(master: MasterKey) -> str:
    return base64.b64encode(master.seal(_CHECK, _CHECKED)).decode()
