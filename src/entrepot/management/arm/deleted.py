"""Soft-deleted accounts: listed, shown, purged on request, and purged by themselves when their time is over."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.clock import wall_clock_ms
from entrepot.management.arm import longrunning, shapes, texts
from entrepot.management.arm.where import Where, account_in, subscription_at
from entrepot.management.changes import ITSELF, Change
from entrepot.management.control import Control
from entrepot.management.http import answer, paged, route
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import EVERYTHING, Row

RETENTION_MS = 48 * 60 * 60 * 1_000
_P = f"/subscriptions/{{subscription}}/providers/{COGNITIVE}"
_D = f"{_P}/locations/{{location}}/resourceGroups/{{group}}/deletedAccounts/{{account}}"
_ACTION = f"{COGNITIVE}/locations/resourceGroups/deletedAccounts"


def routes() -> list[Route]:
    return [
        route("GET", f"{_P}/deletedAccounts", list_deleted),
        route("GET", _D, get),
        route("DELETE", _D, delete),
    ]


async def list_deleted(request: Request) -> Response:
    where = await subscription_at(request)
    rows = await where.control.store.list(where.caller.tenancy, "account", under=where.subscription.id, deleted=True)
    rows = [row for row in where.visible(f"{COGNITIVE}/deletedAccounts/read", rows) if not _due(row, wall_clock_ms())]
    return paged(request, rows, lambda row: shapes.deleted_account(row, request.app.state.data_url))


async def get(request: Request) -> Response:
    _, row = await _deleted(request, f"{_ACTION}/read")
    return answer(shapes.deleted_account(row, request.app.state.data_url))


async def delete(request: Request) -> Response:
    """Purge: the name and the quota are free at once; the keys are gone for good."""
    where, row = await _deleted(request, f"{_ACTION}/delete")
    where.writable()
    check_free(row)
    async with where.control.change(where.caller.actor, f"{_ACTION}/delete") as change:
        await purge(change, row.id)
    headers = longrunning.polled(request, change, where.subscription.id, row.body["location"])
    return answer(None, 202, headers)


def check_free(row: Row) -> None:
    """Raises Error CONFLICT while the operator has suspended the account."""
    if row.body.get("properties", {}).get("state") == "suspended":
        raise texts.suspended(row.name)


async def purge(change: Change, id_: str, until_ms: int | None = None) -> None:
    """Nothing where the account is no longer, or never was, soft-deleted; or with `until_ms` is not due then."""
    row = await change.get(EVERYTHING, id_, deleted=True)
    if row is not None and (until_ms is None or _due(row, until_ms)):
        await change.delete(id_)
        await change.forget_secrets(f"{id_.lower()}/")


async def purge_due(control: Control, now_ms: int | None = None) -> int:
    """Purge what was deleted 48 h ago or before. How many; safe to call at any time, by several processes too."""
    at_ms = wall_clock_ms() if now_ms is None else now_ms
    due = [row for row in await control.rows.list(EVERYTHING, "account", deleted=True) if _due(row, at_ms)]
    if not due:
        return 0
    async with control.change(ITSELF, f"{_ACTION}/delete") as change:
        for row in due:
            await purge(change, row.id, at_ms)  # recovered and deleted anew since, it has its time
    return len(due)


async def _deleted(request: Request, action: str) -> tuple[Where, Row]:
    path = request.path_params
    resource = account_in(f"/resourceGroups/{path['group']}", path["account"])
    where = await subscription_at(request, action, resource)
    row = await where.control.store.get(where.caller.tenancy, where.subscription.id + resource, deleted=True)
    if row is None or row.body["location"] != path["location"].replace(" ", "").lower():
        raise texts.resource_missing(f"{COGNITIVE}/locations/deletedAccounts", path["account"], path["group"])
    return where, row


def _due(row: Row, now_ms: int) -> bool:
    return row.purge_ms is not None and row.purge_ms <= now_ms
