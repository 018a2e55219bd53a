"""Writes small MaxMind DB files (format 2.0, 24-bit records, IPv6 tree), so that tests need no real edition."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_V4_IN_V6 = 96


def write_mmdb(path: Path, networks: Mapping[str, Mapping[str, Any]], built_s: int, kind: str = "Test-Country") -> None:
    """`networks` maps CIDR networks that do not overlap to their records."""
    nodes: list[list[int | bytes | None]] = [[None, None]]
    for text, record in networks.items():
        net = ipaddress.ip_network(text)
        width = 128 if net.version == 6 else 32
        bits = f"{int(net.network_address):0{width}b}"[: net.prefixlen]
        _insert(nodes, "0" * (_V4_IN_V6 if net.version == 4 else 0) + bits, _encode(dict(record)))
    section, offsets = b"", {}
    for node in nodes:
        for leaf in node:
            if isinstance(leaf, bytes) and leaf not in offsets:
                offsets[leaf] = len(section)
                section += leaf
    tree = b"".join(_pointer(side, len(nodes), offsets).to_bytes(3, "big") for node in nodes for side in node)
    meta = {
        "binary_format_major_version": _Short(2),
        "binary_format_minor_version": _Short(0),
        "build_epoch": _Long(built_s),
        "database_type": kind,
        "description": {},
        "ip_version": _Short(6),
        "languages": [],
        "node_count": len(nodes),
        "record_size": _Short(24),
    }
    path.write_bytes(tree + bytes(16) + section + b"\xab\xcd\xefMaxMind.com" + _encode(meta))


class _Short(int):
    """An unsigned 16-bit integer; a plain int has 32 bits."""


class _Long(int):
    """An unsigned 64-bit integer."""


def _insert(nodes: list[list[int | bytes | None]], bits: str, leaf: bytes) -> None:
    at = 0
    for bit in bits[:-1]:
        following = nodes[at][int(bit)]
        if following is None:
            nodes.append([None, None])
            following = nodes[at][int(bit)] = len(nodes) - 1
        assert isinstance(following, int)
        at = following
    nodes[at][int(bits[-1])] = leaf


def _pointer(side: int | bytes | None, count: int, offsets: Mapping[bytes, int]) -> int:
    if isinstance(side, bytes):
        return count + 16 + offsets[side]
    return count if side is None else side


def _encode(value: Any) -> bytes:
    if isinstance(value, bool):
        return _control(14, int(value))
    if isinstance(value, int):
        data = value.to_bytes((value.bit_length() + 7) // 8, "big")
        kind = 5 if isinstance(value, _Short) else 9 if isinstance(value, _Long) else 6
        return _control(kind, len(data)) + data
    if isinstance(value, str):
        return _control(2, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _control(11, len(value)) + b"".join(map(_encode, value))
    return _control(7, len(value)) + b"".join(_encode(k) + _encode(v) for k, v in value.items())


def _control(kind: int, size: int) -> bytes:
    """The control byte; kinds past 7 are extended. Sizes of 29 to 284 take a second byte."""
    small = min(size, 29)
    first = bytes([(kind << 5) | small]) if kind <= 7 else bytes([small, kind - 7])
    return first + (bytes([size - 29]) if size >= 29 else b"")
