"""Address → territory and network class, by an edition of data: an operator's `.mmdb` file, or `iptocc`.

Each answer names the edition, because another edition may say something else about the same address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from ipaddress import IPv4Address
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

import iptocc
import maxminddb

from entrepot.origin.model import NOWHERE, Origin
from entrepot.origin.networks import Address, networks
from entrepot.resources.model import UNKNOWN, NetworkClass
from entrepot.resources.model import Geo as Settings
from entrepot.resources.territories import normalise_territory

_DAY_MS = 86_400_000

# Where no territory can be looked up, by the IANA special-purpose address registries (RFC 6890), and multicast.
# Of IPv6 only 2000::/3 is in public use; Teredo (2001::/32) hides its user.
_NOT_PUBLIC = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
    *("::/3", "4000::/2", "8000::/1", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32"),
    "3fff::/20",
)


class Geo:
    """The sources in their order: the configured edition, then `iptocc`.

    A configured edition that cannot be read or is too old answers `unknown` for every address: it is never replaced in
    silence by a worse source. `problem` says so in words.
    """

    def __init__(self, edition: Edition | None = None, problem: str | None = None) -> None:
        self._edition = edition
        self._not_public = networks(_NOT_PUBLIC)
        self._fallback = f"iptocc-{version('iptocc')}"
        self.problem = problem

    @classmethod
    def open(cls, settings: Settings | None, now_ms: int) -> Geo:
        """The sources as configured. Never fails: what is wrong with the file is in `problem`."""
        if settings is None:
            return cls()
        try:
            geo = cls(Edition(Path(settings.path), settings.max_age_days))
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as exc:
            return cls(problem=f"the geo edition `{settings.path}` cannot be read: {exc}")
        geo.check(now_ms)
        return geo

    def check(self, now_ms: int) -> None:
        """Judge the edition's age anew."""
        if self._edition is not None:
            self.problem = self._edition.too_old(now_ms)

    def find(self, address: Address) -> Origin:
        """What the sources say. Addresses that are not in public use are nowhere."""
        if self.problem is not None:
            return NOWHERE
        plain = _plain(address)
        if self._not_public.find(plain):
            return NOWHERE
        if self._edition is not None:
            known = self._edition.find(plain)
            if known is not None:
                return known
        territory = normalise_territory(iptocc.country_code(_text(plain)) or "")
        return Origin(territory, source="iptocc", edition=self._fallback) if territory else NOWHERE

    def close(self) -> None:
        if self._edition is not None:
            self._edition.close()


def _plain(address: Address) -> Address:
    """The IPv4 address inside a 6to4 (RFC 3056) or NAT64 (RFC 6052) address; others as they are."""
    if address.version == 4:
        return address
    number = int(address)
    if number >> 112 == 0x2002:
        return IPv4Address(number >> 80 & 0xFFFFFFFF)
    if number >> 32 == 0x0064FF9B << 64:
        return IPv4Address(number & 0xFFFFFFFF)
    return address


def _text(address: Address) -> str:
    family = AF_INET if address.version == 4 else AF_INET6
    return inet_ntop(family, address.packed)


class Edition:
    """One `.mmdb` file. `name` is its type, build time and SHA-256: `DBIP-Country-Lite/1761955200/sha256:…`."""

    def __init__(self, path: Path, max_age_days: int) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._path = path
        self._reader = maxminddb.open_database(path)
        meta = self._reader.metadata()
        self._built_ms = meta.build_epoch * 1000
        self._max_age_ms = max_age_days * _DAY_MS
        self.name = f"{meta.database_type}/{meta.build_epoch}/sha256:{digest}"

    def too_old(self, now_ms: int) -> str | None:
        """What is wrong with the edition's age. One from the future would never grow old, so it counts as wrong too."""
        age_ms = now_ms - self._built_ms
        if age_ms > self._max_age_ms:
            days, most = age_ms // _DAY_MS, self._max_age_ms // _DAY_MS
            return f"the geo edition `{self._path}` is {days} days old, more than {most}: install a newer one"
        if age_ms < -_DAY_MS:
            return f"the geo edition `{self._path}` was built in the future: correct the clock or the file"
        return None

    def find(self, address: Address) -> Origin | None:
        """None when the edition has no territory for the address."""
        try:
            record = self._reader.get(_text(address))
        except maxminddb.InvalidDatabaseError:
            return NOWHERE  # a damaged record is not "no record": the fallback must not speak for it
        except ValueError:  # an IPv6 address in an IPv4 edition
            return None
        if not isinstance(record, dict):
            return None
        territory = _territory(record)
        if territory is None:
            return None
        return Origin(territory, _network_class(record), source="mmdb", edition=self.name)

    def close(self) -> None:
        self._reader.close()


def _territory(record: Mapping[str, Any]) -> str | None:
    """The first territory of `country.iso_code`, `country_code` or `country` as text, `registered_country.iso_code`.

    `unknown` when they name none (`EU`, `A1`): that is an answer, which no other source overrules. None without any.
    """
    country, registered = record.get("country"), record.get("registered_country")
    codes = (
        country.get("iso_code") if isinstance(country, dict) else None,
        record.get("country_code"),
        country,
        registered.get("iso_code") if isinstance(registered, dict) else None,
    )
    found = [code for code in codes if isinstance(code, str) and len(code) == 2]
    territories = (normalise_territory(code) for code in found)
    return next((known for known in territories if known), UNKNOWN if found else None)


# The first that is set counts: what hides the user before what merely carries it.
_FLAGS: tuple[tuple[str, NetworkClass], ...] = (
    ("is_tor_exit_node", "tor"),
    ("tor", "tor"),
    ("is_anonymous_vpn", "vpn"),
    ("vpn", "vpn"),
    ("is_public_proxy", "vpn"),
    ("is_residential_proxy", "vpn"),
    ("proxy", "vpn"),
    ("relay", "relay"),
    ("is_hosting_provider", "hosting"),
    ("hosting", "hosting"),
    ("mobile", "mobile"),
)
_TYPES: Mapping[str, NetworkClass] = {
    "hosting": "hosting",
    "content_delivery_network": "hosting",
    "cellular": "mobile",
    "mobile": "mobile",
    "business": "business",
    "isp": "isp",
    "residential": "isp",
    "consumer_privacy_network": "relay",
    "vpn": "vpn",
    "tor": "tor",
    "relay": "relay",
}


def _network_class(record: Mapping[str, Any]) -> NetworkClass:
    """From an edition's own class, its flags, or its type of user; `unknown` when it has none of them."""
    traits = record.get("traits")
    fields: Mapping[str, Any] = {**record, **traits} if isinstance(traits, dict) else record
    for flag, found in _FLAGS:
        if fields.get(flag) in (True, "true"):
            return found
    for key in ("network_class", "user_type", "as_type", "connection_type"):
        kind = fields.get(key)
        if isinstance(kind, str) and kind.lower() in _TYPES:
            return _TYPES[kind.lower()]
    return "unknown"
