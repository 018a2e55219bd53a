"""`entrepot policy`: what the access policy of a world says, and what a change of it would do, before it is done.

Exit status everywhere: 0, 1 for a finding (more than a note) or an invalid world, 2 for wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from entrepot.cli.remote import proposing
from entrepot.cli.replay import replay
from entrepot.clock import wall_clock_ms
from entrepot.policy import Pack, PolicyInvalid, parse, shipped, shipped_names
from entrepot.policy import compile as compile_packs
from entrepot.policy.analysis.announced import announced
from entrepot.policy.analysis.cases import Verdict, run_cases
from entrepot.policy.analysis.cedar import cedar as cedar_policies
from entrepot.policy.analysis.cedar import schema as cedar_schema
from entrepot.policy.analysis.check import check as check_packs
from entrepot.policy.analysis.check import drift, told
from entrepot.policy.analysis.diff import Change
from entrepot.policy.analysis.diff import diff as diff_packs
from entrepot.policy.analysis.explain import Explanation, Lawful, Question
from entrepot.policy.analysis.explain import explain as explain_call
from entrepot.policy.analysis.fresh import fresh_lists
from entrepot.policy.analysis.names import unknown_names
from entrepot.policy.analysis.page import page
from entrepot.policy.analysis.prove import prove as prove_packs
from entrepot.policy.analysis.prove import serves
from entrepot.policy.analysis.show import example, iso, milliseconds, period
from entrepot.policy.analysis.space import Space
from entrepot.policy.analysis.table import csv_table
from entrepot.policy.analysis.targets import Client, find_client
from entrepot.policy.analysis.timeline import timeline as timeline_of
from entrepot.policy.analysis.touched import Touched, touched
from entrepot.policy.facts import FACTS, OPERATIONS
from entrepot.policy.release import canonical, release_of
from entrepot.resources.load import load_world, read_world
from entrepot.resources.model import UNKNOWN, PackSource, World
from entrepot.resources.problems import WorldInvalid
from entrepot.resources.territories import normalise_territory

app = typer.Typer(add_completion=False)

WorldFolder = Annotated[
    Path, typer.Argument(metavar="WORLD", help="The world's folder, or one pack as a file.", exists=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
AccountName = Annotated[str, typer.Option("--account", help="The account's name.")]
DeploymentName = Annotated[str, typer.Option("--deployment", help="The deployment's name.")]
Origin = Annotated[str, typer.Option("--origin", help="Territory that the call comes from, or `unknown`.")]
Network = Annotated[str, typer.Option("--network", help="Class of the network that it comes from.")]
Attested = Annotated[bool, typer.Option("--attested", help="The network is attested as the client's own.")]
Operation = Annotated[str, typer.Option("--operation", help="What is asked for, such as `chat` or `deploy`.")]

_NOTHING_TO_PROVE = "no pack has an `[[invariant]]`: there is nothing to prove"
# Boxes beyond this many are counted, not listed; `--json` has all.
_LISTED = 40


@app.command()
def check(
    folder: WorldFolder,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="Compare sets with the fresh lists of a file.")
    ] = None,
    json: Json = False,
) -> None:
    """Lint, coverage of cases, invariants, rules to come; with --against, lists that have drifted.

    Exit status: 1 with an error, a warning or a list that has drifted. Notes and rules to come are told only.
    """
    packs, world = _load(folder)
    now_ms = wall_clock_ms()
    findings = (*check_packs(packs, iso(now_ms)[:10]), *(unknown_names(packs, world) if world else ()))
    to_come = tuple(announced(packs, world, now_ms)) if world else ()
    drifted = _drift(packs, against, now_ms) if against else []
    if json:
        _print_json({"findings": findings, "announced": [_timed(one) for one in to_come], "drift": drifted})
    else:
        _print_lines(findings)
        for one in to_come:
            left = f"{one.days_left} days"
            print(f"{one.account}/{one.deployment}: {one.rule} refuses calls from {iso(one.from_ms)}, in {left}")
        for each in drifted:
            print(f"@{each['set']}: missing {_words(each['missing'])}; no longer listed {_words(each['extra'])}")
        rules = sum(len(pack.rules) for pack in packs)
        print(f"{_count(len(packs), 'pack')}, {_count(rules, 'rule')}, {_count(len(findings), 'finding')}")
    raise typer.Exit(1 if drifted or any(one.severity != "note" for one in findings) else 0)


def _drift(packs: Sequence[Pack], against: Path, now_ms: int) -> list[dict[str, Any]]:
    sets = {each.name: each for pack in packs for each in pack.sets}
    try:
        fresh = fresh_lists(against.read_bytes(), sets)
    except (OSError, ValueError) as error:
        _fail(f"{against}: {error}")
    found = []
    for name, values in fresh.items():
        missing, extra = drift(sets[name], values, now_ms)
        if missing or extra:
            found.append({"set": name, "missing": missing, "extra": extra})
    return found


@app.command("test")
def run_all(folder: WorldFolder, json: Json = False) -> None:
    """Run every case of every pack."""
    packs, _ = _load(folder)
    verdicts = list(run_cases(packs))
    failed = [one for one in verdicts if not one.passed]
    if json:
        cases = [_judged(one) for one in verdicts]
        _print_json({"passed": len(verdicts) - len(failed), "failed": len(failed), "cases": cases})
    else:
        for one in failed:
            place = one.case.place
            print(f"{place.file}:{place.line}: `{one.case.rule}` wants `{one.case.want}` at {iso(one.case.at_ms)}")
            print(f"    but not with {told(one.contrary)}" if one.contrary else "    but the rule decides otherwise")
        print(f"{_count(len(verdicts) - len(failed), 'case')} passed, {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


def _judged(one: Verdict) -> dict[str, Any]:
    case = {"rule": one.case.rule, "want": one.case.want, "at": iso(one.case.at_ms), "facts": one.case.facts}
    return case | {"pack": one.pack, "place": one.case.place, "passed": one.passed, "contrary": one.contrary}


@app.command()
def explain(  # noqa: PLR0913, PLR0917 - one for each option
    folder: WorldFolder,
    account: AccountName,
    deployment: DeploymentName,
    origin: Origin,
    network: Network = "isp",
    attested: Attested = False,
    at: Annotated[str, typer.Option("--at", help="Instant of the call, ISO 8601 with offset. Default: now.")] = "",
    operation: Operation = "chat",
    json: Json = False,
) -> None:
    """Decide a call that might be made, and say why, target by target. Exit status 0 whatever the decision."""
    world, client, packs = _client(folder, account, deployment)
    question = _question(origin, network, attested, at, operation)
    found = explain_call(compile_packs(packs), world, client, question)
    if json:
        _print_json(_explained(found))
        return
    print(f"{found.decision}" + (f" ({found.code})" if found.code else "") + f" at {iso(found.at_ms)}")
    for target in found.targets:
        print(f"  {target.upstream} in {target.region} ({target.territory}): {target.decision}")
        if not target.rules:
            print("    no rule permits it")
        for rule in target.rules:
            source = f" — {rule.source.title}" if rule.source else ""
            print(f"    {rule.effect} {rule.id}: {rule.clause or 'no clause'}{source}")
    if not found.targets:
        print("  the deployment has no candidate target")
    for number, way in enumerate(found.would_allow):
        changes = " and ".join(_wished(one) for one in way)
        print(("would be allowed if " if number == 0 else "              or if ") + changes)


def _wished(one: Lawful) -> str:
    """What would have to be. A name comes beside those that are there, it replaces none."""
    if FACTS[one.fact].kind != "names":
        return f"{one.fact} were {one.to} (is {one.is_})"
    return f"{one.fact} had {one.to}" + ("" if one.is_ == "none" else " too") + f" (is {one.is_})"


def _explained(found: Explanation) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.to_builtins(found)
    return {key.removesuffix("_ms"): iso(found.at_ms) if key == "at_ms" else value for key, value in answer.items()}


@app.command()
def timeline(  # noqa: PLR0913, PLR0917 - one for each option
    folder: WorldFolder,
    account: AccountName,
    deployment: DeploymentName,
    origin: Origin,
    network: Network = "isp",
    attested: Attested = False,
    operation: Operation = "chat",
    json: Json = False,
) -> None:
    """How a call is decided over time, and what changes the decision each time."""
    world, client, packs = _client(folder, account, deployment)
    question = _question(origin, network, attested, "", operation)
    found = list(timeline_of(compile_packs(packs), world, client, question))
    if json:
        _print_json({"timeline": [_timed(one) for one in found]})
        return
    for one in found:
        print(f"{period(one.from_ms, one.until_ms)}: {one.decision}" + (f" ({one.code})" if one.code else ""))
        print(
            f"    by {', '.join(one.rules) or 'no rule'}"
            + (f"; served by {', '.join(one.allowed)}" if one.allowed else "")
        )
        for reason in one.because:
            print(f"    {reason}")


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A world's folder, or one pack as a file.", exists=True)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="What is to replace it.", exists=True)],
    at: Annotated[
        str, typer.Option("--at", help="Only at this instant, and then without periods. Default: at all times.")
    ] = "",
    json: Json = False,
) -> None:
    """Every call that would be decided otherwise, over all facts and times. Exit status 1 when there is one."""
    before, _ = _load(old)
    after, world = _load(new)
    at_ms = _instant(at) if at else None
    found = diff_packs(before, after, at_ms)
    hit = tuple(touched(Space([before, after]), world, at_ms)) if world and not found.empty else ()
    if json:
        answer = {"old": release_of(before), "new": release_of(after), "counts": found.counts}
        changes = [_timed(one, at_ms) | {"facts": dict(one.facts)} for one in found.changes]
        _print_json(answer | {"changes": changes, "touched": [_timed(one, at_ms) for one in hit]})
    else:
        for one in found.changes[:_LISTED]:
            print(f"{one.text}: {one.direction}{_during(one, at_ms)} ({', '.join(one.rules)})")
        if len(found.changes) > _LISTED:
            print(f"and {len(found.changes) - _LISTED} more; --json lists all")
        for direction, count in found.counts.items():
            print(f"{direction}: {count:,} combinations of facts")
        for each in hit:
            touches = f"touches {each.account}/{each.deployment} on {each.upstream}"
            print(f"{touches}: {each.direction}{_during(each, at_ms)}")
        if found.empty:
            print("no call is decided otherwise")
    raise typer.Exit(0 if found.empty else 1)


def _during(one: Change | Touched, at_ms: int | None) -> str:
    """Its period, but for a comparison at one instant: how long it lasts has then not been looked at."""
    return "" if at_ms is not None else f", {period(one.from_ms, one.until_ms)}"


@app.command()
def prove(
    folder: WorldFolder,
    invariants: Annotated[
        Path | None,
        typer.Argument(metavar="INVARIANTS", help="A pack with invariants, besides the world's.", exists=True),
    ] = None,
    json: Json = False,
) -> None:
    """Prove the invariants of a world, or show a call for which one fails."""
    packs, _ = _load(folder, [invariants] if invariants else [])
    proofs = list(prove_packs(packs))
    serving = serves(packs)
    if json:
        _print_json({"serves": serving, "proofs": [_timed(one) | {"facts": dict(one.facts)} for one in proofs]})
    else:
        for one in proofs:
            print(
                f"{'proved ' if one.proved else 'refuted'} {one.id}: {one.claim}"
                + (" (about no call)" if one.vacuous else "")
            )
            if not one.proved:
                when = period(one.from_ms, one.until_ms)
                print(f"    for one: {example(one.facts)}; {when}; by {', '.join(one.rules) or 'no rule'}")
        print(f"{sum(one.proved for one in proofs)} of {len(proofs)} proved" if proofs else _NOTHING_TO_PROVE)
        if proofs and not serving:
            print("no rule permits anything, so that this proves nothing: prove it with the packs that permit")
    raise typer.Exit(0 if all(one.proved for one in proofs) else 1)


app.command("replay")(replay)
app.command("propose")(proposing.propose)
app.command("approve")(proposing.approve)
app.command("reject")(proposing.reject)
app.command("withdraw")(proposing.withdraw)
app.command("publish")(proposing.publish)
app.command("proposals")(proposing.proposals)
app.command("list")(proposing.releases)


@app.command()
def release(folder: WorldFolder, json: Json = False) -> None:
    """The release's content hash and canonical form. Refused when `check` finds errors."""
    packs, _ = _load(folder)
    errors = [one for one in check_packs(packs) if one.severity == "error"]
    if errors:
        _print_lines(errors)
        raise typer.Exit(1)
    if json:
        packs_json = msgspec.json.decode(canonical(packs))
        _print_json({"release": release_of(packs), "packs": packs_json})
    else:
        print(release_of(packs))


@app.command()
def export(
    folder: WorldFolder,
    cedar: Annotated[bool, typer.Option("--cedar", help="Cedar policies.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The Cedar schema that goes with them.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="A table of the rules, for a spreadsheet.")] = False,
    json: Json = False,
) -> None:
    """The rules in a form that other tools read. One of --cedar, --schema and --csv."""
    if cedar + schema + csv != 1:
        _fail("name one of --cedar, --schema and --csv")
    packs, _ = _load(folder)
    text = cedar_policies(packs) if cedar else cedar_schema() if schema else csv_table(packs)
    if json:
        form = "cedar" if cedar else "schema" if schema else "csv"
        _print_json({"release": release_of(packs), form: text})
    else:
        sys.stdout.write(text)


@app.command()
def show(folder: WorldFolder, json: Json = False) -> None:
    """The packs as a page to read: all that their sets, rules and invariants say."""
    packs, _ = _load(folder)
    if json:
        _print_json({"release": release_of(packs), "packs": msgspec.json.decode(canonical(packs))})
        return
    print(f"release {release_of(packs)}")
    _print_lines(page(packs))


def _load(path: Path, more: Iterable[Path] = ()) -> tuple[tuple[Pack, ...], World | None]:
    """The packs of a world's folder, or of one file, in which shipped packs are not looked for."""
    world = None
    try:
        if path.is_dir():
            world = load_world(
                read_world(path), {n.removeprefix("entrepot:"): shipped(n).data for n in shipped_names()}
            ).world
            sources = world.packs
        else:
            sources = (PackSource(path.name, path.read_bytes()),)
        return parse([*sources, *(PackSource(one.name, one.read_bytes()) for one in more)]), world
    except (WorldInvalid, PolicyInvalid) as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None


def _client(folder: Path, account: str, deployment: str) -> tuple[World, Client, tuple[Pack, ...]]:
    packs, world = _load(folder)
    if world is None:
        _fail(f"`{folder}` is not the folder of a world")
    try:
        return world, find_client(world, account, deployment), packs
    except LookupError as error:
        _fail(str(error))


def _question(origin: str, network: str, attested: bool, at: str, operation: str) -> Question:
    territory = UNKNOWN if origin == UNKNOWN else normalise_territory(origin)
    if territory is None:
        _fail(f"`{origin}` is not a territory; use a code of ISO 3166-1 or `unknown`")
    if network not in (*FACTS["origin.network"].values, UNKNOWN):
        _fail(f"`{network}` is no class of network; use one of {', '.join(FACTS['origin.network'].values)}, unknown")
    if operation not in OPERATIONS:
        _fail(f"`{operation}` is no operation; use one of {', '.join(OPERATIONS)}")
    return Question(_instant(at) if at else wall_clock_ms(), territory, network, attested, operation)


def _instant(text: str) -> int:
    try:
        return milliseconds(text)
    except ValueError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(2)


def _timed(item: msgspec.Struct, only_ms: int | None = None) -> dict[str, Any]:
    """A struct as a table, with its instants in ISO 8601; without a period where only one instant was looked at."""
    table: dict[str, Any] = msgspec.to_builtins(item)
    for key in ("from_ms", "until_ms"):
        if key in table:
            at_ms = table.pop(key)
            if only_ms is None:
                table[key.removesuffix("_ms")] = None if at_ms is None else iso(at_ms)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _words(values: Sequence[str]) -> str:
    return ", ".join(values) or "nothing"


def _print_lines(items: Iterable[object]) -> None:
    for item in items:
        print(item)


def _print_json(answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
