"""Resource groups, and the resources of a subscription or group in one list."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.management.arm import asked, conditions, longrunning, reach, shapes, texts
from entrepot.management.arm.deleted import RETENTION_MS, check_free
from entrepot.management.arm.where import Where, group_at, group_of, subscription_at
from entrepot.management.http import answer, body, paged, route
from entrepot.storage import Row

GROUPS = "Microsoft.Resources/subscriptions/resourceGroups"
_S = "/subscriptions/{subscription}"
_G = f"{_S}/resourceGroups/{{group}}"
_TERM = re.compile(r"\s*(resourceType|resourceGroup|name|location|tagName|tagValue)\s+eq\s+'([^']*)'\s*", re.IGNORECASE)


def routes() -> list[Route]:
    return [
        route("GET", f"{_S}/resourceGroups", list_groups),
        route("PUT", _G, put),
        route("PATCH", _G, patch),
        route("HEAD", _G, head),  # before GET, which would take it too
        route("GET", _G, get),
        route("DELETE", _G, delete),
        route("GET", f"{_S}/resources", list_resources),
        route("GET", f"{_G}/resources", list_resources),
        route("GET", f"{_S}/operationresults/{{operation}}", longrunning.get_group_result),
    ]


async def list_groups(request: Request) -> Response:
    where = await subscription_at(request)
    rows = await where.control.store.list(where.caller.tenancy, "resourceGroup", under=where.subscription.id)
    tag = {name: value for name, value in _filter(request) if name.startswith("tag")}
    rows = [row for row in where.visible(f"{GROUPS}/read", rows) if _tagged(row, tag)]
    return paged(request, rows, shapes.group)


async def get(request: Request) -> Response:
    where = await group_at(request, f"{GROUPS}/read")
    row = await where.group(request.path_params["group"])
    return conditions.read(request, row, shapes.group(row))


async def head(request: Request) -> Response:
    try:
        where = await group_at(request, f"{GROUPS}/read")
        await where.group(request.path_params["group"])
    except Error as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return answer(None, 404)
    return answer(None, 204)


async def put(request: Request) -> Response:
    where = await group_at(request, f"{GROUPS}/write")
    where.writable()
    name, given = request.path_params["group"], await body(request)
    return await _write(request, where, lambda held: asked.group(given, held.body if held is not None else None, name))


async def patch(request: Request) -> Response:
    where = await group_at(request, f"{GROUPS}/write")
    where.writable()
    name, given = request.path_params["group"], await body(request)

    def merged(held: Row | None) -> dict[str, Any]:
        if held is None:
            raise texts.group_missing(name)
        return asked.group({**held.body, **given, "location": held.body["location"]}, held.body, name)

    return await _write(request, where, merged)


async def _write(request: Request, where: Where, make: Callable[[Row | None], dict[str, Any]]) -> Response:
    """`make` gives the body that takes the place of what is there in the change, not when we first looked."""
    async with where.control.change(where.caller.actor, f"{GROUPS}/write") as change:
        held = await change.get(where.caller.tenancy, where.group_id(request.path_params["group"]))
        match, new = conditions.if_match(request, held), conditions.if_none_match(request, held)
        fresh = make(held)
        catalogue = await reach.catalogue(change)
        place = catalogue.location(fresh["location"])
        if place is None:
            raise texts.location_unknown(fresh["location"], "resource group", catalogue.regions)
        if held is not None and held.body["location"] != place:
            raise texts.group_moved(place, held.body["location"])
        draft = change.draft(
            held.id if held is not None else where.group_id(request.path_params["group"]),
            "resourceGroup",
            {**fresh, "location": place},
            operator=where.operator,
            subscription=where.subscription.subscription,
        )
        row = await change.put(draft, if_match=match, if_none_match=new)
    return answer(shapes.group(row), 200 if held is not None else 201, {"etag": conditions.etag(row)})


async def delete(request: Request) -> Response:
    """All of it in one change: accounts are soft-deleted as if they were deleted one by one."""
    where = await group_at(request, f"{GROUPS}/delete")
    where.writable()
    held = await where.group(request.path_params["group"])
    match = conditions.if_match(request, held)
    async with where.control.change(where.caller.actor, f"{GROUPS}/delete") as change:
        for row in await change.list(where.caller.tenancy, "account", under=held.id):
            check_free(row)
            await change.soft_delete(row.id, change.at_ms + RETENTION_MS)
        await change.delete(held.id, if_match=match)
    return answer(None, 202, longrunning.located(request, change, where.subscription.id))


async def list_resources(request: Request) -> Response:
    """Accounts: nothing else that Azure's lists know lives in a group here."""
    where = await subscription_at(request)
    under = where.subscription.id
    if "group" in request.path_params:
        where.allow(f"{texts.ACCOUNTS}/read", where.group_id(request.path_params["group"]))
        under = (await where.group(request.path_params["group"])).id
    rows = await where.control.store.list(where.caller.tenancy, "account", under=under)
    rows = where.visible(f"{texts.ACCOUNTS}/read", rows)
    for name, value in _filter(request):
        rows = [row for row in rows if _matches(row, name, value)]
    return paged(request, rows, shapes.generic)


def _filter(request: Request) -> list[tuple[str, str]]:
    """`$filter`: comparisons with `eq`, joined by `and`. Raises Error for what else OData knows."""
    given = next((value for key, value in request.query_params.multi_items() if key.lower() == "$filter"), "")
    found = []
    for term in re.split(r"\band\b", given, flags=re.IGNORECASE) if given.strip() else []:
        match = _TERM.fullmatch(term)
        if match is None:
            raise Error(
                Code.BAD_REQUEST,
                f"The filter '{given[:200]}' is not supported: join comparisons such as \"resourceType eq "
                "'Microsoft.CognitiveServices/accounts'\" with `and`.",
                name="InvalidFilterInQueryString",
                param="$filter",
            )
        found.append((match[1].lower(), match[2]))
    return found


def _matches(row: Row, name: str, value: str) -> bool:
    if name.startswith("tag"):
        return _tagged(row, {name: value})
    shown = {
        "resourcetype": texts.ACCOUNTS,
        "resourcegroup": group_of(row),
        "name": row.name,
        "location": row.body["location"],
    }
    return bool(shown[name].lower() == value.lower())


def _tagged(row: Row, wanted: dict[str, str]) -> bool:
    tags = row.body.get("tags") or {}
    if "tagname" in wanted and wanted["tagname"] not in tags:
        return False
    return "tagvalue" not in wanted or wanted["tagvalue"] in tags.values()
