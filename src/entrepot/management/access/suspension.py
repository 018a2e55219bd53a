"""Suspending an account: one person of the operator's staff is enough. Bringing it back is proposed."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Detail, Error
from entrepot.management import http
from entrepot.management.access.envelope import check_conditions, invalid
from entrepot.management.access.instants import iso
from entrepot.management.authorize import caller, chain_of, may, not_found, require
from entrepot.resources.ids import ACCESS, COGNITIVE, account_id

PATH: Final = (
    f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{COGNITIVE}/accounts/{{account}}/suspend"
)
SUSPEND: Final = f"{ACCESS}/accounts/suspend/action"


def routes() -> list[Route]:
    return [http.route("POST", PATH, _suspend)]


async def _suspend(request: Request) -> Response:
    who, control = caller(request), http.control_of(request)
    names = request.path_params
    id = account_id(names["subscription"], names["group"], names["account"])  # noqa: A001
    body = await http.body(request)
    if unknown := sorted(body.keys() - {"reason"}):
        raise invalid([Detail("InvalidProperty", f"unknown key `{key}`; write only `reason`", key) for key in unknown])
    reason = body.get("reason")
    if not isinstance(reason, str) or not reason.strip() or len(reason) > 2_000:
        raise invalid([Detail("InvalidProperty", "expected a text that says why, at most 2000 characters", "reason")])
    async with control.change(who.actor, SUSPEND) as change:
        row = await change.get(who.tenancy, id)
        if row is None or row.kind != "account":
            raise not_found(id)
        if not may(who, SUSPEND, chain_of(row)):
            require(who, f"{COGNITIVE}/accounts/read", chain_of(row))
            raise Error(
                Code.ACCESS_DENIED, "only the staff of its operator suspends an account", name="AuthorizationFailed"
            )
        check_conditions(request, row)
        properties = row.body["properties"]
        if properties.get("state") != "suspended":
            by = {"principal": who.actor.principal, "name": who.actor.name}
            properties = properties | {
                "state": "suspended",
                "suspension": {"by": by, "at": iso(change.at_ms), "reason": reason.strip()},
            }
            body = {**row.body, "properties": properties}
            row = await change.put(
                change.draft(row.id, row.kind, body, operator=row.operator, subscription=row.subscription)
            )
    told = {key: properties[key] for key in ("state", "suspension") if key in properties}
    return http.answer({"id": row.id, "name": row.name, "etag": f'"{row.etag}"', "properties": told})
