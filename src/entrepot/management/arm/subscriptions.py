"""Subscriptions and their locations. A subscription is the operator's contract with an organization."""

from __future__ import annotations

from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.management.arm import conditions, reach, shapes, texts
from entrepot.management.arm.fields import Fields, shown
from entrepot.management.arm.where import GUID, subscription_at
from entrepot.management.authorize import Caller, caller, chain_from, may, require
from entrepot.management.changes import Change
from entrepot.management.http import answer, body, control_of, paged, route
from entrepot.resources.model import Channel
from entrepot.storage import EVERYTHING, Row, Store

WRITE = "Entrepot.Access/subscriptions/write"
STATES = ("Enabled", "Disabled", "Warned", "PastDue", "Deleted")


def routes() -> list[Route]:
    return [
        route("GET", "/subscriptions", list_all),
        route("GET", "/subscriptions/{subscription}", get),
        route("PUT", "/subscriptions/{subscription}", put),
        route("DELETE", "/subscriptions/{subscription}", delete),
        route("GET", "/subscriptions/{subscription}/locations", list_locations),
    ]


async def list_all(request: Request) -> Response:
    """Those in which the caller has any role, as in Azure, where one on a group below is enough."""
    rows = await control_of(request).store.list(caller(request).tenancy, "subscription")
    return paged(request, rows, lambda row: shapes.subscription(row, _tenant(request)))


async def get(request: Request) -> Response:
    where = await subscription_at(request)
    return conditions.read(request, where.subscription, shapes.subscription(where.subscription, _tenant(request)))


async def list_locations(request: Request) -> Response:
    where = await subscription_at(request)
    regions = (await reach.catalogue(where.control.store)).regions
    rows = [regions[name] for name in sorted(regions)]
    return paged(request, rows, lambda region: shapes.location(region, where.subscription.id))


async def put(request: Request) -> Response:
    """By the operator's staff. What it says of organization, operator and channel is what the policy reads."""
    control, asking = control_of(request), caller(request)
    given: str = request.path_params["subscription"]
    if not GUID.fullmatch(given):
        raise texts.subscription_malformed(given)
    id_ = f"/subscriptions/{given.lower()}"
    asked = await body(request)
    fields = Fields()
    tags = fields.tags(asked)
    fields.finish()
    async with control.change(asking.actor, WRITE) as change:
        held = await change.get(EVERYTHING, id_)
        if held is not None:
            await _check_own(change, asking, held)
        properties = _properties(asked, held)
        require(asking, WRITE, chain_from(id_, properties["operator"]))
        await _check_parties(change, asking, properties, held)
        before: dict[str, Any] = held.body if held is not None else {}
        kept = {**before, "tags": before.get("tags", {}) if tags is None else tags, "properties": properties}
        match, new = conditions.if_match(request, held), conditions.if_none_match(request, held)
        draft = change.draft(
            id_, "subscription", kept, operator=properties["operator"].lower(), subscription=given.lower()
        )
        row = await change.put(draft, if_match=match, if_none_match=new)
    return answer(
        shapes.subscription(row, _tenant(request)), 200 if held is not None else 201, {"etag": conditions.etag(row)}
    )


async def delete(request: Request) -> Response:
    """By the operator's staff, once nothing is in it: neither a group nor a soft-deleted account."""
    where = await subscription_at(request)
    held = where.subscription
    await _check_own(where.control.store, where.caller, held)
    match = conditions.if_match(request, held)
    async with where.control.change(where.caller.actor, "Entrepot.Access/subscriptions/delete") as change:
        for kind, gone in (("resourceGroup", False), ("account", True)):
            if inside := await change.list(EVERYTHING, kind, under=held.id, deleted=gone, limit=1):
                message = f"`{inside[0].id}` is in it{', soft-deleted' if gone else ''}: remove that first"
                raise Error(Code.CONFLICT, message, name="ResourceInUse")
        await change.delete(held.id, if_match=match)
    return answer(None, 200)


async def _check_own(source: Store | Change, asking: Caller, held: Row) -> None:
    """Raises Error: 404 for another operator's subscription, 403 for the tenant's own."""
    if await source.get(asking.tenancy, held.id) is None:
        raise texts.subscription_missing(held.name)
    if not may(asking, WRITE, chain_from(held.id, held.operator)):
        raise texts.not_authorised(asking.actor.name, asking.actor.principal, WRITE, held.id)


def _properties(asked: dict[str, Any], held: Row | None) -> dict[str, Any]:
    """The properties that it will have: what is not said stays."""
    fields = Fields()
    given = {**fields.table(asked, "properties")}
    for key in ("displayName", "state"):  # where Azure has them
        if key in asked and key not in given:
            given[key] = asked[key]
    before: dict[str, Any] = held.body.get("properties", {}) if held is not None else {}
    found = {**before, **{key: value for key, value in given.items() if value is not None}}
    for key in ("organization", "operator"):
        if fields.text(found, key, "properties.") is None and key not in found:
            fields.mistake(f"properties.{key}", "it is missing", f"name the {key} of the contract")
    channel = fields.choice(found, "channel", get_args(Channel), "properties.")
    if channel is None and "channel" not in found:
        fields.mistake("properties.channel", "it is missing", "write `direct` or `cloud`")
    found["state"] = fields.choice(found, "state", STATES, "properties.") or "Enabled"
    found["channel"] = channel
    fields.text(found, "displayName", "properties.")
    for name, value in fields.table(found, "quotas", "properties.").items():
        if type(value) is not int or value < 0:
            fields.mistake(
                f"properties.quotas.{name}", f"{shown(value)} is no quota", "write thousands of tokens per minute"
            )
    fields.finish()
    return found


async def _check_parties(change: Change, asking: Caller, properties: dict[str, Any], held: Row | None) -> None:
    """Raises Error unless the operator is there, stays who it was, and has the organization in its book.

    What is in a subscription is its operator's to see and to manage, so it is not handed on with all that is in it.
    """
    if held is not None and (held.operator or "") != properties["operator"].lower():
        told = "a subscription stays with the operator that contracted it; the other one makes one of its own"
        raise Error(Code.CONFLICT, told, name="Conflict", param="properties.operator")
    organization = properties["organization"]
    row = await change.get(asking.tenancy, f"/providers/Entrepot.Access/organizations/{organization}")
    if row is None or (row.operator or "").lower() != properties["operator"].lower():
        raise Error(
            Code.BAD_REQUEST,
            f"`properties.organization`: there is no organization {shown(organization)} in the book of the operator "
            f"{shown(properties['operator'])}; create it first",
            name="OrganizationNotFound",
            param="properties.organization",
        )


def _tenant(request: Request) -> str:
    return str(request.app.state.tenant)
