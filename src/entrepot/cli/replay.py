"""`entrepot policy replay`: what the ledger's decisions would have been under another policy."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from entrepot.cli.usage import instant, reading
from entrepot.policy import PolicyInvalid, Program, parse, shipped, shipped_names
from entrepot.policy import compile as compile_packs
from entrepot.projections.replay import Flip, Replay
from entrepot.projections.window import Window
from entrepot.resources.load import load_world, read_world
from entrepot.resources.model import PackSource
from entrepot.resources.problems import WorldInvalid

# So many findings and flips are listed; the rest is counted, and `--json` has all.
_LISTED = 40


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
    window = Window(instant(since, "--since"), instant(until, "--until"))
    program = _program(folder)
    found = Replay(program, window)
    with reading(ledger) as logs:
        for read in logs:
            found.take(read)
        found.finish(logs)
    problems = [*logs.gaps, *found.problems()]
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
    flips = found.sorted_flips()
    print(f"under {release}: {_summary(flips)}")
    for flip in flips[:_LISTED]:
        about = f"{flip.direction}: {flip.calls:,} on {flip.day}, account {flip.account}, {flip.rule}"
        print(f"  {about}; {', '.join(flip.examples)}")
    if len(flips) > _LISTED:
        print(f"  and {len(flips) - _LISTED} more groups; --json lists all")


def _summary(flips: list[Flip]) -> str:
    calls: Counter[str] = Counter()
    for flip in flips:
        calls[flip.direction] += flip.calls
    return ", ".join(f"{number:,} {name}" for name, number in sorted(calls.items())) or "nothing flips"
