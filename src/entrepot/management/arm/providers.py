"""Resource providers and their operations: what clients ask for before they do anything. All are registered, always."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.management.arm import reach
from entrepot.management.arm.where import subscription_at
from entrepot.management.http import answer, control_of, paged, route
from entrepot.resources.ids import COGNITIVE

_S = "/subscriptions/{subscription}"

# What stock clients send; the server takes every version.
_VERSIONS = ("2026-03-01", "2025-09-01", "2025-06-01", "2024-10-01", "2023-05-01")
_TYPES: dict[str, tuple[str, ...]] = {
    COGNITIVE: (
        "accounts",
        "accounts/deployments",
        "deletedAccounts",
        "locations",
        "locations/models",
        "locations/operationStatuses",
        "locations/resourceGroups/deletedAccounts",
        "locations/usages",
        "modelCapacities",
        "operations",
        "skus",
    ),
    "Microsoft.Resources": ("subscriptions", "subscriptions/resourceGroups", "resources"),
    "Microsoft.Authorization": ("roleAssignments", "roleDefinitions"),
}
_LOCAL_TYPES = frozenset({"accounts", "accounts/deployments", "locations/models", "locations/usages"})

# Operation, what it is called, whether it is one of the data plane.
_OPERATIONS: tuple[tuple[str, str, str], ...] = (
    ("accounts/read", "Cognitive Services API Account", "Read API accounts."),
    ("accounts/write", "Cognitive Services API Account", "Writes API accounts."),
    ("accounts/delete", "Cognitive Services API Account", "Deletes API accounts."),
    ("accounts/listKeys/action", "Cognitive Services API Account", "List keys."),
    ("accounts/regenerateKey/action", "Cognitive Services API Account", "Regenerate a key."),
    ("accounts/models/read", "Cognitive Services API Account", "Reads available models."),
    ("accounts/skus/read", "Cognitive Services API Account", "Reads available SKUs of an account."),
    ("accounts/usages/read", "Cognitive Services API Account", "Gets the quota usage of an account."),
    ("accounts/deployments/read", "Deployment", "Reads deployments."),
    ("accounts/deployments/write", "Deployment", "Writes deployments."),
    ("accounts/deployments/delete", "Deployment", "Deletes deployments."),
    ("checkDomainAvailability/action", "Domain", "Reads whether a subdomain is available."),
    ("calculateModelCapacity/action", "Capacity", "Calculates the capacity that workloads need."),
    ("deletedAccounts/read", "Deleted accounts", "Lists soft-deleted accounts."),
    ("locations/checkSkuAvailability/action", "SKU", "Reads available SKUs of a location."),
    ("locations/models/read", "Models", "Lists the models of a location."),
    ("locations/modelCapacities/read", "Capacity", "Lists the capacity left in a location."),
    ("locations/resourceGroups/deletedAccounts/read", "Deleted account", "Gets a soft-deleted account."),
    ("locations/resourceGroups/deletedAccounts/delete", "Deleted account", "Purges a soft-deleted account."),
    ("locations/usages/read", "Usages", "Reads the quota usage of a location."),
    ("modelCapacities/read", "Capacity", "Lists the capacity left in all locations."),
    ("skus/read", "SKU", "Reads available SKUs."),
)


def routes() -> list[Route]:
    return [
        route("GET", f"{_S}/providers", list_registered),
        route("GET", f"{_S}/providers/{{namespace}}", get_registered),
        route("POST", f"{_S}/providers/{{namespace}}/register", get_registered),
        route("GET", "/providers", list_all),
        route("GET", "/providers/{namespace}", get_one),
        route("GET", f"/providers/{COGNITIVE}/operations", list_operations),
    ]


async def list_registered(request: Request) -> Response:
    where = await subscription_at(request)
    places = await _places(request)
    return paged(request, list(_TYPES), lambda name: _provider(name, places, where.subscription.id))


async def get_registered(request: Request) -> Response:
    where = await subscription_at(request)
    return answer(_provider(_namespace(request), await _places(request), where.subscription.id))


async def list_all(request: Request) -> Response:
    places = await _places(request)
    return paged(request, list(_TYPES), lambda name: _provider(name, places, ""))


async def get_one(request: Request) -> Response:
    return answer(_provider(_namespace(request), await _places(request), ""))


async def list_operations(request: Request) -> Response:
    return paged(request, _OPERATIONS, _operation)


def _operation(each: tuple[str, str, str]) -> dict[str, Any]:
    name, resource, description = each
    return {
        "name": f"{COGNITIVE}/{name}",
        "isDataAction": False,
        "origin": "user,system",
        "display": {
            "provider": "Microsoft Cognitive Services",
            "resource": resource,
            "operation": description.rstrip("."),
            "description": description,
        },
    }


def _namespace(request: Request) -> str:
    given: str = request.path_params["namespace"]
    for name in _TYPES:
        if name.lower() == given.lower():
            return name
    raise Error(
        Code.NOT_FOUND,
        f"The resource namespace '{given[:80]}' is invalid; there are {', '.join(_TYPES)}.",
        name="InvalidResourceNamespace",
    )


def _provider(name: str, places: list[str], subscription: str) -> dict[str, Any]:
    return {
        "id": f"{subscription}/providers/{name}",
        "namespace": name,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
        "resourceTypes": [
            {
                "resourceType": each,
                "locations": places if each in _LOCAL_TYPES else [],
                "apiVersions": list(_VERSIONS),
                "defaultApiVersion": _VERSIONS[0],
                "capabilities": "SupportsTags, SupportsLocation" if each == "accounts" else "None",
            }
            for each in _TYPES[name]
        ],
    }


async def _places(request: Request) -> list[str]:
    regions = (await reach.catalogue(control_of(request).store)).regions
    return [regions[name].display_name or name for name in sorted(regions)]
