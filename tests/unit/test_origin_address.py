"""Nothing that a client writes chooses its own address, and parsing agrees with the standard library."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrepot.origin.address import client_address, parse_address, parse_hop
from entrepot.origin.networks import Networks, networks

TRUSTED = networks(["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"])
PROXIES = st.lists(st.sampled_from(["10.0.0.1", "10.255.0.1", "fd00::5"]), max_size=3)
CLIENTS = st.ip_addresses().filter(lambda a: not TRUSTED.find(a) and getattr(a, "ipv4_mapped", None) is None)
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80)
PLAUSIBLE = st.lists(
    st.sampled_from(["8.8.8.8", "10.0.0.1", "::1", ",", ", ", ";", '"', "\\", "for=", "=", "[", "]", ":80", " ", "x"]),
    max_size=12,
).map("".join)


@given(HEADER_TEXT | PLAUSIBLE, CLIENTS, PROXIES)
def test_x_forwarded_for_gives_the_address_that_the_first_proxy_saw(
    written: str, client: ipaddress.IPv4Address, proxies: list[str]
) -> None:
    for header in (", ".join([written, str(client), *proxies]), ",".join([written, str(client), *proxies])):
        assert client_address("127.0.0.1", header, TRUSTED, "x-forwarded-for") == client


def element(address: str, quoted: bool) -> str:
    if ":" in address:
        return f'for="[{address}]:4711"'
    return f'for="{address}"' if quoted else f"for={address}"


@given(HEADER_TEXT | PLAUSIBLE, CLIENTS, PROXIES, st.booleans())
@example('for=8.8.8.8;x="', ipaddress.ip_address("1.1.1.1"), [], False)
@example('for=8.8.8.8;x="', ipaddress.ip_address("1.1.1.1"), [], True)
@example('for=8.8.8.8;x="\\', ipaddress.ip_address("1.1.1.1"), ["10.0.0.1"], True)
def test_forwarded_gives_that_address_or_none(
    written: str, client: ipaddress.IPv4Address, proxies: list[str], quoted: bool
) -> None:
    header = ", ".join([written, *(element(str(hop), quoted) for hop in (client, *proxies))])
    assert client_address("127.0.0.1", header, TRUSTED, "forwarded") in (client, None)


@given(HEADER_TEXT | PLAUSIBLE, CLIENTS, st.sampled_from(["x-forwarded-for", "forwarded", "cf-connecting-ip"]))
def test_a_stranger_is_never_believed(written: str, peer: ipaddress.IPv4Address, name: str) -> None:
    assert client_address(str(peer), written, TRUSTED, name) == peer


@given(HEADER_TEXT, CLIENTS)
def test_a_second_line_of_a_single_address_header_is_refused(written: str, client: ipaddress.IPv4Address) -> None:
    assert client_address("127.0.0.1", f"{written}, {client}", TRUSTED, "cf-connecting-ip") is None


@given(st.ip_addresses())
def test_every_address_is_read_as_the_standard_library_does(address: ipaddress.IPv4Address) -> None:
    assert parse_address(str(address)) == (getattr(address, "ipv4_mapped", None) or address)


@given(st.text(alphabet="0123456789abcdef.:%[] ", max_size=20))
def test_no_more_is_read_than_the_standard_library_does(text: str) -> None:
    if (found := parse_address(text)) is not None:
        known = ipaddress.ip_address(text)
        assert found == (getattr(known, "ipv4_mapped", None) or known)


@pytest.mark.parametrize("text", ["", " ", "1.2.3.4 ", "1.2.3.4\0", "\ud800", "\uff11.2.3.4", "0x1.2.3.4", "::1/128"])
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None
    assert parse_hop(text) is None


def test_a_long_header_costs_no_more_than_its_last_hops() -> None:
    header = "8.8.8.8, " * 3_000 + "198.51.100.9"
    assert str(client_address("127.0.0.1", header, TRUSTED, "x-forwarded-for")) == "198.51.100.9"
    assert client_address("127.0.0.1", "for=8.8.8.8, " * 3_000 + "for=198.51.100.9", TRUSTED, "forwarded") is None


NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False))


@given(st.lists(NETWORKS, max_size=8, unique=True), st.ip_addresses(), st.data())
def test_the_smallest_network_counts(
    nets: list[ipaddress.IPv4Network], other: ipaddress.IPv4Address, data: st.DataObject
) -> None:
    address = data.draw(st.sampled_from([other, *(net.network_address for net in nets)]))
    table = Networks((str(net), net) for net in nets)
    holding = [net for net in nets if net.version == address.version and address in net]
    assert table.find(address) == max(holding, key=lambda net: net.prefixlen, default=None)
    assert bool(table) == bool(nets)
