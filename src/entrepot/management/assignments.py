"""`Microsoft.Authorization`: the built-in role definitions, and role assignments at every scope.

Nobody gives away more than they hold: only Owner may write assignments at all, holds everything at the scope where it
was given, and reaches no further than that scope.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.management.authorize import (
    INSTANCE,
    Caller,
    assignment_of,
    caller,
    chain,
    chain_from,
    is_operator,
    listing_of,
    may,
    not_found,
    require,
)
from entrepot.management.changes import Change
from entrepot.management.http import answer, body, control_of, paged, route
from entrepot.management.roles import DEFINITIONS, OWNER, ROLES, Assignment, Role, find_role
from entrepot.storage import EVERYTHING, Row
from entrepot.wire import arm

_READ = "Microsoft.Authorization/roleAssignments/read"
_WRITE = "Microsoft.Authorization/roleAssignments/write"
_DELETE = "Microsoft.Authorization/roleAssignments/delete"
_PATH = "/providers/Microsoft.Authorization"
# No word is begun in its middle, and no space can belong to two repetitions: what fits nothing costs one look, not n².
_EQUALS = re.compile(r"\b(\w+)\s+eq\s+'((?:[^']|'')*)'|\b(assignedTo|atScope)\(\s*(?:'([^']*)'\s*)?\)", re.IGNORECASE)


def routes() -> list[Route]:
    found = []
    for prefix in ("", "/{scope:path}"):
        found += [
            route("GET", f"{prefix}{_PATH}/roleDefinitions", _definitions),
            route("GET", f"{prefix}{_PATH}/roleDefinitions/{{name}}", _definition),
            route("GET", f"{prefix}{_PATH}/roleAssignments", _list),
            route("GET", f"{prefix}{_PATH}/roleAssignments/{{name}}", _get),
            route("PUT", f"{prefix}{_PATH}/roleAssignments/{{name}}", _put),
            route("DELETE", f"{prefix}{_PATH}/roleAssignments/{{name}}", _delete),
        ]
    return found


def may_grant(asking: Caller, scope_chain: Sequence[str]) -> bool:
    return may(asking, _WRITE, scope_chain)


async def keep_an_owner(change: Change) -> None:
    """Raises Error CONFLICT where, with what this change wrote, nobody would be Owner of the instance any more."""
    listing = listing_of(await change.list(EVERYTHING, "principal"), await change.list(EVERYTHING, "roleAssignment"))
    if not any(each.role == OWNER and each.scope == INSTANCE for each in listing.live()):
        raise Error(
            Code.CONFLICT,
            "this would leave the instance without an Owner; make another principal Owner at `/` first",
            name="LastOwner",
        )


async def _definitions(request: Request) -> Response:
    wanted = _filter(request)
    name = wanted.get("rolename")
    found = [role for role in ROLES if name is None or role.name.lower() == name.lower()]
    return paged(request, found, _definition_of)


async def _definition(request: Request) -> Response:
    role = find_role(request.path_params["name"])
    if role is None:
        raise Error(
            Code.NOT_FOUND,
            f"The specified role definition with ID '{request.path_params['name'][:64]}' does not exist.",
            name="RoleDefinitionDoesNotExist",
        )
    return answer(_definition_of(role))


def _definition_of(role: Role) -> dict[str, Any]:
    return {
        "id": f"{DEFINITIONS}{role.id}",  # without a scope before it, as in assignments: clients compare the two
        "type": "Microsoft.Authorization/roleDefinitions",
        "name": role.id,
        "properties": {
            "roleName": role.name,
            "type": "BuiltInRole",
            "description": role.description,
            "assignableScopes": ["/"],
            "permissions": [
                {
                    "actions": list(role.actions),
                    "notActions": list(role.not_actions),
                    "dataActions": list(role.data_actions),
                    "notDataActions": list(role.not_data_actions),
                }
            ],
        },
    }


async def _list(request: Request) -> Response:
    """At the scope, above it and below it; `atScope()` leaves out what is below."""
    asking, control, scope = caller(request), control_of(request), _scope(request)
    around = await chain(control, scope)
    inside = "/" if scope == INSTANCE else scope.lower() + "/"
    near = (each.scope in around or each.scope.startswith(inside) for each in asking.assignments)
    if not may(asking, _READ, around) and not any(near):
        raise not_found(scope)
    wanted = _filter(request)
    principal = wanted.get("principalid") or wanted.get("assignedto")
    below = None if "atscope" in wanted else inside
    found = []
    for row in await control.store.list(asking.tenancy, "roleAssignment"):
        one = assignment_of(row)
        if principal is not None and one.principal != principal.lower():
            continue
        if one.scope not in around and (below is None or not one.scope.startswith(below)):
            continue
        if one.principal == asking.actor.principal or may(asking, _READ, chain_from(one.scope, row.operator)):
            found.append(row)
    return paged(request, found, _rendered)


async def _get(request: Request) -> Response:
    return answer(_rendered(await _held(request, _READ)))


async def _put(request: Request) -> Response:
    asking, control, scope = caller(request), control_of(request), _scope(request)
    name = _guid(request.path_params["name"])
    around = await chain(control, scope)
    require(asking, _WRITE, around)
    owner = await control.store.get(asking.tenancy, scope) if scope != INSTANCE else None
    if owner is None and scope != INSTANCE:
        raise not_found(scope)
    role, principal, kind = _wanted(await body(request), scope)
    identity = f"{'' if scope == INSTANCE else (owner.id if owner else scope)}{_PATH}/roleAssignments/{name}"
    async with control.change(asking.actor, _WRITE) as change:
        principals = await change.list(EVERYTHING, "principal")
        if principal not in listing_of(principals, ()).principals:
            raise Error(
                Code.BAD_REQUEST,
                f"Principal {principal} does not exist in the directory.",
                name="PrincipalNotFound",
                param="properties.principalId",
            )
        before = await change.get(EVERYTHING, identity)
        wanted = Assignment(principal, role.id, scope.lower())
        if before is not None and assignment_of(before) != wanted:
            raise Error(
                Code.BAD_REQUEST,
                "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
                name="RoleAssignmentUpdateNotPermitted",
            )
        if before is None:
            existing = await change.list(EVERYTHING, "roleAssignment")
            if any(assignment_of(row) == wanted for row in existing):
                raise Error(Code.CONFLICT, "The role assignment already exists.", name="RoleAssignmentExists")
            properties = {
                "roleDefinitionId": f"{DEFINITIONS}{role.id}",
                "principalId": principal,
                "principalType": kind,
                "scope": owner.id if owner else INSTANCE,
            }
            row = change.draft(
                identity,
                "roleAssignment",
                {"properties": properties},
                operator=_keeper(owner),
                subscription=owner.subscription if owner else None,
            )
            row = await change.put(row)
        else:
            row = before
    return answer(_rendered(row), 201 if before is None else 200)


async def _delete(request: Request) -> Response:
    asking, control = caller(request), control_of(request)
    try:
        row = await _held(request, _DELETE)
    except Error as error:
        if error.code is not Code.NOT_FOUND or not may(asking, _DELETE, await chain(control, _scope(request))):
            raise
        return answer(None, 204)
    async with control.change(asking.actor, _DELETE) as change:
        await change.delete(row.id)
        await keep_an_owner(change)
    return answer(_rendered(row))


async def _held(request: Request, action: str) -> Row:
    asking, control, scope = caller(request), control_of(request), _scope(request)
    identity = f"{'' if scope == INSTANCE else scope}{_PATH}/roleAssignments/{request.path_params['name']}"
    row = await control.store.get(asking.tenancy, identity)
    if row is None:
        raise not_found(identity)
    require(asking, action, chain_from(assignment_of(row).scope, row.operator))
    return row


def _keeper(owner: Row | None) -> str | None:
    """Whose an assignment is: its scope's operator; what is given on the instance's own is nobody else's to read."""
    if owner is None or (owner.operator is None and owner.subscription is None):
        return ""
    return owner.operator


def _wanted(given: dict[str, Any], scope: str) -> tuple[Role, str, str]:
    """The role, the principal and its type. Raises Error BAD_REQUEST."""
    properties = given.get("properties")
    if not isinstance(properties, dict):
        raise _invalid("properties", "the body has no object `properties`")
    definition, principal = properties.get("roleDefinitionId"), properties.get("principalId")
    if not isinstance(definition, str) or (role := find_role(definition)) is None:
        raise Error(
            Code.BAD_REQUEST,
            "The role definition of `properties.roleDefinitionId` does not exist.",
            name="RoleDefinitionDoesNotExist",
            param="properties.roleDefinitionId",
        )
    if not isinstance(principal, str):
        raise _invalid("properties.principalId", "`properties.principalId` is not a string")
    if not role.everywhere and scope != INSTANCE and not is_operator(scope.lower()):
        raise _invalid(
            "properties.roleDefinitionId", f"{role.name} is assigned at an operator or at `/`; it has no effect below"
        )
    return role, _guid(principal), "ServicePrincipal"


def _invalid(target: str, message: str) -> Error:
    return Error(Code.BAD_REQUEST, message, name="InvalidRequestContent", param=target)


def _rendered(row: Row) -> dict[str, Any]:
    system = arm.system_data(row.created_by, row.created_ms, row.changed_by, row.changed_ms)
    properties = {
        **row.body["properties"],
        "condition": None,
        "conditionVersion": None,
        "createdOn": system["createdAt"],
        "updatedOn": system["lastModifiedAt"],
        "createdBy": row.created_by,
        "updatedBy": row.changed_by,
        "delegatedManagedIdentityResourceId": None,
        "description": None,
    }
    return {
        "id": row.id,
        "type": "Microsoft.Authorization/roleAssignments",
        "name": row.name,
        "properties": properties,
    }


def _scope(request: Request) -> str:
    given = request.path_params.get("scope", "").strip("/")
    return f"/{given}" if given else INSTANCE


def _filter(request: Request) -> dict[str, str]:
    """The conditions of `$filter` that are known, by their lower-case names; others are passed over, as Azure does."""
    found: dict[str, str] = {}
    for match in _EQUALS.finditer(request.query_params.get("$filter", "")):
        field, value, function, argument = match.groups()
        if field is not None:
            found[field.lower()] = value.replace("''", "'")
        else:
            found[function.lower()] = argument or ""
    return found


def _guid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise Error(Code.BAD_REQUEST, f"`{text[:64]}` is not a GUID", name="InvalidRoleAssignmentId") from None
