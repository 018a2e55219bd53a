"""One set, rule or case of a pack, from its TOML table to its struct."""

from __future__ import annotations

import re
from math import prod
from typing import Any, Final, Literal, cast

from entrepot.policy.conditions import (
    NAME,
    as_text,
    check_literal,
    check_territory,
    fact_of,
    flatten,
    is_reference,
    read_conditions,
)
from entrepot.policy.facts import STATUSES
from entrepot.policy.fields import Table
from entrepot.policy.model import Case, Condition, Effect, Invariant, Member, Rule, Set, Status, Want
from entrepot.policy.owners import read_owners
from entrepot.resources.model import Owner

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")

# A rule compiles to the product of its alternatives. Past this it is unreadable, and is to be split.
MAX_TERMS: Final = 1024


def read_id(table: Table) -> str:
    name = table.text("id", required=True) or ""
    if name and not ID.fullmatch(name):
        table.problem(f"`{name}` is not an id", "use letters, digits, `-`, `_` and `.`", name)
    return name


def read_set(table: Table, name: str) -> Set:
    table.only("territories", "names", "excludes", "complete", "from", "until", "source", "as_of", "review", "note")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        table.problem(f"`{name}` is not a name of a set", "use letters, digits, `-` and `_`", name)
    kinds = [key for key in ("territories", "names") if key in table.raw]
    if len(kinds) != 1:
        table.problem("a set has either `territories` or `names`", "give exactly one of them")
    start, until = table.interval()
    kind: Literal["territories", "names"] = "names" if kinds == ["names"] else "territories"
    members = tuple(_members(table, kind))
    return Set(
        name=name,
        kind=kind,
        members=members,
        place=table.place(),
        complete=table.flag("complete", default=True),
        from_ms=start,
        until_ms=until,
        source=table.source(),
        as_of=table.day("as_of"),
        review=table.day("review"),
        note=table.text("note"),
        excludes=_excludes(table, frozenset(member.value for member in members)),
    )


def _excludes(table: Table, members: frozenset[str]) -> tuple[str, ...]:
    raw = table.raw.get("excludes", [])
    if not isinstance(raw, list) or not all(isinstance(code, str) for code in raw):
        table.problem("`excludes` is not a list of territories", 'write `excludes = ["HK"]`', "excludes")
        return ()
    for code in raw:
        check_territory(table, code)
        if code in members:
            table.problem(f"`{code}` is both a member and excluded", "drop one of them", code)
    return tuple(sorted(raw))


def _members(table: Table, kind: str) -> list[Member]:
    raw = table.raw.get(kind, [])
    if not isinstance(raw, list):
        table.problem(f"`{kind}` is not a list", f'write `{kind} = ["…"]`', kind)
        return []
    members: dict[tuple[Any, ...], Member] = {}
    for item in raw:
        member = _member(table, item, "code" if kind == "territories" else "name")
        if member is None:
            continue
        key = (member.value, member.from_ms or 0, member.until_ms or 0)
        if key in members:
            table.problem(f"`{member.value}` is listed twice", "drop one of them", member.value)
        if kind == "territories":
            check_territory(table, member.value)
        elif not NAME.fullmatch(member.value):
            table.problem(f"`{member.value}` is not a name", "use letters, digits and `._@:/+-`", member.value)
        members[key] = member
    return [members[key] for key in sorted(members)]


def _member(table: Table, item: object, key: str) -> Member | None:
    if isinstance(item, str):
        return Member(item)
    if not isinstance(item, dict):
        fix = f'write `"…"` or `{{ {key} = "…", from = 2024-07-09T00:00:00Z }}`'
        table.problem(f"`{item}` is not a member", fix, str(item))
        return None
    inner = table.inside(item)
    inner.only(key, "from", "until")
    value = inner.text(key, required=True)
    start, until = inner.interval()
    return None if value is None else Member(value, start, until)


_RULE_KEYS = (
    *("id", "effect", "status", "from", "until", "revives", "when", "any", "unless", "unknown"),
    *("code", "reason", "source", "clause", "note"),
)


def read_rule(table: Table, pack: str) -> Rule:
    table.only(*_RULE_KEYS)
    effect = table.choice("effect", ("permit", "forbid")) or "forbid"
    status = table.choice("status", STATUSES, default="in_force")
    start, until = table.interval()
    rule = Rule(
        id=read_id(table),
        pack=pack,
        effect=cast(Effect, effect),
        place=table.place(),
        status=cast(Status, status),
        from_ms=start,
        until_ms=until,
        revives_ms=table.instant("revives"),
        when=read_conditions(table, table.raw.get("when", {}), "when"),
        any=read_conditions(table, table.raw.get("any", {}), "any"),
        unless=_groups(table),
        unknown_passes="unknown" in table.raw,
        code=table.text("code"),
        reason=table.texts("reason"),
        source=table.source(),
        clause=table.text("clause"),
        note=table.text("note"),
    )
    _check_rule(table, rule)
    return rule


def read_invariant(table: Table, pack: str) -> Invariant | None:
    """`never = { … }` or `always = { … }`, with `unless`, `from` and `until` as a rule has them."""
    table.only("id", "claim", "never", "always", "unless", "from", "until")
    kinds = [key for key in ("never", "always") if key in table.raw]
    name = read_id(table)
    start, until = table.interval()
    unless = _groups(table)
    claim = table.text("claim", required=True)
    if len(kinds) != 1:
        table.problem("an invariant has either `never` or `always`", "give exactly one of them", "never", "always")
        return None
    never = kinds == ["never"]
    scope = Rule(
        id=name,
        pack=pack,
        effect="forbid" if never else "permit",
        place=table.place(),
        from_ms=start,
        until_ms=until,
        when=read_conditions(table, table.raw[kinds[0]], kinds[0]),
        unless=unless,
    )
    return Invariant(name, claim or "", "refuse" if never else "allow", scope, table.place())


def _groups(table: Table) -> tuple[tuple[Condition, ...], ...]:
    raw = table.raw.get("unless", [])
    groups = raw if isinstance(raw, list) else [raw]
    found = []
    for group in groups:
        conditions = read_conditions(table, group, "unless")
        if group == {}:
            table.problem("an empty group in `unless` exempts everything", "name facts in it or drop it", "unless")
        found.append(conditions)
    return tuple(sorted(found, key=lambda group: [(one.fact, one.values) for one in group]))


def _check_rule(table: Table, rule: Rule) -> None:
    if "unknown" in table.raw and (rule.effect != "forbid" or table.raw["unknown"] != "pass"):
        fix = 'a forbid may say `unknown = "pass"`; nothing else is possible'
        table.problem("`unknown` is not what a rule can say here", fix, "unknown")
    if rule.revives_ms is not None and rule.status != "stayed":
        table.problem('`revives` without `status = "stayed"`', "only a stayed rule revives", "revives")
    if rule.code is not None and not _CODE.fullmatch(rule.code):
        table.problem(f"`{rule.code}` is not a code", "write it in snake_case", "code")
    if rule.effect == "permit" and (rule.code or rule.reason):
        table.problem(
            "a permit has no `code` and no `reason`", "drop them: they are shown on refusal", "code", "reason"
        )
    if max(len(rule.any), 1) * prod(map(len, rule.unless)) > MAX_TERMS:
        fix = "split the rule in two"
        table.problem(f"more than {MAX_TERMS} combinations of `any` and `unless`", fix, "unless", "any")


def read_case(table: Table) -> Case | None:
    table.only("rule", "want", "at", "facts", "owners")
    rule = table.text("rule", required=True)
    want = table.choice("want", ("allow", "refuse"))
    at = table.instant("at")
    if "at" not in table.raw:
        table.problem("`at` is missing", "give the instant of the call: `at = 2024-07-09T00:00:00Z`")
    facts, owners = _case_facts(table), _case_owners(table)
    if rule is None or want is None or at is None:
        return None
    return Case(rule=rule, want=cast(Want, want), at_ms=at, facts=facts, place=table.place(), owners=owners)


def _case_facts(table: Table) -> dict[str, str | tuple[str, ...]]:
    raw = table.raw.get("facts", {})
    if not isinstance(raw, dict):
        table.problem("`facts` is not a table", 'write `facts = { origin.territory = "CN" }`', "facts")
        return {}
    facts: dict[str, str | tuple[str, ...]] = {}
    for name, value in sorted(flatten(raw)):
        fact = fact_of(table, name)
        if fact is None:
            continue
        if fact.kind == "owned":
            table.problem(f"a case does not name `{name}`", 'give the owners: `owners = [{ name = "…", … }]`', name)
            continue
        items = value if isinstance(value, list) and fact.kind == "names" else [value]
        texts = [text for item in items if (text := as_text(table, fact, item)) is not None]
        for text in texts:
            if is_reference(text):
                table.problem(f"a case names values, not the set `{text}`", "write one of its members", text)
            else:
                check_literal(table, fact, text)
        if fact.kind == "names":
            facts[name] = tuple(sorted(set(texts)))
        elif texts:
            facts[name] = texts[0]
    return facts


def _case_owners(table: Table) -> tuple[Owner, ...] | None:
    return read_owners(table, table.raw["owners"]) if "owners" in table.raw else None
