"""`entrepot key`: the two keys of an account. Showing them is what these commands are for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entrepot.cli.remote.connection import Address, Authority, Connection, Data, Json, Refused, connected, fail
from entrepot.cli.remote.output import print_json, print_table

app = typer.Typer(add_completion=False)

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's name, or its id.")]
HIDDEN = "(known to its client only)"


@app.command("list")
def list_keys(
    account: Account, data: Data = None, control: Address = None, ca: Authority = None, json: Json = False
) -> None:
    """Show both keys of an account."""
    with connected(data, control, ca) as connection:
        found = connection.post(f"{_find(connection, account)}/listKeys")
    _show(found, json=json)


@app.command()
def regenerate(
    account: Account,
    key: Annotated[str, typer.Argument(metavar="KEY", help="key1 or key2.")],
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Make one key anew, and show both. The old one is refused on every gateway within a second; the other goes on."""
    if key not in {"key1", "key2"}:
        fail(f"`{key}` is no key; write key1 or key2", 2)
    with connected(data, control, ca) as connection:
        found = connection.post(f"{_find(connection, account)}/regenerateKey", {"keyName": key.capitalize()})
    _show(found, json=json)


def _show(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    print_table(("key", "value"), [(name, found[name] or HIDDEN) for name in ("key1", "key2")], "")


def _find(connection: Connection, account: str) -> str:
    """Its id. A name is looked for in every subscription that the caller sees."""
    if account.startswith("/"):
        return account.rstrip("/")
    for subscription in connection.all("/subscriptions"):
        for each in connection.all(f"{subscription['id']}/providers/Microsoft.CognitiveServices/accounts"):
            if each["name"].lower() == account.lower():
                return str(each["id"])
    told = f"there is no account `{account}` that you may see; see `az cognitiveservices account list`"
    raise Refused(404, "ResourceNotFound", told)
