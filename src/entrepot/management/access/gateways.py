"""Gateways as answered: their row, and what they last said of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entrepot.management.access.instants import iso
from entrepot.storage import Row

if TYPE_CHECKING:
    from entrepot.management.control import Control

# Written by enrolment and by shipping, never by a request.
KEPT = frozenset({"sealingKey", "enrolledAt", "version", "ledgerKeys"})
STATUS = "status"


def shown(control: Control, row: Row) -> dict[str, Any]:
    properties = dict(row.body.get("properties", {}))
    seen = control.publisher.seen(row.name)
    properties[STATUS] = {
        "enrolled": "sealingKey" in properties,
        "revision": None if seen is None or seen.revision is None else str(seen.revision),
        "ready": seen is not None and seen.ready,
        "trusted": seen is not None and seen.trust == control.publisher.trust != "",
        "lastSeenAt": None if seen is None else iso(seen.at_ms),
    }
    return properties
