"""What tests of changes share: the demo's world in a control plane, one resource written, what must hold after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from entrepot.errors import Error
from entrepot.ledger import entries
from entrepot.ledger.read import entries_of, folders_of
from entrepot.management.changes import Change
from entrepot.management.control import Control
from entrepot.resources.ids import access_id, account_id, deployment_id
from entrepot.storage import EVERYTHING, Row
from worlds import ADMIN, demo_world, open_control, put_world

SUBSCRIPTION = "11111111-1111-4111-8111-111111111111"
ACCOUNT = account_id(SUBSCRIPTION, "rg-ai", "robotics-ai")
DEPLOYMENT = deployment_id(ACCOUNT, "assistant")
YANGTZE = access_id("organization", "yangtze-robotics")
JAPAN = access_id("region", "japaneast")
EDGE = access_id("gateway", "edge-1")

Work = Callable[[Control, Path], Awaitable[None]]


def over(work: Work, data: Path, url: str | None = None) -> None:
    """With the demo's world in it."""

    async def run() -> None:
        control = await open_control(data, url)
        try:
            await put_world(control, demo_world())
            await work(control, data)
        finally:
            await control.close()

    asyncio.run(run())


async def row_of(control: Control, resource: str) -> Row:
    found = await control.store.get(EVERYTHING, resource)
    assert found is not None
    return found


async def write(control: Control, row: Row, body: dict[str, Any], **more: Any) -> Change:
    async with control.change(ADMIN, "test/write") as change:
        await change.put(
            change.draft(row.id, row.kind, body, operator=row.operator, subscription=row.subscription), **more
        )
    return change


async def scale(control: Control, capacity: int) -> Change:
    row = await row_of(control, DEPLOYMENT)
    return await write(control, row, {**row.body, "sku": {"name": "GlobalStandard", "capacity": capacity}})


def properties(row: Row, **changed: Any) -> dict[str, Any]:
    return {**row.body, "properties": {**row.body["properties"], **changed}}


def changes_of(data: Path) -> list[tuple[str, entries.Change]]:
    return [
        (f"{read.origin}/{read.number}", entry)
        for log in folders_of(data / "control" / "ledger")
        for read in entries_of(log)
        if isinstance(entry := entries.decode(read.entry), entries.Change)
    ]


def capacity_of(control: Control) -> int:
    return control.snapshot.accounts["robotics-ai"].given.deployments[0].capacity


async def refused(control: Control, work: Awaitable[Any]) -> Error:
    """The Error that it raises; neither the database nor what is published changed."""
    before, revision = await control.store.whole(), control.revision
    with pytest.raises(Error) as caught:
        await work
    assert await control.store.whole() == before
    assert control.revision == revision
    return caught.value


async def until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not come")
