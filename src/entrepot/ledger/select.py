"""Chooses entries by what they say, and puts what they say in columns."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple

from entrepot.ledger.entries import KINDS, Decision, Entry, Outcome, Refusals, decode, plain
from entrepot.ledger.read import Read, all_folders_of, entries_of

POLL_S = 0.2
COLUMNS = (
    "log",
    "index",
    "at",
    "kind",
    "decision",
    "account",
    "deployment",
    "operation",
    "code",
    "territory",
    "network",
    "upstream",
    "rules",
    "result",
    "status",
    "prompt_tokens",
    "completion_tokens",
    "total_ms",
    "count",
)


class Choice(NamedTuple):
    """What to choose; None leaves a part open. Outcomes are chosen with their decisions, whenever they came."""

    account: str | None = None
    admitted: bool | None = None
    rule: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


EVERYTHING = Choice()


class Row(NamedTuple):
    """An entry as a line of a table."""

    read: Read
    entry: Entry

    @property
    def kind(self) -> str:
        return KINDS[type(self.entry)]

    def cells(self) -> list[str | int]:
        at = datetime.fromtimestamp(self.entry.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        cells: dict[str, Any] = {"log": self.read.origin, "index": self.read.number, "at": at, "kind": self.kind}
        about = plain(self.read.entry)[self.kind]
        if isinstance(self.entry, Decision):
            cells |= _decided(about)
        elif isinstance(self.entry, Outcome):
            cells |= _became(about)
        elif isinstance(self.entry, Refusals):
            cells |= {"decision": "refuse", "rules": about["rule"]}
            cells |= {name: about[name] for name in ("account", "code", "count")}
        return [cells.get(name, "") for name in COLUMNS]


def row_of(read: Read) -> Row:
    """Raises msgspec.DecodeError for what is no entry."""
    return Row(read, decode(read.entry))


def chosen(ledger: Path, choice: Choice) -> Iterator[Row]:
    """All entries of a folder that are chosen, log by log."""
    decided: set[str] = set()
    for log in all_folders_of(ledger):
        for read in entries_of(log):
            row = row_of(read)
            if _fits(row, choice, decided):
                yield row


def follow(ledger: Path, choice: Choice, last: int, keep_on: bool) -> Iterator[Row]:
    """The last entries that are chosen, of all logs, then, if asked, those that are appended from now on."""
    decided: set[str] = set()
    seen: dict[Path, int] = {}
    kept: dict[str, deque[Row]] = {}
    for row in _fresh(ledger, seen):
        if _fits(row, choice, decided):
            kept.setdefault(row.read.origin, deque(maxlen=last)).append(row)
    yield from deque(merge(*kept.values(), key=lambda row: row.entry.at_ms), maxlen=last)
    while keep_on:
        time.sleep(POLL_S)
        yield from (row for row in _fresh(ledger, seen) if _fits(row, choice, decided))


def _fresh(ledger: Path, seen: dict[Path, int]) -> Iterator[Row]:
    for log in all_folders_of(ledger):
        for read in entries_of(log, seen.get(log, 0)):
            seen[log] = read.number + 1
            yield row_of(read)


def _fits(row: Row, choice: Choice, decided: set[str]) -> bool:
    """`decided` holds the decisions chosen so far, whose outcomes are chosen with them."""
    entry = row.entry
    if isinstance(entry, Outcome) and choice != EVERYTHING:
        if entry.decision not in decided:
            return False
        decided.discard(entry.decision)
        return True
    if choice.since_ms is not None and entry.at_ms < choice.since_ms:
        return False
    if choice.until_ms is not None and entry.at_ms >= choice.until_ms:
        return False
    if isinstance(entry, Refusals):
        return (
            choice.account in {None, entry.account}
            and choice.admitted is not True
            and choice.rule in {None, *entry.rule.split(", ")}
        )
    if not isinstance(entry, Decision):
        return choice[:3] == (None, None, None)
    if choice == EVERYTHING:
        return True
    about = plain(row.read.entry)["decision"]
    fits = (
        choice.account in {None, about["client"].get("account")}
        and choice.admitted in {None, entry.admitted}
        and (choice.rule is None or any(choice.rule in one["rules"] for one in about["candidates"]))
    )
    if fits and entry.admitted:
        decided.add(f"{row.read.origin}/{row.read.number}")
    return fits


def _decided(about: dict[str, Any]) -> dict[str, Any]:
    rules = {rule for candidate in about["candidates"] for rule in candidate["rules"]}
    return {
        "decision": "allow" if about["admitted"] else "refuse",
        "account": about["client"].get("account", ""),
        "deployment": about["deployment"].get("name", ""),
        "operation": about["operation"],
        "code": about.get("code", ""),
        "territory": about["origin"].get("territory", ""),
        "network": about["origin"].get("network", ""),
        "rules": " ".join(sorted(rules)),
    }


def _became(about: dict[str, Any]) -> dict[str, Any]:
    usage = about.get("usage", {})
    legs = about.get("legs", [])
    return {
        "decision": about["decision"],
        "upstream": legs[-1]["upstream"] if legs else "",
        "result": about["result"],
        "status": about["status"],
        "prompt_tokens": usage.get("prompt", ""),
        "completion_tokens": usage.get("completion", ""),
        "total_ms": about.get("total_ms", ""),
    }
