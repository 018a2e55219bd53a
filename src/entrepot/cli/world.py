"""`entrepot world`: look at a world's folder without serving it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from entrepot.policy import PolicyInvalid, parse, shipped, shipped_names
from entrepot.policy import Problem as PolicyProblem
from entrepot.policy import compile as compile_packs
from entrepot.resources.load import load_world, read_world
from entrepot.resources.model import PackSource, World
from entrepot.resources.problems import Problem, WorldInvalid

app = typer.Typer(add_completion=False)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The world's folder.", exists=True, file_okay=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report every mistake of a world and its policy packs: where it stands, what is wrong, how to mend it.

    Exit status: 0 valid, perhaps with warnings; 1 invalid; 2 wrong usage. Secrets are not looked up.
    """
    world, problems = check_folder(folder)
    if json:
        answer = {"valid": world is not None, "problems": problems}
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
    else:
        for problem in problems:
            print(problem)
        print(_summary(world, problems))
    raise typer.Exit(0 if world is not None else 1)


def check_folder(folder: Path) -> tuple[World | None, tuple[Problem, ...]]:
    """The world, if it is valid together with its packs, and everything found in it."""
    world: World | None = None
    packs: tuple[PackSource, ...]
    try:
        files = read_world(folder)
        loaded = load_world(files, {n.removeprefix("entrepot:"): shipped(n).data for n in shipped_names()})
        world, packs, problems = loaded.world, loaded.world.packs, loaded.warnings
    except WorldInvalid as invalid:
        packs, problems = invalid.packs, invalid.problems
    try:
        compile_packs(parse(packs))
    except PolicyInvalid as invalid:
        return None, (*problems, *map(_as_problem, invalid.problems))
    return world, problems


def _as_problem(found: PolicyProblem) -> Problem:
    return Problem(found.file, found.line, (found.subject or "").replace("`", ""), found.what, found.fix)


def _summary(world: World | None, problems: tuple[Problem, ...]) -> str:
    errors = sum(problem.level == "error" for problem in problems)
    counts = [_count(errors, "error"), _count(len(problems) - errors, "warning")]
    told = ", ".join(count for count in counts if not count.startswith("0 "))
    if world is None:
        return f"invalid: {told}"
    has = [
        _count(len(world.organizations), "organization"),
        _count(len(world.accounts), "account"),
        _count(sum(len(account.deployments) for account in world.accounts), "deployment"),
        _count(len(world.upstreams), "upstream"),
        _count(len(world.packs), "policy pack"),
    ]
    return f"valid: {', '.join(has)}" + (f"; {told}" if told else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
