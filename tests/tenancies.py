"""Watches the statements that reach databases: each one on tenants' rows is bound to a tenancy, or says why not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Select, event
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BooleanClauseList, Grouping

from entrepot.storage import Tenancy
from entrepot.storage.bound import INSTANCE_WIDE, OPERATORS, SUBSCRIPTIONS, TENANCY, visible
from entrepot.storage.tables import TENANTS

_NAMES = re.compile(rf"\b({'|'.join(sorted(TENANTS))})\b")
_STRUCTURE = ("CREATE ", "ALTER ", "DROP ", "PRAGMA ")


@dataclass
class Watch:
    """What was seen on tenants' tables: how many bound statements, why others are not, and those without a word."""

    bound: int = 0
    reasons: set[str] = field(default_factory=set)
    unbound: list[str] = field(default_factory=list)

    def see(self, _connection: Any, _cursor: Any, sql: str, _parameters: Any, context: Any, _many: Any) -> None:
        if not _NAMES.search(sql) or sql.lstrip().upper().startswith(_STRUCTURE):
            return
        options = context.execution_options
        tenancy, reason = options.get(TENANCY), options.get(INSTANCE_WIDE)
        if reason:
            self.reasons.add(reason)
        elif tenancy is not None and (tenancy.everything or _is_bound(context, tenancy)):
            self.bound += 1
        else:
            self.unbound.append(sql)


@contextmanager
def watched(engine: type[Engine] | Engine = Engine) -> Iterator[Watch]:
    """While it lasts, look at the statements of an engine (`store.engine.sync_engine`), by default of all.

    At its end, fails with the statements that were not bound.
    """
    watch = Watch()
    event.listen(engine, "before_cursor_execute", watch.see)
    try:
        yield watch
    finally:
        event.remove(engine, "before_cursor_execute", watch.see)
    assert not watch.unbound, "not bound to a tenancy: " + "\n".join(watch.unbound)


def _is_bound(context: Any, tenancy: Tenancy) -> bool:
    """Whether each SELECT over tenants' tables has the tenancy as a condition that nothing gets round."""
    statement = getattr(context.compiled, "statement", None)
    if not isinstance(statement, Select):
        return False
    # The statement is the one that was compiled first, for whomever; what is sent now are the parameters.
    (sent,) = context.compiled_parameters
    if (_sent(sent, OPERATORS), _sent(sent, SUBSCRIPTIONS)) != (tenancy.operators, tenancy.subscriptions):
        return False
    selects = [one for one in visitors.iterate(statement) if isinstance(one, Select)]
    return all(
        _has_condition(one, table, tenancy)
        for one in selects
        for origin in one.get_final_froms()
        for table in visitors.iterate(origin)
        if getattr(table, "name", None) in TENANTS
    )


def _sent(parameters: dict[str, Any], name: str) -> frozenset[str]:
    """The values of a list, each a parameter of its own: `name_1` and so on."""
    return frozenset(value for key, value in parameters.items() if key.rpartition("_")[0] == name)


def _has_condition(select: Select[Any], table: Any, tenancy: Tenancy) -> bool:
    where = select.whereclause
    is_and = isinstance(where, BooleanClauseList) and where.operator is operators.and_
    given = list(where.clauses) if is_and else [where] if where is not None else []
    conditions = [one.element if isinstance(one, Grouping) else one for one in given]
    return any(one.compare(visible(table, tenancy), compare_values=False) for one in conditions)
