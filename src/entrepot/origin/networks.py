"""IP networks → values, by the longest prefix. Immutable; a lookup costs one dict lookup per prefix length in use."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeAlias, TypeVar

V = TypeVar("V")
Address: TypeAlias = IPv4Address | IPv6Address


class Networks(Generic[V]):
    """A table of CIDR networks. Two equal networks: the later one counts (a world has no such pair)."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, entries: Iterable[tuple[str, V]] = ()) -> None:
        tables: dict[int, dict[int, dict[int, V]]] = {4: {}, 6: {}}
        for text, value in entries:
            net = ipaddress.ip_network(text)
            shift = net.max_prefixlen - net.prefixlen
            tables[net.version].setdefault(shift, {})[int(net.network_address) >> shift] = value
        self._v4 = tuple(sorted(tables[4].items()))
        self._v6 = tuple(sorted(tables[6].items()))

    def find(self, address: Address) -> V | None:
        """The value of the smallest network that holds the address. IPv4 and IPv4-mapped addresses are not the same."""
        number = int(address)
        for shift, table in self._v4 if address.version == 4 else self._v6:
            value = table.get(number >> shift)
            if value is not None:
                return value
        return None

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)


def networks(texts: Iterable[str]) -> Networks[bool]:
    """A set of networks: `find` is True inside, None outside."""
    return Networks((text, True) for text in texts)
