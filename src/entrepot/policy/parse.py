"""Policy packs from TOML to frozen structs, collecting every mistake of every file. No I/O: it is given bytes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from entrepot.policy.conditions import check_references
from entrepot.policy.fields import Table, suggest
from entrepot.policy.lines import Lines
from entrepot.policy.model import Pack, PolicyInvalid, Problem, Set, conditions_of
from entrepot.policy.read import read_case, read_id, read_invariant, read_rule, read_set
from entrepot.resources.model import PackSource

_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")


class _Draft:
    """A pack with the tables that its parts were read from, so that later checks can still name lines."""

    def __init__(self, pack: Pack, tables: Mapping[tuple[str, int], Table]) -> None:
        self.pack = pack
        self.tables = tables


def parse(sources: Sequence[PackSource]) -> tuple[Pack, ...]:
    """The packs, sorted by id. Raises `PolicyInvalid` with all mistakes of all files.

    Names of sets and ids of rules are shared by all packs of a release.
    """
    problems: list[Problem] = []
    drafts = [draft for source in sources if (draft := _read(source, problems)) is not None]
    _check_names(drafts)
    _check_sets_exist(drafts)
    if problems:
        raise PolicyInvalid(sorted(problems, key=lambda problem: (problem.file, problem.line or 0)))
    return tuple(sorted((draft.pack for draft in drafts), key=lambda pack: pack.id))


def _read(source: PackSource, problems: list[Problem]) -> _Draft | None:
    try:
        text = source.data.decode()
        raw = tomllib.loads(text, parse_float=Decimal)
    except UnicodeDecodeError as error:
        problems.append(Problem(source.name, f"not UTF-8 at byte {error.start}", "save the file as UTF-8"))
        return None
    except RecursionError:
        problems.append(Problem(source.name, "not TOML: nested too deeply", "mend the syntax"))
        return None
    except ValueError as error:  # also a number with too many digits, which `tomllib` lets pass
        at = _AT_LINE.search(str(error))
        what = f"not TOML: {_AT_LINE.sub('', str(error)).strip().lower()}"
        problems.append(Problem(source.name, what, "mend the syntax", int(at[1]) if at else None))
        return None
    lines = Lines(text)
    return _pack(Table(raw, source.name, lines, problems), lines)


def _pack(top: Table, lines: Lines) -> _Draft:
    top.only("pack", "set", "rule", "case", "invariant")
    head = top.raw.get("pack")
    if not isinstance(head, dict):
        top.problem("`[pack]` is missing", 'begin the file with `[pack]` and `id = "…"`')
    table = top.inside(head if isinstance(head, dict) else {}, "pack", lines.named("pack"))
    table.only("id", "owner", "source", "about", "as_of", "review")
    tables = {("pack", 0): table}
    name = read_id(table) if isinstance(head, dict) else ""
    return _Draft(
        Pack(
            id=name,
            place=table.place(),
            owner=table.text("owner"),
            source=table.source(),
            about=table.text("about"),
            as_of=table.day("as_of"),
            review=table.day("review"),
            sets=tuple(_sets(top, lines, tables)),
            rules=tuple(read_rule(inner, name) for inner in _tables(top, lines, "rule", tables)),
            cases=tuple(
                case for inner in _tables(top, lines, "case", tables) if (case := read_case(inner)) is not None
            ),
            invariants=tuple(
                each
                for inner in _tables(top, lines, "invariant", tables)
                if (each := read_invariant(inner, name)) is not None
            ),
        ),
        tables,
    )


def _tables(top: Table, lines: Lines, key: str, tables: dict[tuple[str, int], Table]) -> Iterator[Table]:
    """The tables of `[[rule]]` or `[[case]]`, in the order of the file."""
    raw = top.raw.get(key, [])
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        top.problem(f"`{key}` is not a list of tables", f"write `[[{key}]]`", key)
        return
    for at, item in enumerate(raw):
        name = item.get("id") or item.get("rule")
        tables[key, at] = top.inside(item, f"{key} `{name}`" if name else f"{key} {at + 1}", lines.nth(key, at))
        yield tables[key, at]


def _sets(top: Table, lines: Lines, tables: dict[tuple[str, int], Table]) -> Iterator[Set]:
    raw = top.raw.get("set", {})
    if not isinstance(raw, dict) or not all(isinstance(item, dict) for item in raw.values()):
        top.problem("`set` is not a table of sets", "write `[set.name]`", "set")
        return
    for at, (name, item) in enumerate(raw.items()):
        table = tables["set", at] = top.inside(item, f"set `{name}`", lines.named(f"set.{name}"))
        yield read_set(table, name)


def _check_names(drafts: Sequence[_Draft]) -> None:
    """Ids of packs and rules and names of sets are unique; every case names a rule of its own pack."""
    seen: dict[tuple[str, str], Table] = {}
    for draft in drafts:
        for kind, at, name in [("pack", 0, draft.pack.id), *_named(draft.pack)]:
            table = draft.tables[kind, at]
            first = seen.setdefault((kind, name), table)
            if name and first is not table:
                table.problem(f"the {kind} `{name}` exists already, in {_where(first)}", "give it another name", name)
        _check_cases(draft)


def _check_cases(draft: _Draft) -> None:
    rules = sorted(rule.id for rule in draft.pack.rules)
    for (kind, _), table in draft.tables.items():
        name = table.raw.get("rule") if kind == "case" else None
        if isinstance(name, str) and name not in rules:
            table.problem(f"`{name}` is no rule of this pack", suggest(name, rules), name)


def _named(pack: Pack) -> Iterator[tuple[str, int, str]]:
    yield from (("set", at, each.name) for at, each in enumerate(pack.sets))
    yield from (("rule", at, each.id) for at, each in enumerate(pack.rules))


def _where(table: Table) -> str:
    place = table.place()
    return place.file if place.line is None else f"{place.file}:{place.line}"


def _check_sets_exist(drafts: Sequence[_Draft]) -> None:
    sets = {each.name: each for draft in drafts for each in draft.pack.sets}
    for draft in drafts:
        for at, rule in enumerate(draft.pack.rules):
            for condition in conditions_of(rule):
                check_references(draft.tables["rule", at], condition, sets)
        for at, invariant in enumerate(draft.pack.invariants):
            for condition in conditions_of(invariant.scope):
                check_references(draft.tables["invariant", at], condition, sets)
