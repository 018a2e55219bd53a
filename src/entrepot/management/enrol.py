"""How a gateway becomes known: a token that works once and for a day, then a secret of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

if TYPE_CHECKING:
    from entrepot.management.changes import Actor
    from entrepot.management.control import Control


async def make_token(control: Control, actor: Actor, gateway: str) -> tuple[str, int]:
    """The token's text, once, and when it expires. Raises Error NOT_FOUND when there is no such gateway."""
    raise NotImplementedError


def routes() -> list[Route]:
    """`POST /entrepot/enrol` and `GET /entrepot/ca.pem`; neither wants a caller."""
    return []
