"""Which models, in which versions and SKUs, an account in a location can deploy: from what upstreams serve. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from entrepot.management.arm import quota
from entrepot.resources.candidates import candidate_regions
from entrepot.resources.documents import model_format
from entrepot.resources.model import Region, Sku

SKUS: tuple[Sku, ...] = get_args(Sku)
DEFAULT_CAPACITY = 10


class Served(msgspec.Struct, frozen=True):
    """An upstream as far as the catalogue needs it; `models` are `name@version`."""

    region: str
    provider: str
    models: tuple[str, ...]


class Offer(msgspec.Struct, frozen=True):
    """A model version that can be deployed here with these SKUs. `quotas` are the model's own defaults per SKU."""

    name: str
    version: str
    format: str
    provider: str
    skus: tuple[Sku, ...]
    default: bool
    quotas: dict[str, Any]


class Catalogue(msgspec.Struct, frozen=True):
    """`told` is what the models' own rows say, by `name@version`: `provider`, `defaultQuota`."""

    regions: dict[str, Region]
    served: tuple[Served, ...]
    told: dict[str, dict[str, Any]]

    def location(self, given: str) -> str | None:
        """The region's name for `eastus`, `East US` or its display name; None if there is none."""
        plain = _plain(given)
        for name, region in self.regions.items():
            if plain in (_plain(name), _plain(region.display_name or name)):
                return name
        return None

    def offers(self, location: str) -> list[Offer]:
        """Ordered by name and version. The newest version of a model is its default one."""
        skus: dict[tuple[str, str], dict[str, list[Sku]]] = {}
        for sku in SKUS:
            reach = candidate_regions(sku, location, self.regions)
            for upstream in self.served:
                if upstream.region not in reach:
                    continue
                for served in upstream.models:
                    name, _, version = served.partition("@")
                    by_provider = skus.setdefault((name, version), {}).setdefault(upstream.provider, [])
                    if sku not in by_provider:
                        by_provider.append(sku)
        newest = dict(sorted(skus))  # the last version of each name stays
        return [
            self._offer(name, version, by_provider, newest[name] == version)
            for (name, version), by_provider in sorted(skus.items())
        ]

    def find(self, location: str, format_: str | None, name: str, version: str | None) -> Offer | None:
        """The offer of that name and version, or of the default version; the format may be the provider's name."""
        for offer in self.offers(location):
            matches = offer.version == version if version else offer.default
            known = (offer.format.lower(), offer.provider.lower())
            if matches and offer.name == name and (format_ is None or format_.lower() in known):
                return offer
        return None

    def _offer(self, name: str, version: str, by_provider: Mapping[str, list[Sku]], default: bool) -> Offer:
        told = self.told.get(f"{name}@{version}", {})
        provider = told.get("provider") or sorted(by_provider)[0]
        here = {sku for skus in by_provider.values() for sku in skus}
        quotas = told.get("defaultQuota")
        return Offer(
            name,
            version,
            model_format(provider),
            provider,
            tuple(sku for sku in SKUS if sku in here),
            default,
            quotas if isinstance(quotas, dict) else {},
        )


def capabilities(name: str) -> dict[str, str]:
    """What a model does is told by its name alone, as in the lists of the data plane."""
    return {"embeddings": "true"} if "embed" in name else {"chatCompletion": "true", "assistants": "false"}


def render_model(offer: Offer) -> dict[str, Any]:
    """The `model` of a model list."""
    return {
        "format": offer.format,
        "name": offer.name,
        "version": offer.version,
        "isDefaultVersion": offer.default,
        "maxCapacity": max(quota.DEFAULTS.values()),
        "capabilities": capabilities(offer.name),
        "lifecycleStatus": "Preview" if "preview" in offer.version else "GenerallyAvailable",
        "deprecation": {},
        "skus": [render_sku(offer, sku) for sku in offer.skus],
    }


def render_sku(offer: Offer, sku: str) -> dict[str, Any]:
    return {
        "name": sku,
        "usageName": quota.usage_name(offer.name, sku),
        "capacity": capacity(sku),
        "rateLimits": quota.rate_limits(offer.name, 1),
    }


def capacity(sku: str) -> dict[str, Any]:
    return {
        "minimum": 1,
        "maximum": quota.DEFAULTS.get(sku, 0),
        "step": 1,
        "default": DEFAULT_CAPACITY,
    }


def serving(rows: Iterable[tuple[str, dict[str, Any]]]) -> tuple[Served, ...]:
    """From the (name, properties) of upstream rows."""
    return tuple(
        Served(str(p.get("region", "")), str(p.get("provider", "")), tuple(p.get("models") or ())) for _, p in rows
    )


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()
