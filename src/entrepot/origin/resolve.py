"""Peer, believed header and account → Origin, in the order: attested egress, site, `.mmdb` edition, `iptocc`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from entrepot.origin.address import client_address
from entrepot.origin.geo import Geo
from entrepot.origin.model import NOWHERE, Origin
from entrepot.origin.networks import Networks, networks
from entrepot.resources.model import Egress, Site

__all__ = ["Egresses", "Origin", "Resolver", "egress_networks"]

_CACHED_HEADER = 256  # characters; longer ones are resolved each time, so that the cache has a bound in bytes
_CACHED_CALLS = 16_384


Egresses: TypeAlias = Networks[Origin]


def egress_networks(egress: Iterable[Egress]) -> Egresses | None:
    """An account's attested networks for `Resolver.resolve`; None when it has none. Made once for an account."""
    entries = [(e.network, Origin(e.territory, e.network_class, attested=True, source="egress")) for e in egress]
    return Networks(entries) if entries else None


class Resolver:
    """Resolves origins for one gateway configuration. Answers are kept for the latest 16,384 distinct questions.

    For one event loop. `tick` makes an edition's age count; without it an edition never grows old.
    """

    def __init__(
        self, sites: Iterable[Site], geo: Geo | None, header_name: str | None, trusted_proxies: Iterable[str]
    ) -> None:
        self._sources = _Sources(sites, geo, header_name, trusted_proxies)
        self._geo = geo
        self._usable = geo is None or geo.problem is None
        self._known = lru_cache(_CACHED_CALLS)(self._sources.find)
        self._addresses = lru_cache(_CACHED_CALLS)(self._sources.address)

    def resolve(self, peer: str, header: str | None, egress: Egresses | None) -> Origin:
        """The origin of a call from `peer` whose believed header is `header`, on an account with these networks."""
        if header is not None and len(header) > _CACHED_HEADER:
            return self._sources.find(peer, header, egress)
        return self._known(peer, header, egress)

    def address(self, peer: str, header: str | None) -> str:
        """The client's address as text, `unknown` where it cannot be told. For records; decisions rest on `resolve`."""
        if header is not None and len(header) > _CACHED_HEADER:
            return self._sources.address(peer, header)
        return self._addresses(peer, header)

    def tick(self, now_ms: int) -> None:
        """Judge the age of the edition; answers are forgotten when that changes them. Call it every minute or so."""
        if self._geo is None:
            return
        self._geo.check(now_ms)
        if self._usable is not (self._geo.problem is None):
            self._usable = not self._usable
            self._known.cache_clear()

    @property
    def problem(self) -> str | None:
        """What keeps territories `unknown`, in words, for readiness details."""
        return None if self._geo is None else self._geo.problem


class _Sources:
    """What answers rest on. Apart from the resolver, whose memories refer here: a cycle would never be freed."""

    def __init__(
        self, sites: Iterable[Site], geo: Geo | None, header_name: str | None, trusted_proxies: Iterable[str]
    ) -> None:
        self._sites = Networks((s.network, Origin(s.territory, s.network_class, source="site")) for s in sites)
        self._geo = geo
        self._name = header_name
        self._trusted = networks(trusted_proxies)

    def address(self, peer: str, header: str | None) -> str:
        address = client_address(peer, header, self._trusted, self._name)
        return "unknown" if address is None else str(address)

    def find(self, peer: str, header: str | None, egress: Egresses | None) -> Origin:
        address = client_address(peer, header, self._trusted, self._name)
        if address is None:
            return NOWHERE
        if egress is not None and (attested := egress.find(address)) is not None:
            return attested
        site = self._sites.find(address)
        if site is not None:
            return site
        return NOWHERE if self._geo is None else self._geo.find(address)
