"""`entrepot usage budgets`: what is counted of budgets, against what the ledger says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer
from msgspec import structs

from entrepot.cli.remote.connection import fail
from entrepot.cli.remote.output import print_json, print_table
from entrepot.cli.world import check_folder
from entrepot.clock import wall_clock_ms
from entrepot.config import Config
from entrepot.gateway.budgets import Declared, basis_of, declared_in, spent_of
from entrepot.gateway.channel import Reckoned
from entrepot.gateway.reckoning import Reckoning, Row, merged, row_of
from entrepot.ledger.verify import Unproved
from entrepot.projections.prices import Prices, exact
from entrepot.projections.spending import Spending
from entrepot.resources.model import World

ANSWER_S = 90.0
_LOG = re.compile(r"(.+)_\d{4}-\d\d_\d+")
_COLUMNS = ("budget", "period", "amount", "ledger", "counted", "drift", "left", "")


def budgets(
    context: typer.Context,
    admin: Annotated[
        str, typer.Option(metavar="URL", help="Admin listener of the gateway that runs.")
    ] = "http://127.0.0.1:9090",
    world: Annotated[
        Path | None,
        typer.Option(
            help="Of a gateway that does not run: its world; its data folder is read.", exists=True, file_okay=False
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="With --world: the gateway's data folder.", file_okay=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare what is counted of each budget with the ledger. A gateway that runs puts right what differs.

    Exit status: 0; 1 when something differed, or could not be compared; 2 for wrong usage.
    """
    if world is None and (data or context.obj):
        fail("--data is of a gateway that does not run, and needs its --world; one that runs is asked at --admin", 2)
    found = asked(admin) if world is None else computed(world, Config.load(data or context.obj).data)
    if json:
        print_json({"budgets": [told(row) for row in found.budgets], "problems": found.problems})
    else:
        print_table(_COLUMNS, map(shown, found.budgets), "nothing was spent of any budget")
        for problem in found.problems:
            print(problem, file=sys.stderr)
    differs = any(row.drift for row in found.budgets)
    if differs and not json:
        done = "it is put right, and an entry says so" if world is None else "a start goes by the ledger"
        print(f"what was counted is not what the ledger says: {done}", file=sys.stderr)
    raise typer.Exit(1 if differs or found.problems else 0)


def asked(admin: str) -> Reckoning:
    """What a running gateway says, at this moment, of all its workers."""
    url = admin if "://" in admin else f"http://{admin}"
    try:
        answer = httpx.get(f"{url.rstrip('/')}/budgets", timeout=ANSWER_S, trust_env=False)
        return msgspec.json.decode(answer.content, type=Reckoning)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        other = "give its address with --admin, or --world and --data of one that does not run"
        fail(f"there is no answer from `{url}` ({type(error).__name__}); {other}")
    except msgspec.DecodeError:
        fail(f"`{url}` is no admin listener of a gateway; give `[gateway] admin_listen` with --admin")


def computed(folder: Path, data: Path) -> Reckoning:
    """From the files: what a start would go by, against the sums of all entries of the day or month."""
    world, problems = check_folder(folder)
    if world is None:
        fail("\n".join(map(str, problems)))
    ledger = data / "ledger"
    if not ledger.is_dir():
        fail(f"there is no ledger in `{data}`", 2)
    names = sorted({match[1] for path in ledger.iterdir() if (match := _LOG.fullmatch(path.name))})
    try:
        found = merged([Reckoned(tuple(_rows(world, data, name))) for name in names])
    except (Unproved, OSError, msgspec.DecodeError) as wrong:
        fail(f"the ledger in `{ledger}` cannot be read: {wrong}; see `entrepot ledger verify`")
    rows = (structs.replace(row, left=max(0, row.amount - row.ledger)) for row in found.budgets)
    return Reckoning(tuple(rows), found.problems)


def _rows(world: World, data: Path, name: str) -> Iterator[Row]:
    now_ms = wall_clock_ms()
    keyed, basis = basis_of(world.accounts, world.models)
    prices = Prices(world.models)
    kept, anew = (Spending(data, name, prices, keyed, basis, kept=kept) for kept in (True, False))
    for spending in (kept, anew):
        spending.advance(now_ms)
    for each in _declared(world, anew):
        ledger, counted = spent_of(anew, each, now_ms), spent_of(kept, each, now_ms)
        if ledger or counted:
            yield row_of(each, ledger, counted, 0)


def _declared(world: World, spending: Spending) -> Iterator[Declared]:
    organizations = {each.name: each for each in world.organizations}
    owners = {each.id: organizations[each.organization] for each in world.subscriptions}
    return declared_in(((each, owners[each.subscription]) for each in world.accounts), spending.keys())


def told(row: Row) -> dict[str, Any]:
    amounts = {name: exact(getattr(row, name)) for name in ("amount", "ledger", "counted", "drift", "left")}
    return {"scope": row.scope, "name": row.name, "period": row.period, "currency": row.currency} | amounts


def shown(row: Row) -> tuple[str, ...]:
    amounts = [brief(amount) for amount in (row.amount, row.ledger, row.counted, row.drift, row.left)]
    return f"{row.scope} {row.name}", row.period, *amounts, row.currency


def brief(amount: int) -> str:
    """Exact, without the zeros at its end."""
    return exact(amount).rstrip("0").rstrip(".")
