"""`entrepot role`: who may do what, and where."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from entrepot.cli.remote.connection import ACCESS, Address, Authority, Connection, Data, Json, connected, fail
from entrepot.cli.remote.output import print_json, print_table
from entrepot.management.roles import DEFINITIONS, ROLES, Role, find_role
from entrepot.resources.ids import access_id

app = typer.Typer(add_completion=False)

Scope = Annotated[
    str, typer.Option("--scope", metavar="ID", help="`/`, `operator:NAME`, a subscription's GUID, or a resource's id.")
]
RoleName = Annotated[str, typer.Argument(metavar="ROLE", help="Such as `Reviewer`; see `entrepot role names`.")]
PrincipalName = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="Its name, or its client id.")]
_AT = "/providers/Microsoft.Authorization/roleAssignments"


@app.command("list")
def list_all(
    scope: Scope = "/", data: Data = None, control: Address = None, ca: Authority = None, json: Json = False
) -> None:
    """The assignments at a scope, above it and below it."""
    with connected(data, control, ca) as connection:
        found = list(connection.all(f"{_id(scope).rstrip('/')}{_AT}"))
        names = _names(connection)
    if json:
        print_json({"assignments": found})
        return
    rows = []
    for each in found:
        of = each["properties"]
        role = find_role(of["roleDefinitionId"])
        rows.append((names.get(of["principalId"], of["principalId"]), role.name if role else "-", of["scope"]))
    print_table(("principal", "role", "scope"), rows, "nobody has a role there")


@app.command()
def names(json: Json = False) -> None:
    """The roles that there are."""
    if json:
        print_json({"roles": [{"id": each.id, "name": each.name, "description": each.description} for each in ROLES]})
        return
    print_table(("role", "what it gives"), [(each.name, each.description) for each in ROLES], "")


@app.command()
def assign(  # noqa: PLR0913, PLR0917
    role: RoleName,
    principal: PrincipalName,
    scope: Scope = "/",
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Give a principal a role at a scope."""
    found = _role(role)
    with connected(data, control, ca) as connection:
        client = _client(connection, principal)
        where = _id(scope)
        held = _held(connection, where, client, found)
        made = held[0] if held else None
        if made is None:
            properties = {"roleDefinitionId": DEFINITIONS + found.id, "principalId": client}
            made = connection.put(f"{where.rstrip('/')}{_AT}/{uuid.uuid4()}", {"properties": properties})
    if json:
        print_json(made)
    else:
        print(f"`{principal}` is {found.name} at {where}")


@app.command()
def remove(
    role: RoleName,
    principal: PrincipalName,
    scope: Scope = "/",
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
) -> None:
    """Take a role at a scope from a principal."""
    found = _role(role)
    with connected(data, control, ca) as connection:
        where = _id(scope)
        held = _held(connection, where, _client(connection, principal), found)
        if not held:
            fail(f"`{principal}` is not {found.name} at {where}; see `entrepot role list --scope {scope}`")
        for each in held:
            connection.delete(each["id"])
    print(f"`{principal}` is no longer {found.name} at {where}")


def _held(connection: Connection, where: str, client: str, role: Role) -> list[Mapping[str, Any]]:
    found = []
    for each in connection.all(f"{where.rstrip('/')}{_AT}"):
        of = each["properties"]
        definition = find_role(of["roleDefinitionId"])
        same = of["principalId"].lower() == client.lower() and of["scope"].lower() == where.lower()
        if same and definition is not None and definition.id == role.id:
            found.append(each)
    return found


def _role(name: str) -> Role:
    found = next((each for each in ROLES if name.lower() in {each.name.lower(), each.id}), None)
    if found is None:
        fail(f"there is no role `{name}`; there are {', '.join(each.name for each in ROLES)}", 2)
    return found


def _client(connection: Connection, principal: str) -> str:
    try:
        return str(uuid.UUID(principal))
    except ValueError:
        found = connection.get(f"{ACCESS}/principals/{principal}")
        return str(found["properties"]["appId"])


def _names(connection: Connection) -> dict[str, str]:
    return {each["properties"]["appId"]: each["name"] for each in connection.all(f"{ACCESS}/principals")}


def _id(scope: str) -> str:
    if scope.startswith("/"):
        return scope
    kind, colon, name = scope.partition(":")
    if colon and kind == "operator":
        return access_id("operator", name)
    try:
        return f"/subscriptions/{uuid.UUID(scope)}"
    except ValueError:
        fail(f"`{scope}` is no scope; write `/`, `operator:NAME`, a subscription's GUID, or a resource's id", 2)
