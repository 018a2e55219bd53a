"""Packs as a table of rules for a spreadsheet: one line a rule, one column a fact."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from entrepot.policy.analysis.show import iso
from entrepot.policy.conditions import is_reference, set_name
from entrepot.policy.facts import FACTS
from entrepot.policy.model import Condition, Pack, Rule, conditions_of


def csv_table(packs: Sequence[Pack]) -> str:
    """CSV (RFC 4180) in order of rule ids. `when` has a column for each fact that some rule asks for."""
    rules = sorted(((rule, pack) for pack in packs for rule in pack.rules), key=lambda one: one[0].id)
    asked = {one.fact for rule, _ in rules for one in conditions_of(rule)}
    facts = [name for name in FACTS if name in asked]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["rule", "pack", "effect", "status", "from", "until", "revives", *facts, "any", "unless", *_NOTES])
    for rule, pack in rules:
        writer.writerow([_inert(cell) for cell in _row(rule, pack, facts)])
    return out.getvalue()


_NOTES = ("unknown", "code", "reason", "source", "clause")


def _row(rule: Rule, pack: Pack, facts: Sequence[str]) -> list[str]:
    when = {one.fact: _values(one) for one in rule.when}
    source = rule.source or pack.source
    return [
        rule.id,
        pack.id,
        rule.effect,
        rule.status,
        *("" if at_ms is None else iso(at_ms) for at_ms in (rule.from_ms, rule.until_ms, rule.revives_ms)),
        *(when.get(name, "") for name in facts),
        " or ".join(_condition(one) for one in rule.any),
        " or ".join("(" + " and ".join(_condition(one) for one in group) + ")" for group in rule.unless),
        "passes" if rule.unknown_passes else "",
        rule.code or "",
        rule.reason.get("en", ""),
        source.title if source else "",
        rule.clause or "",
    ]


def _condition(condition: Condition) -> str:
    return f"{condition.fact}: {_values(condition)}"


def _values(condition: Condition) -> str:
    return " | ".join(map(_value, condition.values))


def _value(value: str) -> str:
    if not is_reference(value):
        return value
    return ("outside " if value.startswith("@!") else "in ") + set_name(value)


def _inert(cell: str) -> str:
    """What a spreadsheet would run as a formula is made a text."""
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@"} else cell
