"""The provider namespace `Entrepot.Access` over HTTP: what Azure has no word for, and approvals by a second person."""

from __future__ import annotations

from starlette.routing import Route

from entrepot.management.access import batch, collections, declaring, openapi, proposals, suspension


def routes() -> list[Route]:
    return [
        *openapi.routes(),
        *proposals.routes(),
        *suspension.routes(),
        *declaring.routes(),
        *batch.routes(),
        *collections.routes(),
    ]
