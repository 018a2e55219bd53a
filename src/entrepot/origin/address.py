"""Whose address a call comes from: the socket's peer, or what trusted proxies say in one configured header.

Anything but a clear answer is None, which the policy sees as `unknown`. Nothing that a client writes moves the answer
to an address of its choice: hops are believed from the right, and only as far as trusted proxies wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_pton

from entrepot.origin.networks import Address, Networks

# A pair of RFC 7239 §4: token "=" ( token / quoted-string ), then ";" (same element), "," (next element) or the end.
_MAX_FORWARDED = 4_096
_PAIR = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|"((?:[^"\\]|\\.)*)")[ \t]*(;|,|\Z)"""
)


def client_address(peer: str, header: str | None, trusted: Networks[bool], name: str | None) -> Address | None:
    """The client's address, or None when it is unknown. IPv4-mapped addresses come out as IPv4.

    `header` is the value of the one believed header `name` (lower case; repeated lines joined with commas, in order).
    It counts only when `peer` is trusted: `x-forwarded-for` and `forwarded` (RFC 7239) are walked from the right over
    trusted proxies; any other name must hold a single address. Malformed, empty, or all hops trusted: None.
    """
    direct = parse_address(peer)
    if direct is None or name is None or not trusted.find(direct):
        return direct
    if not header:
        return None
    if name == "x-forwarded-for":
        hops = _listed(header)
    elif name == "forwarded":
        hops = reversed(_forwarded(header))
    else:
        return parse_address(header.strip(" \t"))
    for hop in hops:
        if hop is None or not trusted.find(hop):
            return hop
    return None


def _listed(header: str) -> Iterator[Address | None]:
    """The hops of a list from the right, one by one: what lies behind the first untrusted hop costs nothing."""
    comma = ","
    while comma:
        header, comma, hop = header.rpartition(",")
        yield parse_hop(hop.strip(" \t"))


def parse_address(text: str) -> Address | None:
    """An IP literal without port or zone id (`fe80::1%eth0` is refused); an IPv4-mapped one as IPv4.

    inet_pton is as strict as `ipaddress` (no leading zeros, no white space) at a quarter of the time.
    """
    try:
        if ":" not in text:
            return IPv4Address(int.from_bytes(inet_pton(AF_INET, text), "big"))
        number = int.from_bytes(inet_pton(AF_INET6, text), "big")
    except (OSError, ValueError):
        return None
    return IPv4Address(number & 0xFFFFFFFF) if number >> 32 == 0xFFFF else IPv6Address(number)


def parse_hop(text: str) -> Address | None:
    """An IP literal, also as `192.0.2.1:80`, `[2001:db8::1]` or `[2001:db8::1]:80`. An IPv6 address with a port and
    without brackets cannot be told from a longer address and is taken as an address."""
    if text.startswith("["):
        inner, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in inner or (port and not _is_port(port[1:] if port[0] == ":" else "")):
            return None
        return parse_address(inner)
    host, colon, port = text.partition(":")
    if colon and ":" not in port:
        return parse_address(host) if _is_port(port) else None
    return parse_address(text)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65_535


def _forwarded(header: str) -> list[Address | None]:
    """The `for` of each element, None where it is missing, obfuscated (`_hidden`, `unknown`) or malformed.

    A header that is malformed anywhere, or long beyond use, is one unknown hop: it must be read from the left, and a
    client's unclosed quote could swallow what proxies add.
    """
    if len(header) > _MAX_FORWARDED:
        return [None]
    hops: list[Address | None] = []
    element: dict[str, str] = {}
    at = 0
    while True:
        pair = _PAIR.match(header, at)
        if pair is None or pair[1].lower() in element:
            return [None]
        value = pair[2] if pair[3] is None else re.sub(r"\\(.)", r"\1", pair[3])
        element[pair[1].lower()] = value
        at = pair.end()
        if pair[4] != ";":
            hops.append(_node(element.get("for", "")))
            element = {}
        if not pair[4]:
            return hops


def _node(text: str) -> Address | None:
    """RFC 7239 §6: IPv6 stands in brackets; the port may be obfuscated (`_` and a name)."""
    host, colon, port = text.rpartition(":")
    if colon and re.fullmatch(r"_[A-Za-z0-9._-]+", port):
        text = host
    return parse_hop(text) if text.startswith("[") or text.count(":") <= 1 else None
