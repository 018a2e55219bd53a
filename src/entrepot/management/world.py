"""The world as the control plane holds it: what rows declare, as structs, and what a touched row changes of it."""

from __future__ import annotations


def ref(id: str, name: str) -> str:  # noqa: A002
    """Where a secret of a resource stands: `key1` of an account, `credential` of an upstream, `secret` of a gateway."""
    return f"{id.lower()}/{name}"
