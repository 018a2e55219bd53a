"""`entrepot upstream`: the endpoints that calls are sent on to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entrepot.cli.remote.connection import ACCESS, Address, Authority, Data, Json, connected, fail
from entrepot.cli.remote.output import print_json, print_table
from entrepot.config import Config
from entrepot.errors import Error

app = typer.Typer(add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The upstream.")]
_AT = f"{ACCESS}/upstreams"


@app.command("list")
def list_all(data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """Every upstream that you may see."""
    with connected(data, control, ca) as connection:
        found = list(connection.all(_AT))
    if json:
        print_json({"upstreams": found})
        return
    rows = []
    for each in found:
        of = each["properties"]
        rows.append((each["name"], of["provider"], of["region"], of["api"], of["baseUrl"], sorted(of["models"])))
    columns = ("name", "provider", "region", "api", "base URL", "models")
    print_table(columns, rows, "there is no upstream; make one with `entrepot upstream add`")


@app.command()
def add(  # noqa: PLR0913, PLR0917
    name: Name,
    base_url: Annotated[str, typer.Option(help="Such as `https://api.example/v1`.")],
    provider: Annotated[str, typer.Option(help="Whose models they are; it is made if there is no such provider.")],
    region: Annotated[str, typer.Option(help="Where the inference runs.")],
    model: Annotated[
        list[str], typer.Option(metavar="MODEL@VERSION[=NAME]", help="What it serves, and its own name of it.")
    ],
    api: Annotated[str, typer.Option(help="openai or azure.")] = "openai",
    api_version: Annotated[str | None, typer.Option(help="Which azure needs.")] = None,
    credential: Annotated[
        str, typer.Option(metavar="REFERENCE", help="`env:NAME` or `file:PATH`, read here and sent once; or `none`.")
    ] = "none",
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Make an upstream, or replace it. Its credential is kept encrypted and never shown."""
    config = Config.load(data)
    properties: dict[str, Any] = {
        "provider": provider,
        "region": region,
        "api": api,
        "baseUrl": base_url,
        "models": dict(_served(each) for each in model),
    } | ({"apiVersion": api_version} if api_version is not None else {})
    if credential == "none":
        properties["credential"] = "none"
    else:
        try:
            properties["credentialValue"] = config.resolve_secret(credential)
        except Error as error:
            fail(error.message, 2)
    with connected(data, control, ca) as connection:
        if not any(each["name"] == provider for each in connection.all(f"{ACCESS}/providers")):
            connection.put(f"{ACCESS}/providers/{provider}", {"properties": {}})
        made = connection.put(f"{_AT}/{name}", {"properties": properties})
    if json:
        print_json(made)
    else:
        print(f"`{name}` serves {', '.join(sorted(made['properties']['models']))} in {region}")


def _served(given: str) -> tuple[str, str]:
    model, _, own = given.partition("=")
    if "@" not in model:
        fail(f"`{given}` has no version; write `--model gpt-4o@2024-11-20` or `gpt-4o@2024-11-20=its-own-name`", 2)
    return model, own or model.partition("@")[0]


@app.command()
def remove(name: Name, data: Data = None, control: Address = None, ca: Authority = None) -> None:
    """Delete an upstream; no deployment may need it."""
    with connected(data, control, ca) as connection:
        connection.delete(f"{_AT}/{name}")
    print(f"`{name}` is gone")
