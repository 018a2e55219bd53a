"""Conditions of rules and facts of cases: read from TOML, checked against the vocabulary and the named sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from entrepot.policy.facts import FACTS, Fact, domain
from entrepot.policy.fields import Table, suggest
from entrepot.policy.model import Condition, Set
from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import normalise_territory

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@:/+-]*")
REFERENCE = re.compile(r"@!?[A-Za-z0-9_][A-Za-z0-9_-]*")


def is_reference(value: str) -> bool:
    return value.startswith("@")


def is_literal(value: str) -> bool:
    return not is_reference(value) and value != UNKNOWN


def set_name(reference: str) -> str:
    """`s` of `@s` and of `@!s`."""
    return reference.removeprefix("@").removeprefix("!")


def read_conditions(table: Table, raw: object, key: str) -> tuple[Condition, ...]:
    """The conditions of a nested table: `{ target.provider = "openai", operation = ["chat"] }`."""
    if not isinstance(raw, dict):
        table.problem(f"`{key}` is not a table of facts", f'write `{key} = {{ target.provider = "…" }}`', key)
        return ()
    found = []
    for name, value in flatten(raw):
        fact = fact_of(table, name)
        if fact is not None:
            found.append(Condition(fact.name, _values(table, fact, value)))
    return tuple(sorted(found, key=lambda condition: condition.fact))


def flatten(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys as TOML nests them, joined again."""
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fact_of(table: Table, name: str) -> Fact | None:
    fact = FACTS.get(name)
    if fact is None:
        table.problem(f"unknown fact `{name}`", suggest(name, tuple(FACTS)), name, name.rpartition(".")[2])
    return fact


def _values(table: Table, fact: Fact, raw: object) -> tuple[str, ...]:
    items = raw if isinstance(raw, list) else [raw]
    if not items:
        table.problem(f"`{fact.name}` has an empty list, which nothing satisfies", "name a value or drop it", fact.name)
    texts = [text for item in items if (text := as_text(table, fact, item)) is not None]
    for text in texts:
        if not is_reference(text):
            check_literal(table, fact, text)
        elif not REFERENCE.fullmatch(text):
            table.problem(f"`{text}` is not the name of a set", "write `@name` or `@!name`", text)
    if fact.kind == "owned":
        _check_owned(table, fact, texts)
    return tuple(sorted(set(texts)))


def as_text(table: Table, fact: Fact, item: object) -> str | None:
    if isinstance(item, bool) and "true" in fact.values:
        return str(item).lower()
    if isinstance(item, str):
        return item
    table.problem(
        f"`{item}` is not a text", f'a value of `{fact.name}` stands in quotes: `"{item}"`', str(item), fact.name
    )
    return None


def check_literal(table: Table, fact: Fact, text: str) -> None:
    """Note what is wrong with a value that is no set."""
    if text == UNKNOWN:
        if not fact.unknown:
            table.problem(f"`{fact.name}` is never `unknown`", "drop it", text)
    elif fact.kind == "closed":
        if text not in fact.values:
            table.problem(f"`{text}` is no value of `{fact.name}`", suggest(text, domain(fact)), text)
    elif fact.kind == "territory":
        check_territory(table, text)
    elif fact.kind == "owned":
        table.problem(f"`{fact.name}` compares with a set, not with `{text}`", "name a set: `@name` or `@!name`", text)
    elif not NAME.fullmatch(text):
        table.problem(f"`{text}` is not a name", "use letters, digits and `._@:/+-`", text)


def check_territory(table: Table, text: str) -> None:
    code = normalise_territory(text)
    if code is None:
        fix = "use a code of ISO 3166-1 alpha-2 or 3166-2; groups such as the EU are named sets"
        table.problem(f"`{text}` is not a territory", fix, text)
    elif code != text:
        table.problem(f"`{text}` is not how the territory is written", f"write `{code}`", text)


def _check_owned(table: Table, fact: Fact, texts: list[str]) -> None:
    if sum(map(is_reference, texts)) != 1 and not set(filter(is_literal, texts)):
        fix = "name exactly one set: owners from it are counted together"
        table.problem(f"`{fact.name}` does not name one set", fix, fact.name, fact.name.rpartition(".")[2])


def check_references(table: Table, condition: Condition, sets: Mapping[str, Set]) -> None:
    """Note references to sets that do not exist or cannot be compared with the fact."""
    fact = FACTS[condition.fact]
    for reference in filter(is_reference, condition.values):
        found = sets.get(set_name(reference))
        if found is None:
            table.problem(f"unknown set `{reference}`", suggest(set_name(reference), tuple(sets)), reference)
            continue
        wanted = "territories" if fact.kind in {"territory", "owned"} else "names"
        if found.kind != wanted:
            fix = f"`{fact.name}` is compared with a set of {wanted}"
            table.problem(f"`{reference}` is a set of {found.kind}", fix, reference)
        elif fact.kind == "closed":
            _check_members(table, fact, reference, found)


def _check_members(table: Table, fact: Fact, reference: str, found: Set) -> None:
    for member in found.members:
        if member.value not in domain(fact):
            what = f"`{reference}` holds `{member.value}`, which is no value of `{fact.name}`"
            table.problem(what, suggest(member.value, domain(fact)), reference)
            return
