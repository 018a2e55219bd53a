"""`Microsoft.CognitiveServices/accounts`: create, change, list, delete softly, recover."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Error
from entrepot.management import world
from entrepot.management.arm import asked, conditions, longrunning, reach, shapes, texts
from entrepot.management.arm.catalogue import Catalogue
from entrepot.management.arm.deleted import RETENTION_MS, check_free, purge_due
from entrepot.management.arm.where import Where, account_at, account_in, group_of, subscription_at
from entrepot.management.changes import Change
from entrepot.management.http import answer, body, paged, peer_of, route
from entrepot.resources import model as declared
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import Row

KEYS = ("key1", "key2")
KEY_LENGTH = 84
_ALPHABET = string.ascii_letters + string.digits
_S = "/subscriptions/{subscription}"
_G = f"{_S}/resourceGroups/{{group}}"
_A = f"{_G}/providers/{COGNITIVE}/accounts"


def routes() -> list[Route]:
    return [
        route("GET", f"{_S}/providers/{COGNITIVE}/accounts", list_accounts),
        route("GET", _A, list_accounts),
        route("PUT", f"{_A}/{{account}}", put),
        route("PATCH", f"{_A}/{{account}}", patch),
        route("GET", f"{_A}/{{account}}", get),
        route("DELETE", f"{_A}/{{account}}", delete),
    ]


async def list_accounts(request: Request) -> Response:
    where = await subscription_at(request)
    under = where.subscription.id
    if "group" in request.path_params:
        where.allow(f"{texts.ACCOUNTS}/read", where.group_id(request.path_params["group"]))
        under = (await where.group(request.path_params["group"])).id
    rows = await where.control.store.list(where.caller.tenancy, "account", under=under)
    data_url = request.app.state.data_url
    return paged(request, where.visible(f"{texts.ACCOUNTS}/read", rows), lambda row: shapes.account(row, data_url))


async def get(request: Request) -> Response:
    where = await account_at(request, f"{texts.ACCOUNTS}/read")
    row = await where.account(request.path_params["group"], request.path_params["account"])
    return conditions.read(request, row, shapes.account(row, request.app.state.data_url))


async def put(request: Request) -> Response:
    where = await account_at(request, f"{texts.ACCOUNTS}/write")
    where.writable()
    group = await where.group(request.path_params["group"])
    name: str = request.path_params["account"]
    id_ = account_in(group.id, name)
    given = await body(request)
    if asked.restores(given):
        return await _restore(request, where, given, id_)
    if await where.control.rows.get(where.caller.tenancy, id_) is not None:
        return await _rewrite(request, where, id_, lambda held: asked.account(given, held.body, held.name, held.id))
    fresh = asked.account(given, None, name, id_)
    fresh["location"] = _place(await reach.catalogue(where.control.rows), fresh)
    conditions.if_match(request, None)
    await _check_gone(where, id_)
    await _subscribed(request, where, group, fresh, name)
    return await _create(request, where, id_, fresh)


def _place(catalogue: Catalogue, fresh: Mapping[str, Any]) -> str:
    place = catalogue.location(fresh["location"])
    if place is None:
        raise texts.location_unknown(fresh["location"], texts.ACCOUNTS, catalogue.regions)
    return place


async def _check_gone(where: Where, id_: str) -> None:
    """Raises Error where a soft-deleted account has this id. Whether another one has the name, the store knows."""
    await purge_due(where.control)
    gone = await where.control.rows.get(where.caller.tenancy, id_, deleted=True)
    if gone is not None:
        raise texts.soft_deleted(gone.id)


async def _subscribed(request: Request, where: Where, group: Row, fresh: dict[str, Any], name: str) -> None:
    """Put the policy's judgement on `subscribe` on the ledger. The account is created whatever it is.

    So does the real service: an account without deployments serves nothing, and the refusal at the first deployment
    names the rule. A refusal here would come before the operator can look at what somebody wants to do.
    """
    contract = where.subscription.body["properties"]
    account = declared.Account(
        name=name,
        subscription=where.subscription.name,
        resource_group=group.name,
        location=fresh["location"],
        channel=contract["channel"],
        operator=contract["operator"],
        keys=declared.Keys(key1="none"),
    )
    await where.control.judge("subscribe", peer_of(request), request.headers, account, None, actor=where.caller.actor)


async def _create(request: Request, where: Where, id_: str, fresh: dict[str, Any]) -> Response:
    async with where.control.change(where.caller.actor, f"{texts.ACCOUNTS}/write") as change:
        group = id_.split("/")[4]
        if await change.get(where.caller.tenancy, where.group_id(group)) is None:
            raise texts.group_missing(group)  # deleted since we looked
        # Keys stand before the row does: the world that is compiled with the row needs them.
        for key in KEYS:
            await change.put_secret(world.ref(id_, key), new_key())
        row = await _put(change, where, id_, fresh, None, new=True)
    return _written(request, where, change, row, 201)


async def _rewrite(request: Request, where: Where, id_: str, make: Callable[[Row], dict[str, Any]]) -> Response:
    """`make` gives the body that replaces the account's.

    INVARIANT: it is made of the account as it is in the change. What the operator wrote since the request was first
    looked at, a suspension above all, would else be written over with what was there before.
    """
    async with where.control.change(where.caller.actor, f"{texts.ACCOUNTS}/write") as change:
        held = await change.get(where.caller.tenancy, id_)
        if held is None:
            raise texts.resource_missing(texts.ACCOUNTS, id_.rpartition("/")[2], id_.split("/")[4])
        match = conditions.if_match(request, held)
        conditions.if_none_match(request, held)
        fresh = make(held)
        fresh["location"] = _place(await reach.catalogue(change), fresh)
        if fresh["location"] != held.body["location"]:
            raise texts.account_moved(held.name, group_of(held), held.body["location"], fresh["location"])
        row = await _put(change, where, held.id, fresh, match, new=False)
    return _written(request, where, change, row, 200)


async def _put(change: Change, where: Where, id_: str, fresh: dict[str, Any], match: str | None, *, new: bool) -> Row:
    draft = change.draft(id_, "account", fresh, operator=where.operator, subscription=where.subscription.subscription)
    try:
        return await change.put(draft, if_match=match, if_none_match=new)
    except Error as error:
        if error.name == "CustomDomainInUse":
            raise texts.domain_in_use(draft.name) from error
        raise


async def _restore(request: Request, where: Where, given: dict[str, Any], id_: str) -> Response:
    """The account as it was, with its keys and deployments."""
    await purge_due(where.control)
    async with where.control.change(where.caller.actor, f"{texts.ACCOUNTS}/write") as change:
        gone = await change.get(where.caller.tenancy, id_, deleted=True)
        if gone is None:
            raise texts.not_restorable()
        catalogue = await reach.catalogue(change)
        place = catalogue.location(str(given.get("location") or gone.body["location"]))
        if place != gone.body["location"]:
            raise texts.account_moved(gone.name, group_of(gone), gone.body["location"], str(given["location"]))
        await change.recover(gone.id)
        row = await change.get(where.caller.tenancy, id_)
        assert row is not None
    return _written(request, where, change, row, 200)


async def patch(request: Request) -> Response:
    where = await account_at(request, f"{texts.ACCOUNTS}/write")
    where.writable()
    id_ = (await where.account(request.path_params["group"], request.path_params["account"])).id
    given = await body(request, optional=True)
    return await _rewrite(request, where, id_, lambda held: asked.account_update(given, held.body, held.name, held.id))


async def delete(request: Request) -> Response:
    """Softly: the name stays taken and the deployments keep their quota until it is purged, by itself after 48 h."""
    where = await account_at(request, f"{texts.ACCOUNTS}/delete")
    where.writable()
    group, name = request.path_params["group"], request.path_params["account"]
    held = await where.control.store.get(where.caller.tenancy, account_in(where.group_id(group), name))
    if held is None:
        return answer(None, 204)
    match = conditions.if_match(request, held)
    async with where.control.change(where.caller.actor, f"{texts.ACCOUNTS}/delete") as change:
        now = await change.get(where.caller.tenancy, held.id)
        check_free(now or held)
        await change.soft_delete(held.id, change.at_ms + RETENTION_MS, if_match=match)
    headers = longrunning.polled(request, change, where.subscription.id, held.body["location"])
    return answer(None, 202, headers)


def new_key() -> bytes:
    """Of the length and letters of Azure's own."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(KEY_LENGTH)).encode()


def _written(request: Request, where: Where, change: Change, row: Row, status: int) -> Response:
    headers = longrunning.polled(request, change, where.subscription.id, row.body["location"])
    value = shapes.account(row, request.app.state.data_url)
    return answer(value, status, {**headers, "etag": conditions.etag(row)})
