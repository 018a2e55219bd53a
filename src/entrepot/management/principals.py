"""Service principals: who can log in. Made, disabled and given secrets by an operator for itself, or by the instance.

Who gives somebody a secret can act as them. So whoever touches a principal must be able to grant all that it has.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.management import etags, secret
from entrepot.management.access.proposal import plain_name
from entrepot.management.arm import conditions
from entrepot.management.assignments import keep_an_owner, may_grant
from entrepot.management.authorize import (
    Caller,
    assignment_of,
    caller,
    chain_from,
    chain_of,
    may,
    not_found,
    require,
)
from entrepot.management.changes import Change
from entrepot.management.http import answer, body, control_of, paged, route
from entrepot.resources.ids import access_id
from entrepot.storage import EVERYTHING, Row
from entrepot.wire import arm

_TYPE = "Entrepot.Access/principals"
_READ, _WRITE, _DELETE = f"{_TYPE}/read", f"{_TYPE}/write", f"{_TYPE}/delete"
_NEW_SECRET = f"{_TYPE}/newSecret/action"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KNOWN = frozenset({"displayName", "operator", "owner", "state", "appId"})
_PATH = f"/providers/{_TYPE}"


def routes() -> list[Route]:
    return [
        route("GET", _PATH, _list),
        route("GET", f"{_PATH}/{{name}}", _get),
        route("PUT", f"{_PATH}/{{name}}", _put),
        route("DELETE", f"{_PATH}/{{name}}", _delete),
        route("POST", f"{_PATH}/{{name}}/newSecret", _new_secret),
    ]


async def _list(request: Request) -> Response:
    asking = caller(request)
    rows = await control_of(request).store.list(asking.tenancy, "principal")
    return paged(request, [row for row in rows if may(asking, _READ, chain_of(row))], rendered)


async def _get(request: Request) -> Response:
    row = await _held(request, _READ)
    return answer(rendered(row), headers={"etag": f'"{row.etag}"'})


async def _put(request: Request) -> Response:
    asking, control = caller(request), control_of(request)
    identity = access_id("principal", _name(request))
    wanted = _properties(await body(request))
    before = await control.store.get(asking.tenancy, identity)
    operator = before.body["properties"].get("operator") if before is not None else wanted.get("operator")
    require(asking, _WRITE, chain_from(identity, operator))
    async with control.change(asking.actor, _WRITE) as change:
        before = await change.get(EVERYTHING, identity)
        if before is not None:
            operator = before.body["properties"].get("operator")
            require(asking, _WRITE, chain_from(identity, operator))
            await _may_act_as(asking, change, before)
            _same(wanted, before)
        elif operator is not None and await change.get(EVERYTHING, access_id("operator", operator)) is None:
            raise _invalid("properties.operator", f"there is no operator `{operator}`")
        properties = {
            "appId": before.body["properties"]["appId"] if before is not None else str(uuid.uuid4()),
            "displayName": wanted.get("displayName", _name(request)),
            "state": wanted.get("state", "Enabled"),
        }
        owner = wanted.get("owner") or (before.body["properties"].get("owner") if before is not None else None)
        properties |= {key: value for key, value in (("operator", operator), ("owner", owner)) if value is not None}
        row = change.draft(identity, "principal", {"properties": properties}, operator=(operator or "").lower())
        row = await change.put(row, if_match=conditions.if_match(request, before))
        if before is not None:
            await keep_an_owner(change)
    return answer(rendered(row), 201 if before is None else 200, {"etag": f'"{row.etag}"'})


async def _delete(request: Request) -> Response:
    """Its assignments and secrets go with it."""
    etags.named(request, "If-Match")  # what is none is told, also where there is nothing to delete
    asking = caller(request)
    try:
        row = await _held(request, _DELETE)
    except Error as error:
        if error.code is Code.NOT_FOUND and may(asking, _DELETE, ("/",)):
            return answer(None, 204)
        raise
    async with control_of(request).change(asking.actor, _DELETE) as change:
        await _may_act_as(asking, change, row)
        for one in await change.list(EVERYTHING, "roleAssignment"):
            if assignment_of(one).principal == row.body["properties"]["appId"]:
                await change.delete(one.id)
        await change.delete(row.id, if_match=conditions.if_match(request, row))
        await change.forget_secrets(f"{row.id.lower()}/")
        await keep_an_owner(change)
    return answer(None, 200)


async def _new_secret(request: Request) -> Response:
    """The secret is in this answer and nowhere else. One older secret stays valid, unless `revokeOthers` is set."""
    asking = caller(request)
    row = await _held(request, _NEW_SECRET)
    given = await body(request, optional=True)
    alone = given.get("revokeOthers", False)
    if not isinstance(alone, bool):
        raise _invalid("revokeOthers", "`revokeOthers` is not true or false")
    made, now_ms = secret.generate(), wall_clock_ms()
    ref = f"{row.id.lower()}/secret"
    async with control_of(request).change(asking.actor, _NEW_SECRET) as change:
        await _may_act_as(asking, change, row)
        await change.put_secret(ref, secret.kept(made, now_ms, await change.secret(ref), alone=alone))
        held = await change.get(EVERYTHING, row.id)
        if held is None:
            raise not_found(row.id)
        properties = {**held.body["properties"], "secretMadeAt": arm.instant(now_ms)}
        await change.put(
            change.draft(row.id, "principal", {**held.body, "properties": properties}, operator=held.operator)
        )
    told = {
        "secret": made,
        "appId": row.body["properties"]["appId"],
        "expiresAt": arm.instant(now_ms + secret.LIFETIME_MS),
    }
    return answer(told, headers={"cache-control": "no-store"})


async def _held(request: Request, action: str) -> Row:
    asking = caller(request)
    identity = access_id("principal", _name(request))
    row = await control_of(request).store.get(asking.tenancy, identity)
    if row is None:
        raise not_found(identity)
    require(asking, action, chain_of(row))
    return row


async def _may_act_as(asking: Caller, change: Change, row: Row) -> None:
    """Raises Error ACCESS_DENIED where the principal has a role that the caller could not grant."""
    for one in await change.list(EVERYTHING, "roleAssignment"):
        assignment = assignment_of(one)
        if assignment.principal == row.body["properties"]["appId"] and not may_grant(
            asking, chain_from(assignment.scope, one.operator)
        ):
            raise Error(
                Code.ACCESS_DENIED,
                f"The principal '{row.name}' has roles that the client '{asking.actor.name}' could not grant.",
                name="AuthorizationFailed",
            )


def rendered(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "type": _TYPE,
        "etag": f'"{row.etag}"',
        "properties": row.body["properties"],
        "systemData": arm.system_data(row.created_by, row.created_ms, row.changed_by, row.changed_ms),
    }


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not _NAME.fullmatch(name):
        raise Error(
            Code.BAD_REQUEST,
            "a principal's name has letters, digits, `.`, `_`, `@` and `-`, at most 64",
            name="InvalidResourceName",
        )
    return name


def _properties(given: dict[str, Any]) -> dict[str, str]:
    properties = given.get("properties", {})
    if not isinstance(properties, dict):
        raise _invalid("properties", "`properties` is not an object")
    found: dict[str, str] = {}
    for key, value in properties.items():
        if key == "secretMadeAt":
            continue  # what an answer holds may be sent back
        if key not in _KNOWN:
            raise _invalid(f"properties.{key}", f"`{key}` is unknown; there are {', '.join(sorted(_KNOWN))}")
        if not isinstance(value, str) or not 0 < len(value) <= 256:
            raise _invalid(f"properties.{key}", f"`{key}` is not a text of at most 256 characters")
        found[key] = value
    if found.get("state", "Enabled") not in {"Enabled", "Disabled"}:
        raise _invalid("properties.state", "`state` is `Enabled` or `Disabled`")
    return found


def _same(wanted: dict[str, str], before: Row) -> None:
    for key in ("appId", "operator"):
        if key in wanted and wanted[key] != before.body["properties"].get(key):
            raise _invalid(f"properties.{key}", f"`{key}` cannot be changed")
    # INVARIANT: a principal of a person's stays that person's, so that who proposed with one does not approve with
    # another that was called somebody else's in between.
    owner = before.body["properties"].get("owner")
    if owner is not None and plain_name(wanted.get("owner", owner)) != plain_name(owner):
        fix = f"it is `{owner}`'s and stays so: make another principal for another person"
        raise _invalid("properties.owner", fix)


def _invalid(target: str, message: str) -> Error:
    return Error(Code.BAD_REQUEST, message, name="InvalidRequestContent", param=target)
