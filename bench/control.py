"""The control plane with many clients: import, start, one change, the whole's compile, and what a gateway waits for.

python bench/control.py --organizations 10000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert

from entrepot.management.changes import Actor, parent_of
from entrepot.management.control import Control
from entrepot.policy import shipped
from entrepot.resources.documents import documents_of
from entrepot.resources.ids import access_id, account_id, deployment_id, part
from entrepot.resources.model import (
    Account,
    Deployment,
    Keys,
    Model,
    Operator,
    Organization,
    PackSource,
    Provider,
    Region,
    Subscription,
    Upstream,
    World,
)
from entrepot.snapshot import Compiled, decode, encode
from entrepot.storage import EVERYTHING, MasterKey, Row
from entrepot.storage.queries import values_of
from entrepot.storage.tables import resources, secrets

IMPORTED = 100
CHANGES = 60
MASTER = MasterKey(b"0123456789abcdef0123456789abcdef")
ADMIN = Actor("00000000-0000-4000-8000-000000000001", "admin", "", "127.0.0.1")

MODELS = ("gpt-4o", "gpt-4.1", "o4-mini", "text-embedding-3-small")


def subscription_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def world_of(organizations: int) -> World:
    """Each organization with a subscription, an account and two deployments; 20 regions, 40 upstreams, 10 operators."""
    regions = tuple(Region(f"region-{n}", "JP", f"operator-{n % 10}", ("apac",)) for n in range(20))
    upstreams = tuple(
        Upstream(
            f"upstream-{n}",
            "openai",
            f"region-{n % 20}",
            "openai",
            f"http://127.0.0.1:{9000 + n}/v1",
            "none",
            {f"{model}@1": model for model in MODELS},
        )
        for n in range(40)
    )
    return World(
        operators=tuple(Operator(f"operator-{n}", f"Operator {n}", "JP") for n in range(10)),
        regions=regions,
        providers=(Provider("openai"),),
        models=tuple(Model(model, "1", "openai") for model in MODELS),
        upstreams=upstreams,
        organizations=tuple(
            Organization(f"org-{n}", f"Organization {n}", "JP", "enterprise", "approved", screening="clear")
            for n in range(organizations)
        ),
        subscriptions=tuple(Subscription(subscription_of(n), f"org-{n}") for n in range(organizations)),
        accounts=tuple(
            Account(
                f"account-{n}",
                subscription_of(n),
                "rg",
                f"region-{n % 20}",
                "direct" if n % 2 else "cloud",
                f"operator-{n % 10}",
                Keys("sha256:" + "0" * 64),
                deployments=(
                    Deployment("chat", MODELS[n % 3], "1", "GlobalStandard", 10),
                    Deployment("embed", MODELS[3], "1", "GlobalStandard", 10),
                ),
            )
            for n in range(organizations)
        ),
        packs=tuple(PackSource(name, shipped(name).data) for name in ("entrepot:base", "entrepot:openai-api")),
    )


async def open_control(data: Path, url: str | None) -> Control:
    return await Control.open(data, url or f"sqlite:///{data / 'control.db'}", MASTER)


async def put_world(control: Control, world: World) -> None:
    """As `apply` would, but hundreds of resources in one change."""
    documents = documents_of(world)
    for at in range(0, len(documents), 500):
        async with control.change(ADMIN, "bench/write") as change:
            for each in documents[at : at + 500]:
                subscription = part(each.id, "subscriptions")
                await change.put(change.draft(each.id, each.kind, dict(each.body), subscription=subscription))
                for which in ("key1", "key2") if each.kind == "account" else ():
                    await change.put_secret(f"{each.id.lower()}/{which}", f"{each.name}-{which}".encode())
    async with control.change(ADMIN, "bench/release") as change:
        packs = [{"name": pack.name, "text": pack.data.decode()} for pack in world.packs]
        release = access_id("policyRelease", "first")
        await change.put(change.draft(release, "policyRelease", {"properties": {"packs": packs}}))
        await change.enforce(release)


async def fill(control: Control, world: World) -> None:
    """What is not there yet, by the statements of the store, thousands of rows at a time."""
    store, rows, kept = control.store, [], []
    there = {row.id.lower() for row in await store.all()}
    for each in documents_of(world):
        if each.id.lower() in there:
            continue
        key, subscription = each.id.lower(), part(each.id, "subscriptions")
        row = Row(
            id=each.id,
            kind=each.kind,
            name=each.name,
            subscription=subscription,
            parent=parent_of(each.id),
            body=dict(each.body),
            etag="0",
        )
        rows.append(values_of(row, key))
        for which in ("key1", "key2") if each.kind == "account" else ():
            at = f"{key}/{which}"
            kept.append({"ref": at, "key_id": MASTER.id, "sealed": MASTER.seal(at, f"{each.name}-{which}".encode())})
    async with store.engine.begin() as connection:
        for table, values in ((resources, rows), (secrets, kept)):
            for start in range(0, len(values), 1_000):
                await connection.execute(insert(table), values[start : start + 1_000])


class Clock:
    """Wall and CPU time of this process, since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def told(self, what: str, times: int = 1) -> None:
        wall, cpu = (time.perf_counter() - self._wall) / times, (time.process_time() - self._cpu) / times
        print(f"{what:58} {wall * 1000:10.1f} ms {cpu * 1000:10.1f} ms CPU", flush=True)


async def measure(organizations: int, data: Path, url: str | None) -> None:
    control = await open_control(data, url)
    clock = Clock()
    await put_world(control, world_of(IMPORTED))
    clock.told(f"import of {IMPORTED} organizations through changes")
    clock = Clock()
    await fill(control, world_of(organizations))
    clock.told(f"the rest of {organizations}, straight into the database")
    await control.close()
    del control
    gc.collect()
    clock = Clock()
    control = await open_control(data, url)
    clock.told("start with them")
    for name, change in (("deployment", _deployment), ("key", _key), ("organization", _organization)):
        clock = Clock()
        took = [await change(control, number * 37 % organizations) for number in range(CHANGES)]
        clock.told(f"a change of one {name}: mean of {CHANGES}", CHANGES)
        print(f"{'  median, slowest':58} {statistics.median(took) * 1000:10.1f} ms {max(took) * 1000:10.1f} ms")
    clock = Clock()
    await _region(control)
    clock.told("a change of a region: all is compiled anew")
    published = control.published
    clock = Clock()
    Compiled.whole(published)
    clock.told("  of that, the whole's compile")
    clock = Clock()
    message = encode(published)
    clock.told(f"encoding the whole ({len(message) / 1e6:.1f} MB)")
    clock = Clock()
    decode(message)
    clock.told("decoding it")
    await control.close()
    print(f"{'peak memory':58} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:10.1f} MB")


async def _deployment(control: Control, number: int) -> float:
    account = account_id(subscription_of(number), "rg", f"account-{number}")
    began = time.perf_counter()
    async with control.change(ADMIN, "Microsoft.CognitiveServices/accounts/deployments/write") as change:
        row = await change.get(EVERYTHING, deployment_id(account, "chat"))
        assert row is not None
        row.body["sku"]["capacity"] += 1
        await change.put(change.draft(row.id, row.kind, row.body, subscription=row.subscription))
    return time.perf_counter() - began


async def _key(control: Control, number: int) -> float:
    account = account_id(subscription_of(number), "rg", f"account-{number}")
    began = time.perf_counter()
    async with control.change(ADMIN, "Microsoft.CognitiveServices/accounts/regenerateKey/action") as change:
        await change.put_secret(f"{account.lower()}/key1", f"{time.time_ns()}".encode())
    return time.perf_counter() - began


async def _organization(control: Control, number: int) -> float:
    began = time.perf_counter()
    async with control.change(ADMIN, "Entrepot.Access/organizations/write") as change:
        row = await change.get(EVERYTHING, f"/providers/Entrepot.Access/organizations/org-{number}")
        assert row is not None
        row.body["properties"]["legalName"] += "."
        await change.put(change.draft(row.id, row.kind, row.body, operator=row.operator))
    return time.perf_counter() - began


async def _region(control: Control) -> None:
    async with control.change(ADMIN, "Entrepot.Access/regions/write") as change:
        row = await change.get(EVERYTHING, "/providers/Entrepot.Access/regions/region-1")
        assert row is not None
        row.body["properties"]["displayName"] = "Region One"
        await change.put(change.draft(row.id, row.kind, row.body))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--organizations", type=int, default=10_000)
    parser.add_argument("--database", help="postgresql://…; without it SQLite in a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(given.organizations, Path(folder), given.database))


if __name__ == "__main__":
    main()
