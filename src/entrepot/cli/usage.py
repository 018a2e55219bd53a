"""`entrepot usage`: what the ledger says was used and refused, added up."""

from __future__ import annotations

import csv as comma_separated
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from entrepot.cli.budgets import budgets
from entrepot.config import Config
from entrepot.ledger.read import is_ledger
from entrepot.ledger.verify import Unproved
from entrepot.policy import shipped, shipped_names
from entrepot.projections import refusals as refused
from entrepot.projections import usage as used
from entrepot.projections.check import check as check_usage
from entrepot.projections.follow import Logs
from entrepot.projections.prices import Prices, exact, rounded
from entrepot.projections.refusals import Refusals
from entrepot.projections.usage import COUNTS, Sums, Usage
from entrepot.projections.window import Window
from entrepot.resources.load import load_world, read_world
from entrepot.resources.problems import WorldInvalid

app = typer.Typer(add_completion=False)

Data = Annotated[
    Path | None, typer.Option(help="The gateway's data folder; by default that of the environment.", file_okay=False)
]

# So many calls without an outcome, or outcomes without a decision, are named; the rest is counted.
_LISTED = 20


@app.callback(invoke_without_command=True)
def usage(  # noqa: PLR0913, PLR0917 - one argument an option
    context: typer.Context,
    data: Data = None,
    world: Annotated[
        Path | None,
        typer.Option(help="The world whose prices apply; without it no costs.", file_okay=False, exists=True),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAMES", help="account, deployment, model, region, day; joined by commas.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Calls from this instant on: ISO 8601, UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Calls before this instant.")] = None,
    refusals: Annotated[
        bool, typer.Option("--refusals", help="Count refusals, by account, rule, code, territory, day.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Add up what the ledger says was used, or with --refusals refused. Computed from its entries alone, each time.

    Exit status: 0; 1 when the ledger cannot be read; 2 for wrong usage.
    """
    if context.invoked_subcommand is not None:
        if world or by is not None or since is not None or until is not None or refusals or csv or json:
            fail(f"of the options before `{context.invoked_subcommand}` only --data goes with it")
        context.obj = data
        return
    if csv and json:
        fail("name one of --csv and --json")
    window = between(since, until)
    dimensions = _dimensions(by, refused.DIMENSIONS if refusals else used.DIMENSIONS)
    ledger, form = folder_of(data), "csv" if csv else "json" if json else "table"
    if refusals:
        _count_refusals(ledger, window, dimensions, form)
    else:
        _add_up(ledger, Usage(_prices(world), window), dimensions, form)


def _dimensions(given: str | None, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in given.split(",")] if given is not None else list(known[:3])
    for name in names:
        if name not in known:
            fail(f"`{name}` is nothing to group by; use {', '.join(known)}")
    return list(dict.fromkeys(names))


def _prices(world: Path | None) -> Prices | None:
    if world is None:
        return None
    try:
        loaded = load_world(read_world(world), {n.removeprefix("entrepot:"): shipped(n).data for n in shipped_names()})
    except WorldInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    return Prices(loaded.world.models)


def _add_up(ledger: Path, found: Usage, by: list[str], form: str) -> None:
    with reading(ledger) as logs:
        for read in logs:
            found.take(read)
    found.finish()
    groups, whole = used.grouped(found.cells, by), used.total(found.cells)
    doubts = list(_doubts(found))
    if form == "json":
        rows = [dict(zip(by, group, strict=True)) | _told(sums) for group, sums in groups.items()]
        _print_json({"by": by, "rows": rows, "total": _told(whole), "doubts": doubts})
        return
    if form == "csv":
        currencies = sorted(whole.cost)
        header = [*by, *COUNTS, *(f"cost_{currency}" for currency in currencies)]
        _print_csv(header, ([*group, *_cells(sums, currencies)] for group, sums in groups.items()))
    else:
        priced = bool(whole.cost or whole.unpriced)
        lines = [(*group, *_shown(sums, priced)) for group, sums in groups.items()]
        ends = [("total", *[""] * (len(by) - 1), *_shown(whole, priced))] if by else []
        _print_table([*by, *_HEAD, *(["cost"] if priced else [])], [*lines, *ends], len(by))
    for doubt in doubts:
        print(doubt, file=sys.stderr)


_HEAD = ("calls", "served", "not served", "prompt", "cached", "completion", "reasoning", "not reported", "failed legs")


def _shown(sums: Sums, priced: bool) -> list[str]:
    tokens = sums.prompt + sums.completion
    unsure = tokens - sums.prompt_reported - sums.completion_reported
    failed = sums.prompt_failed_legs + sums.completion_failed_legs
    numbers = (sums.calls, sums.served, sums.calls - sums.served, sums.prompt, sums.cached)
    shown = [f"{number:,}" for number in (*numbers, sums.completion, sums.reasoning, unsure, failed)]
    if not priced:
        return shown
    costs = [f"{rounded(amount)} {currency}" for currency, amount in sorted(sums.cost.items())]
    return [*shown, " + ".join([*costs, *(["no price"] if sums.unpriced else [])])]


def _told(sums: Sums) -> dict[str, Any]:
    told: dict[str, Any] = {name: getattr(sums, name) for name in COUNTS}
    return told | {"cost": {currency: exact(amount) for currency, amount in sorted(sums.cost.items())}}


def _cells(sums: Sums, currencies: Iterable[str]) -> list[int | str]:
    costs = [exact(sums.cost[currency]) if currency in sums.cost else "" for currency in currencies]
    return [*(getattr(sums, name) for name in COUNTS), *costs]


def _doubts(found: Usage) -> Iterator[str]:
    if found.without_outcome:
        yield f"{len(found.without_outcome)} calls have no outcome yet; `entrepot usage check` names them"
    if found.without_decision:
        yield f"{len(found.without_decision)} outcomes without a decision are not counted; see `entrepot usage check`"


def _count_refusals(ledger: Path, window: Window, by: list[str], form: str) -> None:
    found = Refusals(window)
    with reading(ledger) as logs:
        for read in logs:
            found.take(read)
    groups, whole = refused.grouped(found.cells, by), sum(found.cells.values())
    if form == "json":
        rows = [dict(zip(by, group, strict=True)) | {"refusals": number} for group, number in groups.items()]
        _print_json({"by": by, "rows": rows, "total": {"refusals": whole}, "doubts": []})
        return
    if form == "csv":
        _print_csv([*by, "refusals"], ([*group, number] for group, number in groups.items()))
    else:
        lines = [(*group, f"{number:,}") for group, number in groups.items()]
        ends = [("total", *[""] * (len(by) - 1), f"{whole:,}")] if by else []
        _print_table([*by, "refusals"], [*lines, *ends], len(by))


@app.command()
def check(context: typer.Context, data: Data = None) -> None:
    """Prove that the sums by every grouping are those of all entries, and that every call has exactly one outcome.

    Calls in progress have none yet: check while nothing is served, or expect them. Exit status 1 with a finding.
    """
    with reading(folder_of(data or context.obj)) as logs:
        found = check_usage(logs)
    for finding in found.findings[:_LISTED]:
        print(finding)
    if len(found.findings) > _LISTED:
        print(f"and {len(found.findings) - _LISTED} more")
    if found.findings:
        raise typer.Exit(1)
    print(f"{found.calls} calls, {found.refusals} refusals: {found.groupings} groupings come to what the entries say")


app.command()(budgets)


def folder_of(data: Path | None) -> Path:
    """The ledger in a data folder."""
    folder = Config.load(data).data / "ledger"
    if not is_ledger(folder):
        fail(f"there is no ledger in `{folder.parent}`")
    return folder


def between(since: str | None, until: str | None) -> Window:
    window = Window(instant(since, "--since"), instant(until, "--until"))
    if window.since_ms is not None and window.until_ms is not None and window.until_ms <= window.since_ms:
        fail(f"--until `{until}` is not after --since `{since}`: no call is between them")
    return window


def instant(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        fail(f"`{text}` is no instant of {option}; write 2026-11-22 or 2026-11-22T10:00:00Z")
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1000)


@contextmanager
def reading(ledger: Path) -> Iterator[Logs]:
    """The logs of a folder, with a bar while they are read. What cannot be read ends the command with status 1."""
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        logs = Logs(ledger, lambda size: bar.advance(task, size))
        bar.update(task, total=logs.size())
        try:
            yield logs
        except (Unproved, OSError, msgspec.DecodeError) as wrong:
            print(f"the ledger in `{ledger}` cannot be read: {wrong}; see `entrepot ledger verify`", file=sys.stderr)
            raise typer.Exit(1) from None


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> None:
    """`names` columns of text, then numbers. With lines where people look, if it fits."""
    console = Console()
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
    if console.is_terminal and sum(widths) + 3 * len(widths) < console.width:
        table = Table()
        for at, title in enumerate(header):
            table.add_column(title, justify="left" if at < names else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    for row in (header, *rows):
        cells = [
            text.ljust(width) if at < names else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _print_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = comma_separated.writer(sys.stdout, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)


def _print_json(answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(2)
