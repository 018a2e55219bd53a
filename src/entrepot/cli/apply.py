"""`entrepot apply`: makes a control plane hold what a world declares."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from entrepot.cli.remote.carry import Carrying, Outcome, find_proposal, open_proposals
from entrepot.cli.remote.connection import Address, Authority, Data, Json, connected, fail
from entrepot.cli.remote.held import State
from entrepot.cli.remote.output import count, print_json
from entrepot.cli.remote.plan import PRUNABLE, Plan, Step, plan
from entrepot.cli.world import check_folder
from entrepot.config import Config
from entrepot.resources.model import World
from entrepot.resources.problems import WorldInvalid

app = typer.Typer(add_completion=False)

# So many steps of a kind are shown one by one; `--json` has all.
_SHOWN = 20
_SIGNS = {"create": "+", "change": "~", "propose": "?", "delete": "-"}


@app.command()
def apply(  # noqa: PLR0913, PLR0917
    folder: Annotated[Path, typer.Argument(metavar="WORLD", help="The world's folder.", exists=True, file_okay=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and end.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    prune: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Delete what the world does not have: a kind, or `all`. May be repeated."),
    ] = None,
    break_glass: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Approve yourself what wants a second person. It stands on the ledger."),
    ] = None,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Make a control plane hold what a world declares: shows what it would do, asks, does it; again, nothing is to do.

    Exit status: 0 as declared; 1 invalid world or something failed; 2 wrong usage; 3 something waits for a second
    person, or is forbidden by the policy. Secrets named `env:` and `file:` are read here and sent once.
    """
    pruned = _kinds(prune or [])
    if json and not (yes or dry_run):
        fail("--json does not ask: add --yes or --dry-run", 2)
    if break_glass is not None and not break_glass.strip():
        fail("--break-glass wants a reason: it stands on the ledger", 2)
    world = _read(folder)
    config = Config.load(data)
    with connected(data, control, ca) as connection:
        try:
            found = plan(world, State.of(connection), config.resolve_secret, pruned)
        except WorldInvalid as invalid:
            fail("\n".join(map(str, invalid.problems)))
        proposed = open_proposals(connection) if any(each.proposals for each in found.steps) else []
        if not json:
            _show(found, proposed)
        if found.problems:
            fail("\n".join((*found.problems, "nothing was changed")))
        if dry_run or not found.steps:
            if json:
                print_json({"plan": _told(found), "outcome": None})
            raise typer.Exit
        if not yes and not typer.confirm("do this?"):
            fail("nothing was changed")
        if break_glass is not None and any(each.proposals for each in found.steps):
            print(f"breaking the glass: {break_glass}", file=sys.stderr)
        with _progress(len(found.steps)) as advance:
            outcome = Carrying(connection, proposed, break_glass, advance).carry(found)
    if json:
        print_json({"plan": _told(found), "outcome": outcome})
    else:
        _tell(outcome, folder)
    raise typer.Exit(outcome.status)


def _kinds(given: list[str]) -> frozenset[str]:
    if "all" in given:
        return frozenset(PRUNABLE)
    if unknown := [each for each in given if each not in PRUNABLE]:
        fail(f"`{unknown[0]}` is nothing that is pruned; write one of {', '.join(sorted(PRUNABLE))}, all", 2)
    return frozenset(given)


def _read(folder: Path) -> World:
    world, problems = check_folder(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if world is None:
        raise typer.Exit(1)
    return world


def _show(found: Plan, proposed: list[Any]) -> None:
    for note in found.notes:
        print(f"note: {note}")
    counts: Counter[tuple[str, str]] = Counter()
    for step in found.steps:
        key = (step.verb, step.kind)
        counts[key] += 1
        if counts[key] <= _SHOWN:
            for line in _lines(step, proposed):
                print(line)
    for (verb, kind), number in counts.items():
        if number > _SHOWN:
            print(f"{_SIGNS[verb]} and {count(number - _SHOWN, 'more ' + kind)}")
    for kind, names in found.kept.items():
        listed = f": {', '.join(names)}" if len(names) <= 5 else ""
        print(f"  not in the world, and kept: {count(len(names), kind)}{listed} (--prune {kind})")
    verbs = Counter(step.verb for step in found.steps)
    done = ", ".join(f"{number:,} to {verb}" for verb, number in verbs.items()) or "nothing to do"
    print(f"{done}; {found.unchanged:,} unchanged")


def _lines(step: Step, proposed: list[Any]) -> Iterator[str]:
    yield f"{_SIGNS[step.verb]} {step.kind} {step.name}"
    for each in step.differences:
        yield (
            f"    {each.field}: {_value(each.before)} → {_value(each.after)}"
            if step.verb == "change"
            else (f"    {each.field}: {_value(each.after)}")
        )
    for proposal in step.proposals:
        name = find_proposal(proposal, proposed)
        yield f"    waits for approval: {name}" if name else "    wants a second person"


def _value(value: Any) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _tell(outcome: Outcome, folder: Path) -> None:
    for failure in outcome.failures[:_SHOWN]:
        first, *more = failure.lines
        print(f"{failure.verb} {failure.kind} {failure.name}: {first}", file=sys.stderr)
        for line in more:
            print(f"    {line}", file=sys.stderr)
        account, _, deployment = failure.name.partition("/")
        if failure.by_policy and failure.kind == "deployment":
            why = f"--account {account} --deployment {deployment} --operation deploy --origin unknown"
            print(f"    why: entrepot policy explain {folder} {why}", file=sys.stderr)
    if len(outcome.failures) > _SHOWN:
        print(f"and {len(outcome.failures) - _SHOWN:,} more failures", file=sys.stderr)
    for each in outcome.waiting[:_SHOWN]:
        print(f"waits for a second person: {each.about}, {each.told}")
        print(f"    entrepot policy approve {each.name}")
    if len(outcome.waiting) > _SHOWN:
        print(f"and {len(outcome.waiting) - _SHOWN:,} more: entrepot policy proposals")
    told = [f"{outcome.done:,} done"]
    told += [f"{len(outcome.waiting):,} waiting"] if outcome.waiting else []
    told += [f"{len(outcome.failures):,} refused"] if outcome.failures else []
    told += [f"{outcome.left:,} not begun: run it again then"] if outcome.left else []
    print(", ".join(told))


def _told(found: Plan) -> dict[str, Any]:
    """Without requests: they may hold secrets."""
    steps = [
        {
            "verb": step.verb,
            "kind": step.kind,
            "name": step.name,
            "differences": [each._asdict() for each in step.differences],
        }
        for step in found.steps
    ]
    return {
        "steps": steps,
        "unchanged": found.unchanged,
        "kept": found.kept,
        "notes": found.notes,
        "problems": found.problems,
    }


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("applying", total=total)
        yield lambda: bar.advance(task)
