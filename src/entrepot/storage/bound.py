"""Binds statements to a tenancy, or marks them as instance-wide with a reason.

The marks are execution options, so that a test can look at every statement that reaches the database.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Table, and_, bindparam, func, or_, select, tuple_
from sqlalchemy.sql import Executable

from entrepot.storage.rows import Tenancy
from entrepot.storage.tables import resources

# Execution options: the Tenancy that a statement is bound to, or why it is not bound.
TENANCY = "entrepot_tenancy"
INSTANCE_WIDE = "entrepot_instance_wide"
OPERATORS, SUBSCRIPTIONS = "tenancy_operators", "tenancy_subscriptions"

Statement = TypeVar("Statement", bound=Executable)


def bound(statement: Select[Any], table: Table, tenancy: Tenancy) -> Select[Any]:
    """`statement` over `table`, restricted to what is visible."""
    if not tenancy.everything:
        statement = statement.where(visible(table, tenancy))
    return statement.execution_options(**{TENANCY: tenancy})


def visible(table: Table, tenancy: Tenancy) -> ColumnElement[bool]:
    """Of resources what the tenancy says; of what names an account that of the accounts it may see, deleted or not.

    INVARIANT: what an account did that had the name before, and was purged, is nobody's but the instance's.
    """
    if table is not resources:
        accounts = select(resources.c.claim, resources.c.created_ms)
        accounts = accounts.where(resources.c.claim.is_not(None), visible(resources, tenancy))
        return tuple_(func.lower(table.c.account), table.c.born_ms).in_(accounts)
    operator, subscription = table.c.operator, table.c.subscription
    return or_(
        and_(operator.is_(None), subscription.is_(None)),
        operator.in_(bindparam(OPERATORS, sorted(tenancy.operators), expanding=True)),
        subscription.in_(bindparam(SUBSCRIPTIONS, sorted(tenancy.subscriptions), expanding=True)),
    )


def instance_wide(statement: Statement, reason: str) -> Statement:
    marked: Statement = statement.execution_options(**{INSTANCE_WIDE: reason})
    return marked
