"""Packs as Cedar policies and their schema, so that they can be read and run without Entrepot.

Cedar skips a policy whose evaluation fails, so a request has to carry every attribute of the schema: validate it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from entrepot.policy.analysis.show import iso
from entrepot.policy.conditions import is_literal, is_reference, set_name
from entrepot.policy.derive import Facts
from entrepot.policy.facts import FACTS, Fact
from entrepot.policy.membership import listing
from entrepot.policy.model import Condition, Pack, Rule, in_effect
from entrepot.policy.ownership import THRESHOLDS, Holding, reaches
from entrepot.policy.terms import Sets
from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import country_of


class Answer(NamedTuple):
    """Two expressions: when the condition holds, and when it cannot be told."""

    yes: str
    maybe: str


def cedar(packs: Sequence[Pack]) -> str:
    """The rules that decide at some time, as one Cedar policy set; `@id` is the rule's id."""
    sets = Sets(each for pack in packs for each in pack.sets)
    rules = sorted((rule for pack in packs for rule in pack.rules), key=lambda rule: rule.id)
    return "\n".join(policy for rule in rules if (policy := _policy(rule, sets)))


def schema() -> str:
    """The request that the policies expect, as a Cedar schema."""
    attributes = ["  at: datetime"]
    for fact in FACTS.values():
        kind = "Set<String>" if fact.kind in {"names", "owned"} else "String"
        attributes.append(f"  {_attribute(fact.name)}: {kind}")
        if fact.kind == "territory":
            attributes.append(f"  {_country(fact.name)}: String")
        if fact.kind == "owned":
            attributes.append(f"  {_untold(fact.name)}: Set<String>")
    context = ",\n".join(attributes)
    applies = f"principal: Client, resource: Target, context: {{\n{context}\n}}"
    return f"entity Client;\nentity Target;\naction call appliesTo {{ {applies} }};\n"


def context(facts: Facts, owners: Holding, pools: Mapping[str, Sequence[str]], at_ms: int) -> dict[str, object]:
    """The context of a request. `pools`: each set of owners that a rule names (`@s`, `@!s`) with its members then."""
    found: dict[str, object] = {"at": {"__extn": {"fn": "datetime", "arg": iso(at_ms)}}}
    for name, value in facts.items():
        found[_attribute(name)] = value if isinstance(value, str) else sorted(value)
        if FACTS[name].kind == "territory":
            found[_country(name)] = country_of(str(value))
    for name in THRESHOLDS:
        outcomes = {pool: reaches(name, owners(pool, listing(members))) for pool, members in pools.items()}
        found[_attribute(name)] = [pool for pool, outcome in outcomes.items() if outcome]
        found[_untold(name)] = [pool for pool, outcome in outcomes.items() if outcome is None]
    return found


def _policy(rule: Rule, sets: Sets) -> str:
    interval = in_effect(rule)
    if interval is None:
        return ""
    forbids = rule.effect == "forbid"
    refusing = forbids and not rule.unknown_passes
    asked = [*_during(*interval), *(_condition(one, sets, refusing=refusing) for one in rule.when)]
    if rule.any:
        asked.append(_any(_condition(one, sets, refusing=refusing) for one in rule.any))
    excepted = [_all(_condition(one, sets, refusing=not forbids) for one in group) for group in rule.unless]
    notes = {"id": rule.id, "clause": rule.clause, "code": rule.code, "reason": rule.reason.get("en")}
    head = "".join(f"@{key}({_quoted(value)})\n" for key, value in notes.items() if value)
    body = f'{head}{rule.effect} (principal, action == Action::"call", resource)'
    body += f"\nwhen {{ {_all(asked)} }}"
    return body + (f"\nunless {{ {_any(excepted)} }}" if excepted else "") + ";\n"


def _during(start: int | None, until: int | None) -> Iterator[str]:
    if start is not None:
        yield f'context.at >= datetime("{iso(start)}")'
    if until is not None:
        yield f'context.at < datetime("{iso(until)}")'


def _condition(condition: Condition, sets: Sets, *, refusing: bool) -> str:
    fact = FACTS[condition.fact]
    answers = [_literals(fact, [value for value in condition.values if is_literal(value)])]
    answers += [_reference(fact, value, sets) for value in condition.values if is_reference(value)]
    yes, maybe = [one.yes for one in answers], [one.maybe for one in answers]
    if UNKNOWN in condition.values:
        untold = maybe if fact.kind == "owned" else [f"{_path(fact.name)} == {_quoted(UNKNOWN)}"]
        yes = [*yes, *untold]
    return _any([*yes, *maybe] if refusing else yes)


def _literals(fact: Fact, values: Sequence[str]) -> Answer:
    return _inside(fact, values) if values else Answer("false", "false")


def _reference(fact: Fact, reference: str, sets: Sets) -> Answer:
    """The answer over time: a dated set is one list in each stretch of it."""
    if fact.kind == "owned":
        untold = f"context.{_untold(fact.name)}.contains({_quoted(reference)})"
        return Answer(f"{_path(fact.name)}.contains({_quoted(reference)})", untold)
    name = set_name(reference)
    stretches = list(pairwise([None, *sorted(sets.cuts(name)), None]))
    yes, maybe = [], []
    for start, until in stretches:
        inside = _inside(fact, sorted(sets.members(name, start).values))
        if reference.startswith("@!"):
            certain = f" && !({inside.maybe})" if inside.maybe != "false" else ""
            inside = Answer(f"!({inside.yes}){certain}", inside.maybe)
        during = list(_during(start, until))
        yes.append(_all([*during, inside.yes]) if inside.yes != "false" else "false")
        maybe.append(_all([*during, inside.maybe]) if inside.maybe != "false" else "false")
    return Answer(_any(yes), _any(maybe))


def _inside(fact: Fact, values: Sequence[str]) -> Answer:
    path, listed = _path(fact.name), json.dumps(list(values), ensure_ascii=False)
    unknown = f"{path} == {_quoted(UNKNOWN)}" if fact.unknown else "false"
    if fact.kind == "names":
        if not values:
            return Answer("false", "false")
        return Answer(f"{path}.containsAny({listed})", "false")
    if not values:
        return Answer("false", unknown)
    if fact.kind != "territory":
        return Answer(f"{path} == {listed[1:-1]}" if len(values) == 1 else f"{listed}.contains({path})", unknown)
    country = f"context.{_country(fact.name)}"
    parts = sorted({country_of(value) for value in values if "-" in value} - set(values))
    yes = f"{listed}.contains({country})"
    if any("-" in value for value in values):
        yes = f"{yes} || {listed}.contains({path})"
    return Answer(yes, _any([unknown, f"{json.dumps(parts)}.contains({path})"] if parts else [unknown]))


def _path(fact: str) -> str:
    return f"context.{_attribute(fact)}"


def _attribute(fact: str) -> str:
    return fact.replace(".", "_")


def _country(fact: str) -> str:
    return f"{_attribute(fact)}_country"


def _untold(fact: str) -> str:
    return f"{_attribute(fact)}_unknown"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _all(parts: Iterator[str] | Sequence[str]) -> str:
    """`&&` binds closer than `||`."""
    return " && ".join(f"({part})" if " || " in part else part for part in parts) or "true"


def _any(parts: Iterator[str] | Sequence[str]) -> str:
    return " || ".join(part for part in parts if part != "false") or "false"
