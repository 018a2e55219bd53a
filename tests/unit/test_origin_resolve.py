"""Sources in their order, editions and their age, and a memory that never changes an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from mmdb_file import write_mmdb

from entrepot.origin.geo import Geo
from entrepot.origin.model import NOWHERE, Origin
from entrepot.origin.resolve import Resolver, egress_networks
from entrepot.resources.model import Egress, Site
from entrepot.resources.model import Geo as Settings

DAY_MS = 86_400_000
BUILT_S = 1_760_000_000
NOW_MS = BUILT_S * 1000 + DAY_MS
FALLBACK = f"iptocc-{version('iptocc')}"

# 2001::/32 is Teredo; the 6to4 and NAT64 addresses here hold 10.0.0.1.
NOT_PUBLIC = """
0.0.0.1 10.1.1.1 100.64.0.1 127.0.0.1 169.254.1.1 172.16.0.1 192.168.1.1 192.0.2.1 198.18.0.1 198.51.100.1
203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::8.8.8.8 fe80::1 fc00::1 ff0e::1 2001:db8::1 3fff::1
2001::808:808 2002:a00:1::1 64:ff9b::10.0.0.1 64:ff9b:1::1 4000::1 8000::1
"""

Records = Mapping[str, Mapping[str, Any]]
Open = Callable[[Records], Geo]


@pytest.fixture
def open_geo(tmp_path: Path) -> Open:
    def make(records: Records) -> Geo:
        path = tmp_path / "geo.mmdb"
        write_mmdb(path, records, BUILT_S)
        return Geo.open(Settings(str(path), 35), NOW_MS)

    return make


def resolver(geo: Geo | None = None, **given: Any) -> Resolver:
    sites = [Site("10.20.0.0/16", "JP", "business"), Site("10.20.5.0/24", "unknown")]
    return Resolver(sites, geo, given.get("header", "x-forwarded-for"), given.get("trusted", ["127.0.0.1/32"]))


def country(code: str) -> dict[str, Any]:
    return {"country": {"iso_code": code}}


def test_attested_egress_comes_first(open_geo: Open) -> None:
    found = resolver(open_geo({"10.0.0.0/8": country("US"), "203.0.113.0/24": country("US")}))
    egress = egress_networks([Egress("10.20.0.0/17", "CN", "hosting"), Egress("203.0.113.0/24", "DE")])
    assert found.resolve("10.20.1.1", None, egress) == Origin("CN", "hosting", attested=True, source="egress")
    assert found.resolve("203.0.113.9", None, egress) == Origin("DE", "business", attested=True, source="egress")
    assert found.resolve("10.20.1.1", None, None) == Origin("JP", "business", source="site")


def test_an_account_without_egress_has_none() -> None:
    assert egress_networks([]) is None


def test_sites_count_before_public_data_and_the_smallest_counts() -> None:
    found = resolver(Geo())
    assert found.resolve("10.20.1.1", None, None).territory == "JP"
    assert found.resolve("10.20.5.1", None, None) == Origin(source="site")


def test_the_edition_is_named_by_type_build_time_and_hash(open_geo: Open, tmp_path: Path) -> None:
    found = resolver(open_geo({"8.8.8.0/24": country("DE")})).resolve("8.8.8.8", None, None)
    digest = hashlib.sha256((tmp_path / "geo.mmdb").read_bytes()).hexdigest()
    assert found == Origin("DE", source="mmdb", edition=f"Test-Country/{BUILT_S}/sha256:{digest}")


def test_what_the_edition_does_not_know_is_looked_up_in_the_registries(open_geo: Open) -> None:
    geo = open_geo({"8.8.8.0/24": country("DE"), "1.1.1.0/24": {"asn": 13335}})
    for address in ("1.1.1.1", "8.8.4.4"):
        found = geo_find(geo, address)
        assert (found.source, found.edition) == ("iptocc", FALLBACK)


@pytest.mark.parametrize("code", ["EU", "XX", "A1", "T1"])
def test_an_edition_that_names_no_single_territory_is_not_overruled(open_geo: Open, code: str) -> None:
    found = geo_find(open_geo({"8.8.8.0/24": country(code)}), "8.8.8.8")
    assert (found.territory, found.source) == ("unknown", "mmdb")


def geo_find(geo: Geo, address: str) -> Origin:
    return Resolver([], geo, None, []).resolve(address, None, None)


def test_without_an_edition_the_registries_answer() -> None:
    assert geo_find(Geo(), "8.8.8.8") == Origin("US", source="iptocc", edition=FALLBACK)
    assert geo_find(Geo(), "2001:4860:4860::8888").territory == "US"


def test_without_any_source_nothing_is_known() -> None:
    assert resolver(None).resolve("8.8.8.8", None, None) == NOWHERE


@pytest.mark.parametrize("territory", ["HK", "MO", "TW", "CN"])
def test_territories_are_never_rolled_into_one(open_geo: Open, territory: str) -> None:
    assert geo_find(open_geo({"8.8.8.0/24": country(territory)}), "8.8.8.8").territory == territory


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public_come_from_nowhere(open_geo: Open, address: str) -> None:
    geo = open_geo({"0.0.0.0/1": country("DE"), "128.0.0.0/1": country("DE"), "2000::/3": country("DE")})
    assert geo_find(geo, address) == NOWHERE


@pytest.mark.parametrize("address", ["::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::8.8.8.8", "8.8.8.8"])
def test_ipv4_inside_ipv6_is_looked_up_as_ipv4(open_geo: Open, address: str) -> None:
    assert geo_find(open_geo({"8.8.8.0/24": country("DE")}), address).territory == "DE"


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ({"country": {"iso_code": "JP"}, "registered_country": {"iso_code": "US"}}, "JP"),
        ({"country_code": "JP", "country": "Japan"}, "JP"),
        ({"country": "JP"}, "JP"),
        ({"registered_country": {"iso_code": "JP"}}, "JP"),
        ({"country": {"iso_code": "XX"}, "registered_country": {"iso_code": "JP"}}, "JP"),
        ({"country": {"iso_code": "uk"}}, "GB"),
    ],
)
def test_forms_of_a_country(open_geo: Open, record: dict[str, Any], want: str) -> None:
    assert geo_find(open_geo({"8.8.8.0/24": record}), "8.8.8.8").territory == want


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, "unknown"),
        ({"network_class": "mobile"}, "mobile"),
        ({"traits": {"is_tor_exit_node": True, "is_hosting_provider": True}}, "tor"),
        ({"traits": {"is_anonymous_vpn": True}}, "vpn"),
        ({"traits": {"user_type": "residential"}}, "isp"),
        ({"hosting": "true"}, "hosting"),
        ({"hosting": "false", "as_type": "isp"}, "isp"),
        ({"relay": True, "hosting": True}, "relay"),
        ({"connection_type": "Cellular"}, "mobile"),
        ({"as_type": "education"}, "unknown"),
    ],
)
def test_network_classes_of_an_edition(open_geo: Open, fields: dict[str, Any], want: str) -> None:
    assert geo_find(open_geo({"8.8.8.0/24": {**country("DE"), **fields}}), "8.8.8.8").network == want


@pytest.mark.parametrize(("days", "old"), [(35, False), (36, True), (-2, True)])
def test_an_edition_too_old_or_from_the_future_knows_nothing(tmp_path: Path, days: int, old: bool) -> None:
    path = tmp_path / "geo.mmdb"
    write_mmdb(path, {"8.8.8.0/24": country("DE")}, BUILT_S)
    geo = Geo.open(Settings(str(path), 35), BUILT_S * 1000 + days * DAY_MS)
    assert (geo_find(geo, "8.8.8.8") == NOWHERE) is old
    assert (geo_find(geo, "1.1.1.1") == NOWHERE) is old  # nor does the fallback speak for it
    assert (geo.problem is not None) is old


def test_an_edition_grows_old_while_answers_are_remembered(open_geo: Open) -> None:
    geo = open_geo({"8.8.8.0/24": country("DE")})
    found = Resolver([], geo, None, [])
    assert (found.resolve("8.8.8.8", None, None).territory, found.problem) == ("DE", None)
    found.tick(NOW_MS + DAY_MS)
    assert found.resolve("8.8.8.8", None, None).territory == "DE"
    found.tick(NOW_MS + 40 * DAY_MS)
    assert found.resolve("8.8.8.8", None, None) == NOWHERE
    assert found.problem is not None
    assert "install a newer one" in found.problem


@pytest.mark.parametrize("data", [None, b"", b"no database"])
def test_an_edition_that_cannot_be_read_knows_nothing(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "geo.mmdb"
    if data is not None:
        path.write_bytes(data)
    geo = Geo.open(Settings(str(path)), NOW_MS)
    found = Resolver([], geo, None, [])
    found.tick(NOW_MS)
    assert found.resolve("8.8.8.8", None, None) == NOWHERE
    assert found.problem is not None
    assert str(path) in found.problem


def test_two_resolvers_may_share_an_edition_that_grows_old(open_geo: Open) -> None:
    geo = open_geo({"8.8.8.0/24": country("DE")})
    first, second = Resolver([], geo, None, []), Resolver([], geo, None, [])
    assert first.resolve("8.8.8.8", None, None) == second.resolve("8.8.8.8", None, None) != NOWHERE
    for found in (first, second):
        found.tick(NOW_MS + 40 * DAY_MS)
    assert first.resolve("8.8.8.8", None, None) == second.resolve("8.8.8.8", None, None) == NOWHERE


def test_the_header_is_believed_from_proxies_only() -> None:
    found = resolver(Geo())
    assert found.resolve("127.0.0.1", "8.8.8.8", None).territory == "US"
    assert found.resolve("127.0.0.1", None, None) == NOWHERE
    assert found.resolve("10.20.1.1", "8.8.8.8", None).territory == "JP"
    assert resolver(Geo(), header=None).resolve("10.20.1.1", "8.8.8.8", None).territory == "JP"


def test_a_long_header_is_resolved_without_being_remembered() -> None:
    found = resolver(Geo())
    header = "8.8.8.8, " * 100 + "10.20.1.1"
    assert [found.resolve("127.0.0.1", header, None).territory for _ in range(2)] == ["JP", "JP"]


def test_answers_are_kept_apart_by_account() -> None:
    found = resolver(Geo())
    first, second = (egress_networks([Egress("203.0.113.0/24", code)]) for code in ("CN", "DE"))
    for _ in range(2):
        assert found.resolve("203.0.113.1", None, first).territory == "CN"
        assert found.resolve("203.0.113.1", None, second).territory == "DE"
        assert found.resolve("203.0.113.1", None, None) == NOWHERE
