"""`entrepot policy replay`: what the ledger's decisions would have been under another policy."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from entrepot.cli.ledger import refuse_data_folder
from entrepot.cli.usage import between, fail, reading
from entrepot.ledger.read import is_ledger
from entrepot.policy import PolicyInvalid, Program, parse, shipped, shipped_names
from entrepot.policy import compile as compile_packs
from entrepot.projections.replay import Flip, Replay
from entrepot.resources.load import load_world, read_world
from entrepot.resources.model import PackSource
from entrepot.resources.problems import WorldInvalid

# So many findings are listed, and so many flips of each direction; `--json` has all.
_LISTED = 40
_MOST = 8


def replay(
    folder: Annotated[
        Path, typer.Argument(metavar="WORLD", help="The world's folder, or one pack as a file.", exists=True)
    ],
    ledger: Annotated[
        Path, typer.Option(metavar="DIR", help="A ledger's folder, or one log of it.", exists=True, file_okay=False)
    ],
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Decisions from this instant on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Decisions before this instant.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Decide the ledger's decisions again: under their own release, and under that of WORLD, to see what flips.

    Exit status: 0, with flips or without; 1 when a decision does not come out the same under its own release,
    or that release cannot be had; 2 for wrong usage.
    """
    window = between(since, until)
    refuse_data_folder(ledger)
    if not is_ledger(ledger):
        fail(f"there is no ledger in `{ledger}`")
    program = _program(folder)
    found = Replay(program, window)
    with reading(ledger) as logs:
        for read in logs:
            found.take(read)
        found.finish(logs)
    problems = list(found.problems())
    if json:
        _print_json(found, program.release, problems)
    else:
        _print_lines(found, program.release, problems)
    raise typer.Exit(1 if problems or found.findings else 0)


def _program(path: Path) -> Program:
    try:
        if path.is_dir():
            packs = {name.removeprefix("entrepot:"): shipped(name).data for name in shipped_names()}
            sources = load_world(read_world(path), packs).world.packs
        else:
            sources = (PackSource(path.name, path.read_bytes()),)
        return compile_packs(parse(sources))
    except (WorldInvalid, PolicyInvalid) as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None


def _print_json(found: Replay, release: str, problems: list[str]) -> None:
    answer = {
        "release": release,
        "decided": found.decided,
        "releases": dict(sorted(found.releases.items())),
        "refused_otherwise": found.otherwise,
        "problems": problems,
        "different": found.different,
        "findings": found.findings,
        "flips": found.sorted_flips(),
    }
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")


def _print_lines(found: Replay, release: str, problems: list[str]) -> None:
    for problem in [*problems, *found.findings[:_LISTED]]:
        print(problem)
    if len(found.findings) > _LISTED:
        print("and more; --json lists them")
    of = f"{found.decided:,} decisions of {len(found.releases)} release{'' if len(found.releases) == 1 else 's'}"
    if not problems and not found.findings:
        print(f"{of}: all come out the same under their own release")
    else:
        print(f"{of}: {found.different:,} do not come out the same")
    print(f"under {release}:" + ("" if found.flips else " nothing flips"))
    flips = found.sorted_flips()
    for direction in sorted({flip.direction for flip in flips}):
        _print_direction(direction, [flip for flip in flips if flip.direction == direction])


def _print_direction(direction: str, flips: list[Flip]) -> None:
    number = sum(flip.calls for flip in flips)
    print(f"{direction}: {number:,} call" + ("" if number == 1 else "s"))
    for name in ("account", "rule", "day"):
        calls: Counter[str] = Counter()
        for flip in flips:
            calls[getattr(flip, name)] += flip.calls
        most = [f"{value} {number:,}" for value, number in calls.most_common(_MOST)]
        more = f"; and {len(calls) - _MOST} more" if len(calls) > _MOST else ""
        print(f"  by {name}: {'; '.join(most)}{more}")
    for flip in flips[:_MOST]:
        print(f"  {flip.calls:,} of {flip.account} on {flip.day} by {flip.rule}, as {', '.join(flip.examples)}")
    if len(flips) > _MOST:
        print(f"  and {len(flips) - _MOST} more such groups; --json lists all")
