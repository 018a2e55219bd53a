"""Which regions a deployment's SKU lets a call go to. Policy and health choose among them later."""

from __future__ import annotations

from collections.abc import Mapping

from entrepot.resources.model import Region, Sku


def candidate_regions(sku: Sku, location: str, regions: Mapping[str, Region]) -> frozenset[str]:
    """Names of the candidate regions of an account in the region `location`.

    `Standard` is that region alone, `DataZoneStandard` every region that shares a zone with it (itself included, if it
    has a zone), `GlobalStandard` all.
    """
    if sku == "GlobalStandard":
        return frozenset(regions)
    here = regions.get(location)
    if here is None:
        return frozenset()
    if sku == "Standard":
        return frozenset((location,))
    zones = set(here.zones)
    return frozenset(name for name, region in regions.items() if not zones.isdisjoint(region.zones))
