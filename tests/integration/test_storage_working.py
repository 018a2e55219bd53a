"""A change that holds what it works on in memory means the same as one that asks and sends row by row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec
from sqlalchemy import event

from entrepot.errors import Error
from entrepot.storage import EVERYTHING, MasterKey, Row, Store, Tenancy, Transaction
from tenancies import watched

MASTER = MasterKey.generate()
SUBSCRIPTIONS = ("11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000")
ACCOUNTS = [
    f"/Subscriptions/{each}/resourceGroups/rg/providers/X/accounts/{n}" for each in SUBSCRIPTIONS for n in "abc"
]
IDS = [
    *(f"/subscriptions/{each}" for each in SUBSCRIPTIONS),
    *ACCOUNTS,
    *(f"{each}/deployments/d" for each in ACCOUNTS),
    "/providers/Entrepot.Access/organizations/acme",
    "/providers/Entrepot.Access/organizations/Bolt",
    "/providers/Entrepot.Access/regions/here",
]
TENANCIES = (
    EVERYTHING,
    Tenancy(),
    Tenancy(operators=frozenset({"north"})),
    Tenancy(subscriptions=frozenset({SUBSCRIPTIONS[0]})),
)


def row_of(random: Random, number: int) -> Row:
    id_ = random.choice(IDS)
    kinds = {"accounts": "account", "deployments": "deployment", "organizations": "organization", "regions": "region"}
    return Row(
        id=id_.upper() if random.random() < 0.1 else id_,
        kind=kinds.get(id_.split("/")[-2], "subscription"),
        name=id_.rpartition("/")[2],
        operator=random.choice([None, "north", "south"]),
        subscription=random.choice([None, *SUBSCRIPTIONS]),
        body={"number": number},
        created_ms=number,
        changed_ms=number,
    )


async def put(change: Transaction, random: Random, number: int) -> Row:
    row = row_of(random, number)
    held = await change.get(EVERYTHING, row.id)
    match = random.choice([None, None, None, "*", "no", held.etag if held is not None else "no"])
    return await change.put(row, if_match=match, if_none_match=random.random() < 0.2)


async def listed(change: Transaction, random: Random) -> list[Row]:
    kind = random.choice(["", "account", "account", "deployment"])
    under = random.choice(["", f"/subscriptions/{SUBSCRIPTIONS[1]}", f"/subscriptions/{SUBSCRIPTIONS[0]}"])
    deleted, limit = random.random() < 0.2, random.choice([None, None, 2])
    after = random.choice(["", "", ACCOUNTS[4]])
    return await change.list(random.choice(TENANCIES[:3]), kind, under=under, deleted=deleted, limit=limit, after=after)


async def done(change: Transaction, random: Random, number: int) -> Any:
    """One step; what it gave, or the error's name."""
    id_, ref = random.choice(IDS), random.choice(ACCOUNTS).lower() + random.choice(["/key1", "/key2"])
    tenancy, deleted = random.choice(TENANCIES), random.random() < 0.3
    steps: dict[Callable[[], Awaitable[Any]], int] = {
        lambda: put(change, random, number): 120,
        lambda: change.get(tenancy, id_, deleted=deleted): 60,
        lambda: listed(change, random): 120,
        lambda: change.put_secret(ref, f"{number}".encode()): 30,
        lambda: change.secret(ref): 30,
        change.secrets: 10,
        lambda: change.soft_delete(id_, 7): 1,
        lambda: change.recover(id_): 1,
        lambda: change.delete(id_): 1,
        lambda: change.forget_secrets(ref.rpartition("/")[0]): 1,
    }
    (step,) = random.choices(list(steps), list(steps.values()))
    try:
        return await step()
    except Error as error:
        return error.name, error.message


def shown(value: Any) -> Any:
    """Without etags, which are random."""
    if isinstance(value, Row):
        return msgspec.structs.replace(value, etag="")
    return [shown(each) for each in value] if isinstance(value, list) else value


async def stepped(change: Transaction, seed: int, *, held: bool) -> list[Any]:
    """What 60 random steps saw, and what is there after them."""
    random = Random(seed)
    if held:
        names = [each[-1] for each in ACCOUNTS] if seed % 2 else []
        await change.hold(SUBSCRIPTIONS[: seed % 3], [IDS[-3].upper()], names)
    found = [shown(await done(change, random, number)) for number in range(60)]
    return [*found, shown(await change.all()), await change.secrets()]


class UndoneError(Exception):
    """So that a change did not happen."""


def test_it_means_the_same(url: str) -> None:
    async def run() -> None:
        store = await Store.open(url, MASTER, now_ms=lambda: 1)
        try:
            with watched(store.engine.sync_engine):
                for seed in range(30):
                    with suppress(UndoneError):
                        async with store.change() as change:
                            alone = await stepped(change, seed, held=False)
                            raise UndoneError
                    with suppress(UndoneError):
                        async with store.change() as change:
                            assert await stepped(change, seed, held=True) == alone, seed
                            if seed % 4:  # the others stay, and the next ones begin with them
                                raise UndoneError
                    if seed % 4 == 0:
                        assert [shown(await store.all()), await store.secrets()] == alone[-2:]
        finally:
            await store.close()

    asyncio.run(run())


def test_what_it_holds_costs_no_statements(url: str) -> None:
    sent: list[str] = []

    async def run() -> None:
        store = await Store.open(url, MASTER)
        event.listen(store.engine.sync_engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
        try:
            async with store.change() as change:
                await change.put_secret("the master key is looked at", b"")
                await change.hold(SUBSCRIPTIONS, IDS[-3:], [each[-1] for each in ACCOUNTS])
                sent.clear()
                for number, id_ in enumerate(IDS):
                    row = msgspec.structs.replace(row_of(Random(number), number), id=id_, kind="thing")
                    assert await change.get(EVERYTHING, id_) is None
                    await change.put(row)
                    assert shown(await change.get(EVERYTHING, id_)) == row
                for ref in ACCOUNTS:
                    await change.put_secret(f"{ref.lower()}/key1", b"1")
                    assert await change.secret(f"{ref.lower()}/key1") == b"1"
                assert len(await change.list(EVERYTHING, "thing", under=IDS[0])) == 6
                assert sent == []
            assert len(sent) < 10
            assert len(await store.all()) == len(IDS)
        finally:
            await store.close()

    asyncio.run(run())
