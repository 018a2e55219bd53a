"""Deployments of an account: a name for a model, in a version, with an SKU and the capacity that it draws.

The access policy judges each one that is new or becomes more; the decision stands on the ledger before the answer.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.management.arm import asked, conditions, longrunning, quota, reach, shapes, texts
from entrepot.management.arm.catalogue import DEFAULT_CAPACITY, Offer, capacity
from entrepot.management.arm.where import Where, account_at, deployment_at
from entrepot.management.changes import Change
from entrepot.management.http import answer, body, paged, peer_of, route
from entrepot.resources import model as declared
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import EVERYTHING, Row
from entrepot.wire.refusals import refusal

_A = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{COGNITIVE}/accounts/{{account}}"
_D = f"{_A}/deployments/{{deployment}}"
_READ, _WRITE = f"{texts.DEPLOYMENTS}/read", f"{texts.DEPLOYMENTS}/write"


class Draw(msgspec.Struct, frozen=True):
    """What a deployment will be: its account, its row's id, what is offered for it, and its body but for capacity."""

    account: Row
    id: str
    offer: Offer
    sku: declared.Sku
    body: dict[str, Any]
    held: Row | None


def routes() -> list[Route]:
    return [
        route("GET", f"{_A}/deployments", list_deployments),
        route("PUT", _D, put),
        route("PATCH", _D, patch),
        route("GET", _D, get),
        route("DELETE", _D, delete),
        route("GET", f"{_D}/skus", list_skus),
        route("POST", f"{_D}/pause", pause),
        route("POST", f"{_D}/resume", resume),
    ]


async def list_deployments(request: Request) -> Response:
    path = request.path_params
    where = await account_at(request, _READ)
    account = await where.account(path["group"], path["account"])
    rows = await where.control.store.list(where.caller.tenancy, "deployment", under=account.id)
    return paged(request, rows, shapes.deployment)


async def get(request: Request) -> Response:
    _, _, row = await _found(request, _READ)
    return conditions.read(request, row, shapes.deployment(row))


async def list_skus(request: Request) -> Response:
    _, _, row = await _found(request, _READ)
    name = row.body["sku"]["name"]
    one = {"resourceType": texts.DEPLOYMENTS, "sku": {"name": name}, "capacity": capacity(name)}
    return paged(request, [one], lambda each: each)


async def put(request: Request) -> Response:
    where = await deployment_at(request, _WRITE)
    where.writable()
    account = await _parent(request, where)
    id_ = f"{account.id}/deployments/{request.path_params['deployment']}"
    held = await where.control.rows.get(where.caller.tenancy, id_)
    fresh = asked.deployment(await body(request), request.path_params["deployment"])
    return await _write(request, where, await _draw(where, account, id_, fresh, held))


async def patch(request: Request) -> Response:
    where, account, held = await _found(request, _WRITE)
    where.writable()
    fresh = asked.deployment_update(await body(request, optional=True), held.body)
    return await _write(request, where, await _draw(where, account, held.id, fresh, held))


async def _draw(where: Where, account: Row, id_: str, fresh: dict[str, Any], held: Row | None) -> Draw:
    """Raises Error where no upstream that the SKU reaches serves the model."""
    given, place = fresh["properties"]["model"], account.body["location"]
    catalogue = await reach.catalogue(where.control.rows)
    offer = catalogue.find(place, given["format"], given["name"], given.get("version"))
    if offer is None:
        raise texts.model_unsupported(given["format"], given["name"], given.get("version"))
    name = fresh["sku"]["name"]
    sku = next((each for each in offer.skus if each.lower() == name.lower()), None)
    if sku is None:
        raise texts.sku_unsupported(name, offer.format, offer.name, offer.version)
    model = {**given, "format": offer.format, "name": offer.name, "version": offer.version}
    whole = {
        **fresh,
        "sku": {**fresh["sku"], "name": sku},
        "properties": {**fresh["properties"], "model": model},
    }
    return Draw(account, id_, offer, sku, whole, held)


async def _write(request: Request, where: Where, draw: Draw) -> Response:
    held = draw.held
    match, new = conditions.if_match(request, held), conditions.if_none_match(request, held)
    if _becomes_more(draw):
        refused = await _refusal(request, where, draw)
        if refused is not None:
            return answer(refused, 400)
    async with where.control.change(where.caller.actor, _WRITE) as change:
        await _check_same(change, draw)
        fresh = await _within_quota(change, where, draw)
        draft = change.draft(
            draw.id, "deployment", fresh, operator=where.operator, subscription=where.subscription.subscription
        )
        row = await change.put(draft, if_match=match, if_none_match=new)
    return _written(request, where, change, draw.account, row, 200 if held is not None else 201)


async def _check_same(change: Change, draw: Draw) -> None:
    """Raises Error unless what was judged is what is replaced."""
    now = await change.get(EVERYTHING, draw.id)
    if (now.etag if now is not None else None) != (draw.held.etag if draw.held is not None else None):
        raise texts.busy(draw.id)
    if await change.get(EVERYTHING, draw.account.id) is None:
        raise texts.parent_missing(draw.account.id)


def _becomes_more(draw: Draw) -> bool:
    """New, another model or SKU, or more capacity: only the rest needs no judgement."""
    if draw.held is None:
        return True
    before, after = draw.held.body, draw.body
    if after["sku"]["name"] != before["sku"]["name"]:
        return True
    model, former = after["properties"]["model"], before["properties"]["model"]
    if (model["name"], model["version"]) != (former["name"], former["version"]):
        return True
    return bool(after["sku"].get("capacity", 0) > before["sku"]["capacity"])


async def _refusal(request: Request, where: Where, draw: Draw) -> dict[str, Any] | None:
    """The body of the refusal, None where the policy permits. The decision is durable in both cases."""
    account = await where.control.declared_account(draw.account.id)
    wanted = declared.Deployment(
        name=draw.id.rpartition("/")[2],
        model=draw.offer.name,
        version=draw.offer.version,
        sku=draw.sku,
        capacity=draw.body["sku"].get("capacity", DEFAULT_CAPACITY),
    )
    verdict = await where.control.judge(
        "deploy", peer_of(request), request.headers, account, wanted, actor=where.caller.actor
    )
    if verdict.permit:
        return None
    return refusal(verdict.code, verdict.reason, verdict.place, verdict.request)


async def _within_quota(change: Change, where: Where, draw: Draw) -> dict[str, Any]:
    """The body with its capacity. Raises Error where the subscription has not so much left, counted in the change."""
    place = draw.account.body["location"]
    holding = await reach.held(change, where.subscription)
    drawn = quota.used(holding, place, draw.offer.name, draw.sku, besides=draw.id.lower())
    limit = reach.limit(where.subscription, draw.offer, draw.sku, place)
    before = draw.held.body["sku"] if draw.held is not None else {}
    wanted = draw.body["sku"].get("capacity") or before.get("capacity") or DEFAULT_CAPACITY
    more = wanted - (before["capacity"] if before.get("name") == draw.sku else 0)
    if drawn + wanted > limit and more > 0:
        name = quota.quota_name(draw.offer.name, draw.sku)
        raise texts.quota_exceeded(name, draw.offer.name, more, drawn + wanted - more, limit)
    return {**draw.body, "sku": {**draw.body["sku"], "capacity": wanted}}


async def delete(request: Request) -> Response:
    where = await deployment_at(request, f"{texts.DEPLOYMENTS}/delete")
    where.writable()
    path = request.path_params
    account = await where.account(path["group"], path["account"])
    id_ = f"{account.id}/deployments/{path['deployment']}"
    held = await where.control.store.get(where.caller.tenancy, id_)
    if held is None:
        return answer(None, 204)
    match = conditions.if_match(request, held)
    async with where.control.change(where.caller.actor, f"{texts.DEPLOYMENTS}/delete") as change:
        await change.delete(held.id, if_match=match)
    headers = longrunning.polled(request, change, where.subscription.id, account.body["location"])
    return answer(None, 202, headers)


async def pause(request: Request) -> Response:
    return await _turn(request, "Paused")


async def resume(request: Request) -> Response:
    return await _turn(request, "Running")


async def _turn(request: Request, state: str) -> Response:
    """A paused deployment keeps its quota and is to a call as if it were not there."""
    where, account, held = await _found(request, _WRITE)
    where.writable()
    async with where.control.change(where.caller.actor, _WRITE) as change:
        now = await change.get(EVERYTHING, held.id)
        if now is None:
            raise texts.busy(held.id)
        fresh = {**now.body, "properties": {**now.body["properties"], "deploymentState": state}}
        draft = change.draft(held.id, "deployment", fresh, operator=held.operator, subscription=held.subscription)
        row = await change.put(draft)
    return _written(request, where, change, account, row, 200)


async def _found(request: Request, action: str) -> tuple[Where, Row, Row]:
    where = await deployment_at(request, action)
    path = request.path_params
    account, row = await where.deployment(path["group"], path["account"], path["deployment"])
    return where, account, row


async def _parent(request: Request, where: Where) -> Row:
    path = request.path_params
    group = await where.group(path["group"])
    id_ = f"{group.id}/providers/{texts.ACCOUNTS}/{path['account']}"
    account = await where.control.rows.get(where.caller.tenancy, id_)
    if account is None:
        raise texts.parent_missing(id_)
    return account


def _written(request: Request, where: Where, change: Change, account: Row, row: Row, status: int) -> Response:
    headers = longrunning.polled(request, change, where.subscription.id, account.body["location"])
    return answer(shapes.deployment(row), status, {**headers, "etag": conditions.etag(row)})
