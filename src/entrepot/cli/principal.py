"""`entrepot principal`: who can log in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entrepot.cli.remote.connection import (
    ACCESS,
    CLIENT_ID,
    CLIENT_SECRET,
    Address,
    Authority,
    Data,
    Json,
    connected,
)
from entrepot.cli.remote.output import print_json, print_table

app = typer.Typer(add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The principal.")]
_AT = f"{ACCESS}/principals"


@app.command("list")
def list_all(data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """Every principal that you may see."""
    with connected(data, control, ca) as connection:
        found = list(connection.all(_AT))
    if json:
        print_json({"principals": found})
        return
    rows = []
    for each in found:
        of = each["properties"]
        rows.append((each["name"], of["appId"], of.get("operator"), of.get("owner"), of["state"]))
    print_table(("name", "client id", "operator", "person", "state"), rows, "there is no principal")


@app.command()
def add(  # noqa: PLR0913, PLR0917
    name: Name,
    operator: Annotated[str | None, typer.Option(help="Whose staff it is. Default: the instance's.")] = None,
    person: Annotated[
        str | None, typer.Option(help="Whose principal it is: nobody approves what they proposed.")
    ] = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Make a principal, and show its secret, this once. Give it a role with `entrepot role assign`."""
    given = {"displayName": name, "operator": operator, "owner": person}
    properties = {key: value for key, value in given.items() if value is not None}
    with connected(data, control, ca) as connection:
        connection.put(f"{_AT}/{name}", {"properties": properties})
        made = connection.post(f"{_AT}/{name}/newSecret")
    _show(made, json=json)


@app.command()
def secret(
    name: Name,
    revoke_others: Annotated[bool, typer.Option("--revoke-others", help="Older secrets end at once.")] = False,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Give a principal a new secret, and show it, this once. The one before stays valid unless it is revoked."""
    with connected(data, control, ca) as connection:
        made = connection.post(f"{_AT}/{name}/newSecret", {"revokeOthers": revoke_others})
    _show(made, json=json)


def _show(made: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(made)
        return
    print(f"export {CLIENT_ID}={made['appId']}")
    print(f"export {CLIENT_SECRET}={made['secret']}")


@app.command()
def remove(name: Name, data: Data = None, control: Address = None, ca: Authority = None) -> None:
    """Delete a principal with its roles and secrets."""
    with connected(data, control, ca) as connection:
        connection.delete(f"{_AT}/{name}")
    print(f"`{name}` is gone")
