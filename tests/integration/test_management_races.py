"""Requests that cross: what one read before another's change was made never undoes that change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from entrepot.clock import wall_clock_ms
from entrepot.management.arm.deleted import RETENTION_MS, purge_due
from entrepot.management.changes import ITSELF, Change
from entrepot.storage import EVERYTHING
from planes import NORTH, Plane, plane

S = f"/subscriptions/{NORTH}"
BODY: dict[str, Any] = {"location": "swedencentral", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}
Ask = Callable[[], httpx.Response]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


def crossed(up: Plane, work: Callable[[Change], Awaitable[object]], ask: Ask) -> httpx.Response:
    """The answer to `ask`, which has read what there is when `work` changes it, and writes after that."""
    begun, answers = threading.Event(), list[httpx.Response]()
    thread = threading.Thread(target=lambda: answers.append(ask()))

    async def change() -> None:
        async with up.control.change(ITSELF, "test/crossing") as made:
            begun.set()
            while not up.control._turn._waiters:  # noqa: ASYNC110 - the other one, which has read by then
                await asyncio.sleep(0.01)
            await work(made)

    first = threading.Thread(target=lambda: up.run(change()))
    first.start()
    assert begun.wait(30)
    thread.start()
    for each in (first, thread):
        each.join(30)
    return answers[0]


def changing(resource: str, **changed: Any) -> Callable[[Change], Awaitable[object]]:
    """Properties of a resource."""

    async def work(change: Change) -> None:
        row = await change.get(EVERYTHING, resource)
        assert row is not None
        body = {**row.body, "properties": {**row.body["properties"], **changed}}
        await change.put(change.draft(row.id, row.kind, body, operator=row.operator, subscription=row.subscription))

    return work


def test_no_write_that_was_on_its_way_lifts_a_suspension(up: Plane) -> None:
    tenant = up.of("north-tenant")
    group = f"{S}/resourceGroups/g-{uuid4().hex[:8]}"
    assert tenant.put(group, json={"location": "swedencentral"}).status_code == 201
    account = f"{group}/providers/Microsoft.CognitiveServices/accounts/acc-{uuid4().hex[:8]}"
    assert tenant.put(account, json=BODY).status_code == 201
    for state, ask in (
        ("suspended", lambda: tenant.put(account, json=BODY)),
        ("active", lambda: tenant.put(account, json=BODY)),
        ("suspended", lambda: tenant.patch(account, json={"tags": {"a": "b"}})),
    ):
        answer = crossed(up, changing(account, state=state), ask)
        assert answer.status_code == 200, answer.text
        assert answer.json()["properties"]["state"] == state
        assert up.control.snapshot.accounts[account.rpartition("/")[2]].given.state == state


def test_no_write_that_was_on_its_way_undoes_what_became_of_a_contract(up: Plane) -> None:
    staff = up.of("north-staff")
    answer = crossed(up, changing(S, quotaId="another"), lambda: staff.put(S, json={"tags": {"a": "b"}}))
    assert (answer.status_code, answer.json()["tags"]) == (200, {"a": "b"})
    assert answer.json()["properties"]["quotaId"] == "another"


def test_no_write_that_was_on_its_way_undoes_what_became_of_a_group(up: Plane) -> None:
    tenant = up.of("north-tenant")
    group = f"{S}/resourceGroups/g-{uuid4().hex[:8]}"
    assert tenant.put(group, json={"location": "swedencentral"}).status_code == 201
    answer = crossed(up, changing(group, kept="this"), lambda: tenant.patch(group, json={"tags": {"a": "b"}}))
    assert (answer.status_code, answer.json()["tags"]) == (200, {"a": "b"})
    assert answer.json()["properties"]["kept"] == "this"


def test_no_account_is_made_in_a_group_that_is_gone(up: Plane) -> None:
    tenant = up.of("north-tenant")
    group = f"{S}/resourceGroups/g-{uuid4().hex[:8]}"
    account = f"{group}/providers/Microsoft.CognitiveServices/accounts/acc-{uuid4().hex[:8]}"
    assert tenant.put(group, json={"location": "swedencentral"}).status_code == 201
    answer = crossed(up, lambda change: change.delete(group), lambda: tenant.put(account, json=BODY))
    assert answer.status_code == 404, answer.text


def test_what_was_deleted_anew_is_not_purged_for_the_time_before(up: Plane) -> None:
    tenant = up.of("north-tenant")
    group = f"{S}/resourceGroups/g-{uuid4().hex[:8]}"
    account = f"{group}/providers/Microsoft.CognitiveServices/accounts/acc-{uuid4().hex[:8]}"
    assert tenant.put(group, json={"location": "swedencentral"}).status_code == 201
    assert tenant.put(account, json=BODY).status_code == 201
    assert tenant.delete(account).status_code == 202

    async def again(change: Change) -> None:
        await change.recover(account)
        await change.soft_delete(account, change.at_ms + 2 * RETENTION_MS)

    def purge() -> httpx.Response:
        assert up.run(purge_due(up.control, wall_clock_ms() + RETENTION_MS + 60_000)) == 1
        return tenant.get(f"{S}/providers/Microsoft.CognitiveServices/deletedAccounts")

    names = {each["name"] for each in crossed(up, again, purge).json()["value"]}
    assert account.rpartition("/")[2] in names
