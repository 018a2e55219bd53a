"""Whose a call was: a name that was purged may be taken by another account, which is not to see who had it before."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

NO_BIRTHS: Final[Mapping[str, int]] = MappingProxyType({})


def born(births: Mapping[str, int], account: str, at_ms: int) -> int | None:
    """When the account was made whose name this is now, if it was there at that instant.

    `births` are by name in lower case. A gateway's clock may differ from that of the control plane, which tells births.
    """
    found = births.get(account.lower())
    return found if found is not None and found <= at_ms else None
