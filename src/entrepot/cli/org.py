"""`entrepot org`: organizations, their record, their review, their eligibilities."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entrepot.cli.remote import proposing
from entrepot.cli.remote.connection import ACCESS, Address, Authority, Data, Json, connected, fail
from entrepot.cli.remote.output import print_json, print_table

app = typer.Typer(add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The organization.")]
_AT = f"{ACCESS}/organizations"


@app.command("list")
def list_all(data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """Every organization that you may see."""
    with connected(data, control, ca) as connection:
        found = list(connection.all(_AT))
    if json:
        print_json({"organizations": found})
        return
    rows = []
    for each in found:
        of = each["properties"]
        eligible = [one if isinstance(one, str) else one["name"] for one in of.get("eligibility", ())]
        kyc, screening = of.get("kyc", "none"), of.get("screening", "unknown")
        rows.append((each["name"], of["operator"], of["territory"], of["entityType"], kyc, screening, eligible))
    columns = ("name", "operator", "territory", "type", "kyc", "screening", "eligible for")
    print_table(columns, rows, "there is no organization; make one with `entrepot org add`")


@app.command()
def show(name: Name, data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """All that is on record of one."""
    with connected(data, control, ca) as connection:
        found = connection.get(f"{_AT}/{name}")
    if json:
        print_json(found)
        return
    print_table(("field", "value"), [*found["properties"].items()], "nothing is on record")


@app.command()
def add(  # noqa: PLR0913, PLR0917
    name: Name,
    legal_name: Annotated[str, typer.Option(help="As it is registered.")],
    territory: Annotated[str, typer.Option(help="Where it is incorporated, such as `CN`.")],
    operator: Annotated[str, typer.Option(help="In whose book it stands.")],
    entity_type: Annotated[str, typer.Option(help="enterprise, individual, public_body or nonprofit.")] = "enterprise",
    registration: Annotated[
        str | None, typer.Option(metavar="KIND:NUMBER", help="Such as `uscc:…` or `lei:…`, checked by its algorithm.")
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="NUMBER[:EXPIRES]", help="Its business licence.")] = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Record an organization. Review and eligibility come after."""
    properties: dict[str, Any] = {
        "legalName": legal_name,
        "territory": territory,
        "operator": operator,
        "entityType": entity_type,
    }
    if registration is not None:
        kind, colon, number = registration.partition(":")
        if not colon:
            fail("write --registration KIND:NUMBER, such as `uscc:91110000600037341L`", 2)
        properties["registration"] = {"kind": kind, "number": number}
    if licence is not None:
        number, colon, expires = licence.partition(":")
        properties["licence"] = {"number": number} | ({"expires": expires} if colon else {})
    with connected(data, control, ca) as connection:
        found = connection.put(f"{_AT}/{name}", {"properties": properties}, **{"if-none-match": "*"})
    if json:
        print_json(found)
    else:
        print(f"`{name}` is on record; next: entrepot org review {name} --kyc approved --screening clear")


@app.command()
def review(  # noqa: PLR0913, PLR0917
    name: Name,
    kyc: Annotated[str | None, typer.Option(help="none, pending, approved, expired or rejected.")] = None,
    kyc_expires: Annotated[str | None, typer.Option(metavar="INSTANT", help="Until when that holds.")] = None,
    screening: Annotated[str | None, typer.Option(help="clear, hit or unknown.")] = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Write down a reviewer's findings. What was rejected, or hit, comes back only by a proposal: `org reinstate`."""
    given = {"kyc": kyc, "kycExpires": kyc_expires, "screening": screening}
    found = {key: value for key, value in given.items() if value is not None}
    if not found:
        fail("say what was found: --kyc, --kyc-expires or --screening", 2)
    with connected(data, control, ca) as connection:
        after = connection.send("PATCH", f"{_AT}/{name}", {"properties": found})
    if json:
        print_json(after)
    else:
        print(f"`{name}`: {', '.join(f'{key} {value}' for key, value in found.items())}")


@app.command("propose-eligibility")
def propose_eligibility(  # noqa: PLR0913, PLR0917
    name: Name,
    eligibility: Annotated[str, typer.Argument(metavar="ELIGIBILITY", help="Such as `openai@cloud`.")],
    grounds: Annotated[str, typer.Option(help="The evidence or the clause that it rests on.")],
    expires: Annotated[str | None, typer.Option(metavar="INSTANT", help="Until when. Default: without end.")] = None,
    reason: proposing.Reason = "eligible",
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Propose that an organization is eligible for something; another person approves it."""
    change = {"name": eligibility, "grounds": grounds} | ({"expires": expires} if expires is not None else {})
    properties = {"kind": "eligibility", "subject": f"{_AT}/{name}", "change": change, "reason": reason}
    with connected(data, control, ca) as connection:
        made = proposing.put(connection, properties)
    _tell(made, json=json)


@app.command()
def reinstate(  # noqa: PLR0913, PLR0917
    name: Name,
    reason: Annotated[str, typer.Option(help="Why the finding no longer holds.")],
    kyc: Annotated[bool, typer.Option("--kyc", help="KYC becomes `approved`.")] = False,
    screening: Annotated[bool, typer.Option("--screening", help="Screening becomes `clear`.")] = False,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Propose that a rejection or a hit no longer stands; another person approves it."""
    change = ({"kyc": "approved"} if kyc else {}) | ({"screening": "clear"} if screening else {})
    properties = {"kind": "reinstatement", "subject": f"{_AT}/{name}", "change": change, "reason": reason}
    with connected(data, control, ca) as connection:
        made = proposing.put(connection, properties)
    _tell(made, json=json)


def _tell(made: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(made)
    else:
        print(f"proposed as {made['name']}; another person: entrepot policy approve {made['name']}")


@app.command()
def remove(name: Name, data: Data = None, control: Address = None, ca: Authority = None) -> None:
    """Take an organization out of the book; it must have no subscription."""
    with connected(data, control, ca) as connection:
        connection.delete(f"{_AT}/{name}")
    print(f"`{name}` is gone")
