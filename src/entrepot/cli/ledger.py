"""`entrepot ledger`: verify it, read it, export it, erase personal data from it."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from entrepot.cli.receipt import KeyOption, key_of
from entrepot.config import Config
from entrepot.ledger.disclosed import disclosed
from entrepot.ledger.entries import Personal
from entrepot.ledger.erase import erase as erase_personal
from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.read import all_folders_of, is_ledger
from entrepot.ledger.select import COLUMNS, Choice, Row, chosen, follow
from entrepot.ledger.verify import CHECKPOINT, LIST, SEGMENT, Unproved, check, summary

app = typer.Typer(add_completion=False)

One = TypeVar("One")

Data = Annotated[
    Path | None, typer.Option(help="The gateway's data folder; by default that of the environment.", file_okay=False)
]
Account = Annotated[str | None, typer.Option(help="Calls of this account.")]
Verdict = Annotated[str | None, typer.Option("--decision", metavar="allow|refuse", help="Calls decided so.")]
RuleOption = Annotated[str | None, typer.Option("--rule", metavar="ID", help="Decisions that this rule determined.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="From this instant on: ISO 8601, UTC by default.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before this instant.")]


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A ledger's folder, or one log of it.", exists=True, file_okay=False)
    ],
    key: KeyOption,
    since: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="A file of earlier checkpoints that must still hold.", exists=True),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Compare personal data with what entries commit to.")
    ] = False,
) -> None:
    """Prove that nothing in the logs was changed, removed or reordered. Needs nothing of the gateway's.

    Exit status: 0 proved; 1 not proved, with everything that is wrong; 2 wrong usage.
    """
    refuse_data_folder(folder)
    if private and any(folder.glob(SEGMENT)):
        raise typer.BadParameter("--private needs the whole ledger: what was erased stands in a log of its own")
    verifier = key_of(key)
    total = sum(path.stat().st_size for path in folder.rglob(SEGMENT))
    started = time.perf_counter()
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            found = check(folder, verifier, since, lambda size: bar.advance(task, size))
    except (Unproved, OSError) as wrong:
        print(f"NOT PROVED: {wrong}")
        raise typer.Exit(1) from None
    findings, lines = found.findings(), [*summary(found)]
    if private and not findings:
        try:
            compared = disclosed(folder)
        except (Unproved, OSError) as wrong:
            findings.append(str(wrong))
        else:
            lines.append(str(compared))
            findings += compared.findings
    for line in (*lines, *(f"NOT PROVED: {finding}" for finding in findings)):
        print(line)
    entries = sum(report.tree.size for report in found.reports.values())
    took = max(time.perf_counter() - started, 1e-9)
    print(f"{entries} entries in {took:.1f} s, {entries / took:.0f} a second", file=sys.stderr)
    raise typer.Exit(1 if findings else 0)


@app.command()
def show(
    data: Data = None,
    account: Account = None,
    decision: Verdict = None,
    rule: RuleOption = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Print entries, one a line, for people."""
    choice = _choice(account, decision, rule, since, until)
    ledger = _folder(data)
    for row in _reading(ledger, chosen(ledger, choice)):
        print(_line(row))


@app.command()
def tail(
    data: Data = None,
    account: Account = None,
    decision: Verdict = None,
    rule: RuleOption = None,
    number: Annotated[int, typer.Option("-n", min=0, help="So many entries of what is there already.")] = 10,
    keep_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on with entries as they come.")] = False,
) -> None:
    """Print the last entries, and those that come."""
    choice = _choice(account, decision, rule, None, None)
    ledger = _folder(data)
    with suppress(KeyboardInterrupt):
        for row in _reading(ledger, follow(ledger, choice, number, keep_on)):
            print(_line(row), flush=True)


@app.command()
def export(  # noqa: PLR0913, PLR0917 - one argument an option
    data: Data = None,
    account: Account = None,
    decision: Verdict = None,
    rule: RuleOption = None,
    since: Since = None,
    until: Until = None,
    form: Annotated[Format, typer.Option("--format", help="All of each entry, or a table of calls.")] = Format.JSONL,
) -> None:
    """Write entries to standard output: JSON lines with the whole entries, or CSV with a line for each."""
    choice = _choice(account, decision, rule, since, until)
    ledger = _folder(data)
    rows = _reading(ledger, chosen(ledger, choice))
    if form is Format.JSONL:
        for row in rows:
            head = msgspec.json.encode({"log": row.read.origin, "index": row.read.number})
            sys.stdout.buffer.write(head[:-1] + b',"entry":' + row.read.entry + b"}\n")
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(row.cells() for row in rows)


@app.command()
def checkpoint(data: Data = None) -> None:
    """Print the last signed checkpoint of each log. Kept elsewhere, they prove later that nothing was taken back:

    give the whole output, or any one of them, to `entrepot ledger verify --since`.
    """
    ledger = _folder(data)
    notes = ((log / CHECKPOINT).read_text(encoding="utf-8") for log in all_folders_of(ledger))
    for number, note in enumerate(_reading(ledger, notes)):
        print("\n" * bool(number) + note, end="")


@app.command()
def erase(
    data: Data = None,
    account: Annotated[str | None, typer.Option(help="The account whose end user it is.")] = None,
    end_user: Annotated[str | None, typer.Option(help="The end user's id, as the calls gave it.")] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="All personal data of calls before then.")] = None,
    basis: Annotated[str, typer.Option(help="Why; it stands in the entry.")] = "request of the data subject",
    key: Annotated[str | None, typer.Option(metavar="NAME", help="The gateway's key, if there are several.")] = None,
) -> None:
    """Erase personal data: client addresses, keys' names, end users' ids. Entries and their proofs stay as they are.

    Gateways may run meanwhile. That it was done is an entry itself. Exit status 1: not everything could be erased.
    """
    one_user, given = account is not None and end_user is not None, account is not None or end_user is not None
    if one_user == (before is not None) or given != one_user:
        raise typer.BadParameter("name --account and --end-user, or --before")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in basis):
        raise typer.BadParameter("the text of --basis is no UTF-8")
    before_ms = _instant(before, "--before")

    def choose(whose: str, at_ms: int, personal: Personal) -> bool:
        return at_ms < before_ms if before_ms is not None else (whose, personal.user) == (account, end_user)

    where = Config.load(data).data
    try:
        count = erase_personal(where, key or _only_key(where), choose, basis)
    except (LedgerRefused, Unproved, msgspec.DecodeError, OSError) as wrong:
        print(f"not erased: {wrong}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"erased the personal data of {count} {'entry' if count == 1 else 'entries'}")


def _reading(ledger: Path, rows: Iterator[One]) -> Iterator[One]:
    """What cannot be read ends the command with status 1, after what stands before it."""
    try:
        yield from rows
    except (Unproved, msgspec.DecodeError, OSError, UnicodeDecodeError) as wrong:
        sys.stdout.flush()
        print(f"the ledger in `{ledger}` cannot be read on: {wrong}; see `entrepot ledger verify`", file=sys.stderr)
        raise typer.Exit(1) from None


def refuse_data_folder(folder: Path) -> None:
    """The data folder is what other commands are given."""
    inner = folder / "ledger"
    if inner.is_dir() and not any(any(folder.glob(one)) for one in (LIST, CHECKPOINT, SEGMENT)):
        raise typer.BadParameter(f"`{folder}` is a data folder; name the ledger in it: `{inner}`")


def _folder(data: Path | None) -> Path:
    folder = Config.load(data).data / "ledger"
    if not is_ledger(folder):
        raise typer.BadParameter(f"there is no ledger in `{folder.parent}`")
    return folder


def _only_key(data: Path) -> str:
    """The name in the one verifier key of a data folder."""
    names = [path.read_text(encoding="utf-8").partition("+")[0] for path in (data / "keys").glob("*.vkey")]
    if len(names) != 1:
        raise typer.BadParameter(f"`{data / 'keys'}` holds {len(names)} keys; name one with --key")
    return names[0]


def _choice(
    account: str | None, decision: str | None, rule: str | None, since: str | None, until: str | None
) -> Choice:
    if decision not in {None, "allow", "refuse"}:
        raise typer.BadParameter(f"`{decision}` is neither `allow` nor `refuse`")
    admitted = None if decision is None else decision == "allow"
    since_ms, until_ms = _instant(since, "--since"), _instant(until, "--until")
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        raise typer.BadParameter(f"--until `{until}` is not after --since `{since}`: nothing is between them")
    return Choice(account, admitted, rule, since_ms, until_ms)


def _instant(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"`{text}` is no instant of {option}; write 2026-11-22 or 2026-11-22T10:00:00Z"
        ) from None
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1000)


def _line(row: Row) -> str:
    cells = dict(zip(COLUMNS, row.cells(), strict=True))
    told = " ".join(f"{name}={value}" for name, value in list(cells.items())[4:] if value != "")
    return f"{cells['at']} {row.read.origin}/{row.read.number} {row.kind} {told}"
