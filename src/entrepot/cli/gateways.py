"""`entrepot gateways`: who follows the control plane, how far they are, and tokens by which others join."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entrepot.cli.remote.connection import ACCESS, Address, Authority, Data, Json, Refused, connected
from entrepot.cli.remote.output import print_json, print_table

app = typer.Typer(add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The gateway.")]
_AT = f"{ACCESS}/gateways"


@app.callback(invoke_without_command=True)
def gateways(
    context: typer.Context,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Without a command: every gateway, the revision that it runs, and when it was last heard of."""
    if context.invoked_subcommand is None:
        list_all(data, control, ca, json)


@app.command("list")
def list_all(data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """Every gateway, the revision that it runs, and when it was last heard of."""
    with connected(data, control, ca) as connection:
        found = list(connection.all(_AT))
    if json:
        print_json({"gateways": found})
        return
    rows = []
    for each in found:
        of = each["properties"]
        status: dict[str, Any] = of.get("status", {})
        if status.get("lastSeenAt") is None:  # it may follow another control plane: of this one it is not known
            status = {**status, "trusted": None, "ready": None}
        state = tuple(map(status.get, ("enrolled", "trusted", "ready", "revision", "lastSeenAt")))
        rows.append((each["name"], of.get("territory", "unknown"), of.get("listen"), *state))
    columns = ("name", "territory", "listen", "enrolled", "keys", "ready", "revision", "last seen")
    print_table(columns, rows, "there is no gateway; make one with `entrepot gateways enrol NAME`")


@app.command()
def enrol(  # noqa: PLR0913, PLR0917
    name: Name,
    territory: Annotated[str | None, typer.Option(help="Where it is, if it is new or has moved.")] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where calls reach it, if it is new.")] = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Print a token by which a gateway joins, once, within 24 hours; and what to type on its machine."""
    given = {"territory": territory, "listen": listen}
    properties = {key: value for key, value in given.items() if value is not None}
    with connected(data, control, ca) as connection:
        try:
            if properties:
                connection.send("PATCH", f"{_AT}/{name}", {"properties": properties})
            else:
                connection.get(f"{_AT}/{name}")
        except Refused as refused:
            if refused.status != 404:
                raise
            connection.put(f"{_AT}/{name}", {"properties": properties})
        made = connection.post(f"{_AT}/{name}/enrol")
        url = connection.url
    if json:
        print_json(made | {"control": url})
        return
    print(f"entrepot gateway --control {url} --data DIR --enrol {made['token']}")
    print(f"# the token works once, until {made['expiresAt']}")


@app.command()
def remove(name: Name, data: Data = None, control: Address = None, ca: Authority = None) -> None:
    """Delete a gateway: it is no longer told anything. It serves on with what it has until it is stopped."""
    with connected(data, control, ca) as connection:
        connection.delete(f"{_AT}/{name}")
    print(f"`{name}` is gone")
