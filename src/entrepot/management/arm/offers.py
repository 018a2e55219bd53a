"""What can be had where: models, SKUs, capacity that is left, usages, and whether a name is free."""

from __future__ import annotations

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.management.arm import asked, quota, reach, shapes, texts
from entrepot.management.arm.catalogue import SKUS, Catalogue, Offer, render_model
from entrepot.management.arm.fields import Fields
from entrepot.management.arm.where import Where, account_at, subscription_at
from entrepot.management.http import answer, body, paged, route
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import EVERYTHING

_S = "/subscriptions/{subscription}"
_P = f"{_S}/providers/{COGNITIVE}"
_L = f"{_P}/locations/{{location}}"
_A = f"{_S}/resourceGroups/{{group}}/providers/{COGNITIVE}/accounts/{{account}}"


def routes() -> list[Route]:
    return [
        route("GET", f"{_L}/models", location_models),
        route("GET", f"{_L}/usages", location_usages),
        route("GET", f"{_L}/modelCapacities", location_capacities),
        route("GET", f"{_P}/modelCapacities", all_capacities),
        route("GET", f"{_P}/skus", subscription_skus),
        route("POST", f"{_L}/checkSkuAvailability", check_sku),
        route("POST", f"{_P}/checkDomainAvailability", check_domain),
        route("POST", f"{_P}/calculateModelCapacity", calculate_capacity),
        route("GET", f"{_A}/models", account_models),
        route("GET", f"{_A}/skus", account_skus),
        route("GET", f"{_A}/usages", account_usages),
    ]


async def location_models(request: Request) -> Response:
    where = await subscription_at(request, f"{COGNITIVE}/locations/models/read")
    catalogue, place = await _place(request, where)
    listed = [(kind, offer) for kind in asked.KINDS for offer in catalogue.offers(place)]
    return paged(request, listed, lambda each: {"kind": each[0], "skuName": "S0", "model": render_model(each[1])})


async def account_models(request: Request) -> Response:
    where = await account_at(request, f"{texts.ACCOUNTS}/models/read")
    row = await where.account(request.path_params["group"], request.path_params["account"])
    catalogue = await reach.catalogue(where.control.store)
    return paged(request, catalogue.offers(row.body["location"]), render_model)


async def location_usages(request: Request) -> Response:
    where = await subscription_at(request, f"{COGNITIVE}/locations/usages/read")
    catalogue, place = await _place(request, where)
    holding = await reach.held(where.control.store, where.subscription)
    found = reach.quotas(catalogue.offers(place), place, where.subscription, holding)
    return paged(request, found, shapes.usage)


async def account_usages(request: Request) -> Response:
    """What this account's deployments hold of the subscription's quota."""
    where = await account_at(request, f"{texts.ACCOUNTS}/usages/read")
    row = await where.account(request.path_params["group"], request.path_params["account"])
    place, below = row.body["location"], row.id.lower() + "/"
    holding = await reach.held(where.control.store, where.subscription)
    own = [each for each in holding if each.deployment.startswith(below)]
    catalogue = await reach.catalogue(where.control.store)
    found = reach.quotas(catalogue.offers(place), place, where.subscription, own)
    return paged(request, [each for each in found if each.used], shapes.usage)


async def location_capacities(request: Request) -> Response:
    where = await subscription_at(request, f"{COGNITIVE}/locations/modelCapacities/read")
    catalogue, place = await _place(request, where)
    return await _capacities(request, where, catalogue, [place])


async def all_capacities(request: Request) -> Response:
    where = await subscription_at(request, f"{COGNITIVE}/modelCapacities/read")
    catalogue = await reach.catalogue(where.control.store)
    return await _capacities(request, where, catalogue, sorted(catalogue.regions))


async def _capacities(request: Request, where: Where, catalogue: Catalogue, places: list[str]) -> Response:
    wanted = {key.lower(): value for key, value in request.query_params.multi_items()}
    holding = await reach.held(where.control.store, where.subscription)
    found = []
    for place in places:
        for offer in catalogue.offers(place):
            if _wanted(offer, wanted):
                for sku in offer.skus:
                    left = reach.limit(where.subscription, offer, sku, place)
                    left -= quota.used(holding, place, offer.name, sku)
                    found.append(_capacity(where.subscription.id, place, offer, sku, max(left, 0)))
    return paged(request, found, lambda each: each)


def _wanted(offer: Offer, query: dict[str, str]) -> bool:
    return (
        query.get("modelformat", offer.format).lower() in (offer.format.lower(), offer.provider.lower())
        and query.get("modelname", offer.name) == offer.name
        and query.get("modelversion", offer.version) == offer.version
    )


def _capacity(subscription: str, place: str, offer: Offer, sku: str, left: int) -> dict[str, Any]:
    name = f"{offer.format}.{sku}.{offer.name}.{offer.version}"
    return {
        "id": f"{subscription}/providers/{COGNITIVE}/locations/{place}/models/{name}",
        "name": name,
        "type": f"{COGNITIVE}/locations/models",
        "location": place,
        "properties": {
            "model": {"format": offer.format, "name": offer.name, "version": offer.version},
            "skuName": sku,
            "availableCapacity": float(left),
            "availableFinetuneCapacity": 0.0,
        },
    }


async def subscription_skus(request: Request) -> Response:
    where = await subscription_at(request, f"{COGNITIVE}/skus/read")
    regions = sorted((await reach.catalogue(where.control.store)).regions)
    listed = [(kind, region) for kind in asked.KINDS for region in regions]
    return paged(
        request,
        listed,
        lambda each: {
            "resourceType": "accounts",
            "name": "S0",
            "tier": "Standard",
            "kind": each[0],
            "locations": [each[1].upper()],
            "restrictions": [],
        },
    )


async def account_skus(request: Request) -> Response:
    where = await account_at(request, f"{texts.ACCOUNTS}/skus/read")
    await where.account(request.path_params["group"], request.path_params["account"])
    one = {"resourceType": texts.ACCOUNTS, "sku": {"name": "S0", "tier": "Standard"}}
    return paged(request, [one], lambda each: each)


async def check_sku(request: Request) -> Response:
    where = await subscription_at(request, f"{COGNITIVE}/locations/checkSkuAvailability/action")
    await _place(request, where)
    given = await body(request)
    fields = Fields()
    kind = fields.text(given, "kind") or ""
    skus = given.get("skus")
    if type(skus) is not list or not all(type(each) is str for each in skus):
        fields.mistake("skus", "expected an array of names", 'write `["S0"]`')
    fields.finish()
    known = kind.lower() in {each.lower() for each in asked.KINDS}
    return answer({"value": [_availability(each, kind, known) for each in skus or []]})


def _availability(sku: str, kind: str, known: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": kind,
        "type": texts.ACCOUNTS,
        "skuName": sku,
        "skuAvailable": known and sku.upper() == "S0",
    }
    if not found["skuAvailable"]:
        found["reason"] = "InvalidSku" if known else "InvalidKind"
        found["message"] = (
            "only the SKU `S0` is sold" if known else f"write one of {', '.join(asked.KINDS)} as the kind"
        )
    return found


async def check_domain(request: Request) -> Response:
    """Instance-wide, on purpose: whether a subdomain is free is told, whose it is is not."""
    where = await subscription_at(request, f"{COGNITIVE}/checkDomainAvailability/action")
    given = await body(request)
    fields = Fields()
    name = fields.text(given, "subdomainName")
    if name is None and given.get("subdomainName") is None:
        fields.mistake("subdomainName", "it is missing", "write the account's name")
    fields.finish()
    assert name is not None
    reason = await _taken(where, name)
    return answer(
        {
            "isSubdomainAvailable": reason is None,
            "reason": reason,
            "subdomainName": name,
            "type": texts.ACCOUNTS,
            "kind": given.get("kind"),
        }
    )


async def _taken(where: Where, name: str) -> str | None:
    """Why an account cannot have that name."""
    fields = Fields()
    fields.account_name(name)
    if fields.first is not None:
        return fields.first.message
    gone = await where.control.store.list(EVERYTHING, "account", deleted=True)
    if name in where.control.snapshot.accounts or any(row.name.lower() == name for row in gone):
        return texts.domain_in_use(name).message
    return None


async def calculate_capacity(request: Request) -> Response:
    """Tokens of all workloads in a minute, in thousands; the model's ratio of requests may ask for more."""
    await subscription_at(request, f"{COGNITIVE}/calculateModelCapacity/action")
    given = await body(request)
    fields = Fields()
    model = fields.table(given, "model")
    fields.choice(given, "skuName", SKUS)
    workloads = given.get("workloads") or []
    tokens = requests = 0
    if type(workloads) is not list:
        fields.mistake("workloads", "expected an array", "write `[{…}]`")
        workloads = []
    for at, each in enumerate(workloads):
        path = f"workloads[{at}]."
        load = each if type(each) is dict else {}
        count = fields.count(load, "requestPerMinute", path) or 0
        parameters = fields.table(load, "requestParameters", path)
        size = sum(
            fields.count(parameters, key, f"{path}requestParameters.") or 0
            for key in ("avgPromptTokens", "avgGeneratedTokens")
        )
        tokens += count * size
        requests += count
    fields.finish()
    name = str(model.get("name", ""))
    by_requests = math.ceil(requests / (quota.requests_per_minute(name, 1_000) / 1_000))
    value = max(math.ceil(tokens / 1_000), by_requests)
    estimated = {"value": value, "deployableValue": value}
    return answer({"model": model, "skuName": given.get("skuName"), "estimatedCapacity": estimated})


async def _place(request: Request, where: Where) -> tuple[Catalogue, str]:
    """The catalogue, and the region that the path names."""
    catalogue = await reach.catalogue(where.control.store)
    given: str = request.path_params["location"]
    place = catalogue.location(given)
    if place is None:
        raise texts.location_unknown(given, texts.ACCOUNTS, catalogue.regions)
    return catalogue, place
