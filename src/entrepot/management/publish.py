"""The publishing side of the long poll: what each gateway runs, what it lacks, sealed for it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.routing import Route

if TYPE_CHECKING:
    from entrepot.snapshot import Revision


class Seen(msgspec.Struct, frozen=True):
    """What a gateway last said of itself: the revision that all its workers run, and whether it is ready."""

    revision: Revision | None
    ready: bool
    at_ms: int
    peer: str


class Publisher:
    def seen(self, gateway: str) -> Seen | None:
        raise NotImplementedError


def routes() -> list[Route]:
    """`GET /entrepot/snapshot`; wants no caller: a gateway shows its own secret."""
    return []
