"""As much of Microsoft Graph as `az role assignment` asks: service principals by id or name. There are no users."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.management.authorize import Directory, Principal, caller, chain_of, may, not_found, principal_of
from entrepot.management.http import answer, body, control_of, route
from entrepot.wire import arm

_READ = "Entrepot.Access/principals/read"
_QUOTED = re.compile(r"'((?:[^']|'')*)'")


def routes() -> list[Route]:
    return [
        route("GET", "/v1.0/servicePrincipals", _list),
        route("GET", "/v1.0/servicePrincipals/{id}", _get),
        route("POST", "/v1.0/directoryObjects/getByIds", _by_ids),
        route("GET", "/v1.0/users", _nobody),
        route("GET", "/v1.0/groups", _nobody),
    ]


async def _visible(request: Request) -> list[Principal]:
    """Those that the caller may read, and the caller itself."""
    asking = caller(request)
    rows = await control_of(request).store.list(asking.tenancy, "principal")
    found = {one.id: one for one in (principal_of(row) for row in rows if may(asking, _READ, chain_of(row)))}
    directory: Directory = request.app.state.directory
    itself = (await directory.listing()).principals.get(asking.actor.principal)
    if itself is not None:
        found[itself.id] = itself
    return list(found.values())


async def _list(request: Request) -> Response:
    wanted = {each.lower() for each in _QUOTED.findall(request.query_params.get("$filter", ""))}
    return answer(
        arm.page(
            [
                _rendered(one)
                for one in await _visible(request)
                if not wanted or wanted & {one.id, one.name.lower(), one.display_name.lower()}
            ]
        )
    )


async def _get(request: Request) -> Response:
    wanted = request.path_params["id"].lower()
    for one in await _visible(request):
        if one.id == wanted:
            return answer(_rendered(one))
    raise not_found(wanted)


async def _by_ids(request: Request) -> Response:
    given = (await body(request)).get("ids")
    wanted = {each.lower() for each in given if isinstance(each, str)} if isinstance(given, list) else set()
    return answer(arm.page([_rendered(one) for one in await _visible(request) if one.id in wanted]))


async def _nobody(_: Request) -> Response:
    return answer(arm.page([]))


def _rendered(one: Principal) -> dict[str, Any]:
    return {
        "@odata.type": "#microsoft.graph.servicePrincipal",
        "id": one.id,
        "appId": one.id,
        "displayName": one.display_name,
        "accountEnabled": one.enabled,
        "servicePrincipalType": "Application",
        "servicePrincipalNames": [one.id, one.name],
    }
