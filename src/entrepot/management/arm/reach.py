"""Reads what the catalogue and the quota are made of: regions, upstreams, models, and what deployments hold."""

from __future__ import annotations

from typing import Any, Protocol

from entrepot.management.arm import quota
from entrepot.management.arm.catalogue import Catalogue, Offer, serving
from entrepot.management.arm.quota import Held, Quota
from entrepot.resources.model import UNKNOWN, Region
from entrepot.storage import EVERYTHING, Row, Tenancy


class Lists(Protocol):
    """The store, or a change, which sees its own writes."""

    async def list(self, tenancy: Tenancy, kind: str, *, under: str = "", deleted: bool = False) -> list[Row]: ...


async def catalogue(source: Lists) -> Catalogue:
    """Of the whole instance, on purpose: which models there are is told to every tenant, who serves them to none."""
    regions = {row.name: _region(row) for row in await source.list(EVERYTHING, "region")}
    upstreams = await source.list(EVERYTHING, "upstream")
    models = await source.list(EVERYTHING, "model")
    return Catalogue(
        regions,
        serving((row.name, row.body.get("properties", {})) for row in upstreams),
        {row.name: row.body.get("properties", {}) for row in models},
    )


async def held(source: Lists, subscription: Row) -> list[Held]:
    """What the subscription's deployments draw, those of soft-deleted accounts included: they keep their quota."""
    found: list[Held] = []
    for deleted in (False, True):
        accounts = await source.list(EVERYTHING, "account", under=subscription.id, deleted=deleted)
        places = {row.id.lower(): row.body["location"] for row in accounts}
        for row in await source.list(EVERYTHING, "deployment", under=subscription.id, deleted=deleted):
            key = row.id.lower()
            place = places.get(key.rpartition("/deployments/")[0])
            if place is not None:
                sku = row.body["sku"]
                model = row.body["properties"]["model"]["name"]
                found.append(Held(place, model, sku["name"], sku["capacity"], key))
    return found


def limit(subscription: Row, offer: Offer, sku: str, location: str) -> int:
    """Thousands of tokens per minute that the subscription may hold of this model there."""
    own = subscription.body.get("properties", {}).get("quotas")
    return quota.limit(offer.name, sku, location, own if isinstance(own, dict) else {}, offer.quotas)


def quotas(offers: list[Offer], location: str, subscription: Row, holding: list[Held]) -> list[Quota]:
    """One for each model and SKU that can be deployed there, whatever its version."""
    found: dict[str, Quota] = {}
    for offer in offers:
        for sku in offer.skus:
            name = quota.usage_name(offer.name, sku)
            drawn = quota.used(holding, location, offer.name, sku)
            found.setdefault(name, Quota(name, offer.name, sku, drawn, limit(subscription, offer, sku, location)))
    return [found[name] for name in sorted(found)]


def _region(row: Row) -> Region:
    properties: dict[str, Any] = row.body.get("properties", {})
    return Region(
        row.name,
        properties.get("territory", UNKNOWN),
        properties.get("operator", ""),
        tuple(properties.get("zones") or ()),
        properties.get("displayName"),
    )
