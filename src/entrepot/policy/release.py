"""The identity of a release: the hash of the canonical form of its packs, whatever the order of files and rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from entrepot.policy.model import Pack


def canonical(packs: Sequence[Pack]) -> bytes:
    """Canonical JSON (RFC 8785: sorted keys, no white space; there are no floats) of all that the packs say.

    Cases are part of it, places are not.
    """
    plain = [_pack(pack) for pack in sorted(packs, key=lambda pack: pack.id)]
    return json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def release_of(packs: Sequence[Pack]) -> str:
    """`sha256:` and the hash of the canonical form in hexadecimal."""
    return "sha256:" + hashlib.sha256(canonical(packs)).hexdigest()


def _pack(pack: Pack) -> dict[str, Any]:
    plain: dict[str, Any] = _without_places(msgspec.to_builtins(pack))
    plain["sets"] = sorted(plain["sets"], key=lambda each: str(each["name"]))
    plain["rules"] = sorted(plain["rules"], key=lambda each: str(each["id"]))
    plain["cases"] = sorted(plain["cases"], key=lambda each: json.dumps(each, sort_keys=True))
    return plain


def _without_places(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _without_places(value) for key, value in item.items() if key != "place" and value is not None}
    if isinstance(item, list | tuple):
        return [_without_places(value) for value in item]
    return item
