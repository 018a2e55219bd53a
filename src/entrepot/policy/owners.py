"""The owners that a case of a pack declares, in the form that an organization's owners have in a world."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from entrepot.policy.conditions import check_territory
from entrepot.policy.fields import Table
from entrepot.resources.model import UNKNOWN, Owner

MICROS: Final = 1_000_000


def read_owners(table: Table, raw: object) -> tuple[Owner, ...]:
    """`[{ name = "…", territory = "CN", share = 50.1, of = "…" }]`; `share` in percent, `"unknown"` or left out."""
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        table.problem("`owners` is not a list of tables", 'write `owners = [{ name = "…", share = 50.0 }]`', "owners")
        return ()
    return tuple(_owner(table, item) for item in raw)


def _owner(table: Table, item: dict[str, object]) -> Owner:
    inner = table.inside(item)
    inner.only("name", "territory", "share", "of")
    territory = inner.text("territory") or UNKNOWN
    if territory != UNKNOWN:
        check_territory(table, territory)
    return Owner(
        name=inner.text("name", required=True) or "",
        territory=territory,
        share_micros=_share(table, item.get("share", UNKNOWN)),
        of=inner.text("of"),
    )


def _share(table: Table, raw: object) -> int | None:
    if raw == UNKNOWN:
        return None
    if isinstance(raw, int | Decimal) and not isinstance(raw, bool) and 0 <= raw <= 100:
        micros = Decimal(raw) * MICROS
        if micros == micros.to_integral_value():
            return int(micros)
    table.problem(
        f"`{raw}` is not a share", 'write percent, at most six decimals: `share = 50.1`, or `"unknown"`', "share"
    )
    return None
