"""Azure's management API: subscriptions, groups and `Microsoft.CognitiveServices`, as the stock clients call it."""

from __future__ import annotations

from starlette.routing import Route

from entrepot.management.arm import (
    accounts,
    deleted,
    deployments,
    groups,
    keys,
    longrunning,
    offers,
    providers,
    subscriptions,
)
from entrepot.management.http import route
from entrepot.resources.ids import COGNITIVE


def routes() -> list[Route]:
    place = f"/subscriptions/{{subscription}}/providers/{COGNITIVE}/locations/{{location}}"
    return [
        *subscriptions.routes(),
        *groups.routes(),
        *accounts.routes(),
        *keys.routes(),
        *deployments.routes(),
        *deleted.routes(),
        *offers.routes(),
        route("GET", f"{place}/operationStatuses/{{operation}}", longrunning.get_status),
        route("GET", f"{place}/operationResults/{{operation}}", longrunning.get_result),
        *providers.routes(),
    ]
