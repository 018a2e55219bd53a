"""The commands around proposals and policy releases: they stand in the group `entrepot policy`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from entrepot.cli.remote.connection import ACCESS, Address, Authority, Connection, Data, Json, connected, fail
from entrepot.cli.remote.output import count, print_json, print_table
from entrepot.policy.shipped import PREFIX
from entrepot.resources.folder import inside

Packs = Annotated[
    list[str], typer.Argument(metavar="PACK…", help="All packs of the release: files, or `entrepot:NAME`.")
]
At = Annotated[str | None, typer.Option("--at", metavar="INSTANT", help="When it takes effect. Default: at once.")]
WarnDays = Annotated[int | None, typer.Option("--warn-days", help="Warn so many days before rules that are to come.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays on record.")]
Decision = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays on record.")]
BreakGlass = Annotated[
    str | None, typer.Option("--break-glass", metavar="REASON", help="Approve your own proposal, as an Owner at `/`.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The proposal, or as much of its id as is unique.")]

PROPOSALS = f"{ACCESS}/proposals"


def propose(  # noqa: PLR0913, PLR0917
    packs: Packs,
    reason: Reason = "a policy release",
    at: At = None,
    warn_days: WarnDays = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Propose a policy release; another person approves it. Shows what it would change, and for whom."""
    with connected(data, control, ca) as connection:
        made = _proposed(connection, packs, reason, at, warn_days)
    if json:
        print_json(made)
        return
    _show_release(made)
    print(f"proposed as {made['name']}; another person: entrepot policy approve {made['name']}")


def publish(  # noqa: PLR0913, PLR0917
    packs: Packs,
    break_glass: Annotated[str, typer.Option("--break-glass", metavar="REASON", help="Why nobody else can approve.")],
    at: At = None,
    warn_days: WarnDays = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Propose a policy release and approve it yourself, in an emergency. It is loud, and stands on the ledger."""
    with connected(data, control, ca) as connection:
        made = _proposed(connection, packs, break_glass, at, warn_days)
        said = {"breakGlass": True, "reason": break_glass}
        done = connection.post(f"{PROPOSALS}/{made['name']}/approve", said)
    if json:
        print_json(done)
        return
    _show_release(made)
    _show_applied(done)


def _proposed(
    connection: Connection, packs: list[str], reason: str, at: str | None, warn_days: int | None
) -> dict[str, Any]:
    change: dict[str, Any] = {"packs": [_pack(each) for each in packs]}
    if warn_days is not None:
        change["warnDays"] = warn_days
    properties = {"kind": "policyRelease", "change": change, "reason": reason}
    return put(connection, properties | ({"effectiveAt": at} if at is not None else {}))


def put(connection: Connection, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The proposal as it stands."""
    made: dict[str, Any] = connection.put(f"{PROPOSALS}/{uuid.uuid4()}", {"properties": properties})
    return made


def _pack(name: str) -> Any:
    if name.startswith(PREFIX):
        return name
    called = name if inside(name) else Path(name).name
    try:
        return {"name": called, "text": Path(name).read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the pack `{name}` cannot be read: {error}; name a file, or a shipped pack such as `{PREFIX}base`", 2)


def _show_release(made: Mapping[str, Any]) -> None:
    properties = made["properties"]
    print(f"release {properties['release']}")
    reports = properties.get("reports", {})
    for finding in reports.get("check", {}).get("findings", ()):
        print(finding["message"])
    difference, replay = reports.get("diff", {}), reports.get("replay", {})
    for direction, number in difference.get("counts", {}).items():
        print(f"{direction}: {number:,} combinations of facts")
    for each in difference.get("affectedAccounts", ()):
        for direction, names in each["directions"].items():
            print(f"touches {each['account']}: {direction} ({', '.join(names)})")
    print(f"of {count(replay.get('decided', 0), 'recorded decision')}, flipped: {replay.get('totals') or 'none'}")


def approve(  # noqa: PLR0913, PLR0917
    id_: Id,
    reason: Decision = "",
    break_glass: BreakGlass = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Approve what another person proposed, and so apply it."""
    said: dict[str, Any] = {"reason": break_glass or reason or None}
    if break_glass is not None:
        said["breakGlass"] = True
    with connected(data, control, ca) as connection:
        done = _decide(connection, id_, "approve", said)
    _tell(done, json=json)


def reject(
    id_: Id,
    reason: Decision = "",
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Reject a proposal, once and for all."""
    with connected(data, control, ca) as connection:
        done = _decide(connection, id_, "reject", {"reason": reason or None})
    _tell(done, json=json)


def withdraw(id_: Id, data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """Withdraw what you proposed."""
    with connected(data, control, ca) as connection:
        done = _decide(connection, id_, "withdraw", {})
    _tell(done, json=json)


def _decide(
    connection: Connection, id_: str, verb: Literal["approve", "reject", "withdraw"], said: Mapping[str, Any]
) -> dict[str, Any]:
    body = {key: value for key, value in said.items() if value is not None}
    done: dict[str, Any] = connection.post(f"{PROPOSALS}/{_find(connection, id_)}/{verb}", body)
    return done


def _find(connection: Connection, id_: str) -> str:
    if len(id_) == 36:
        return id_
    found = [each["name"] for each in connection.all(PROPOSALS) if each["name"].startswith(id_.lower())]
    if len(found) != 1:
        what = "no proposal begins" if not found else f"{len(found)} proposals begin"
        fail(f"{what} with `{id_}`; see `entrepot policy proposals`")
    return str(found[0])


def _tell(done: Mapping[str, Any], *, json: bool) -> None:
    if json:
        print_json(done)
    else:
        _show_applied(done)


def _show_applied(done: Mapping[str, Any]) -> None:
    properties = done["properties"]
    about = properties.get("release", "")[:19] or f"of {properties['subject'].rpartition('/')[2]}"
    told = f"{properties['kind']} {about}: {properties['state']}"
    if properties["state"] == "approved":
        told += ", in force" if properties.get("applied") else f", in force from {properties.get('appliesAt')}"
    print(told)
    if "breakGlass" in properties:
        print(f"the glass was broken: {properties['breakGlass']['reason']}")


def proposals(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this one whole.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """What waits for a second person: releases, eligibilities, egress, residency, reinstatements."""
    with connected(data, control, ca) as connection:
        if id_ is not None:
            print_json(connection.get(f"{PROPOSALS}/{_find(connection, id_)}"))
            return
        listed = list(connection.all(PROPOSALS))
    found = [each for each in listed if all_ or each["properties"]["state"] == "proposed"]
    if json:
        print_json({"proposals": found})
        return
    rows = [(each["name"], *_row(each["properties"])) for each in found]
    columns = ("id", "kind", "about", "change", "by", "reason", "state")
    print_table(columns, rows, "nothing waits for a second person")


def _row(properties: Mapping[str, Any]) -> tuple[Any, ...]:
    change = dict(properties["change"])
    told = properties.get("release", "")[:19] or change.get("name") or change
    by, about = properties["proposedBy"]["name"], properties["subject"].rpartition("/")[2]
    return (properties["kind"], about, told, by, properties["reason"], properties["state"])


def releases(data: Data = None, control: Address = None, ca: Authority = None, json: Json = False) -> None:
    """The policy releases: what is in force, what is to come, what was."""
    with connected(data, control, ca) as connection:
        found = list(connection.all(f"{ACCESS}/policyReleases"))
    if json:
        print_json({"releases": found})
        return
    rows = []
    for each in sorted(found, key=lambda one: str(one["properties"].get("effectiveAt", ""))):
        of = each["properties"]
        since = of.get("inForceSince") or of.get("effectiveAt")
        rows.append((each["name"][:19], of["state"], since, [pack["name"] for pack in of["packs"]]))
    print_table(("release", "state", "since", "packs"), rows, "there is no policy release: every call is refused")
