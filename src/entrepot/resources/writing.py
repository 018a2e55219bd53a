"""World → the TOML files that declare it: the inverse of `load`. Pure; what is default is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from entrepot.resources import values
from entrepot.resources.documents import timestamp
from entrepot.resources.folder import SHIPPED
from entrepot.resources.model import Gateway, World
from entrepot.resources.reading import Reader
from entrepot.resources.schema import INNER, MANY, ONCE, Policy

_SHAPES: Final = {shape.struct: shape for shape in (*MANY.values(), *ONCE.values(), *INNER.values())}
# Tables that have tables of their own inside them, after their keys.
_BELOW: Final = {"account": ("deployment",)}


def files_of(world: World) -> dict[str, bytes]:
    """By name; packs that are not shipped are files of the names by which the world calls them."""
    packs = tuple(pack.name for pack in world.packs)
    policy = Policy(packs, world.warn_days)
    first = [
        *(_table("gateway", world.gateway) if world.gateway != Gateway() else ()),
        *(_table("policy", policy) if policy != Policy() else ()),
        *_tables("site", world.sites),
        *_tables("operator", world.operators),
        *_tables("region", world.regions),
        *_tables("provider", world.providers),
        *_tables("model", world.models),
        *_tables("upstream", world.upstreams),
    ]
    clients = [*_tables("organization", world.organizations), *_tables("subscription", world.subscriptions)]
    texts = {"world.toml": first, "organizations.toml": clients, "accounts.toml": _tables("account", world.accounts)}
    found = {name: "\n".join(lines).lstrip("\n").encode() + b"\n" for name, each in texts.items() if (lines := [*each])}
    return found | {pack.name: pack.data for pack in world.packs if not pack.name.startswith(SHIPPED)}


def _tables(kind: str, structs: Iterable[msgspec.Struct]) -> Iterator[str]:
    for each in structs:
        yield from _table(kind, each, many=True)


def _table(name: str, struct: msgspec.Struct, *, many: bool = False) -> Iterator[str]:
    below = _BELOW.get(name, ())
    yield f"\n[[{name}]]" if many else f"\n[{name}]"
    for key, value, reader in _keys(struct):
        if key not in below:
            yield f"{key} = {_written(value, reader)}"
    for key, value, _ in _keys(struct):
        if key in below:
            for each in value:
                yield from _table(f"{name}.{key}", each, many=True)


def _keys(struct: msgspec.Struct) -> Iterator[tuple[str, Any, Reader]]:
    fields = {each.name: each for each in msgspec.structs.fields(struct)}
    for key, (reader, field) in _SHAPES[type(struct)].readers.items():
        value, of = getattr(struct, field), fields[field]
        if value is not None and (of.required or value != of.default):
            yield key, value, reader


def _written(value: Any, reader: Reader | None) -> str:
    if reader is values.instant:
        return timestamp(value)
    if reader is values.share:
        return repr(value / 1_000_000)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_text(key)} = {_written(each, None)}" for key, each in value.items()) + " }"
    if isinstance(value, msgspec.Struct):
        return "{ " + ", ".join(f"{key} = {_written(each, inner)}" for key, each, inner in _keys(value)) + " }"
    return "[" + ", ".join(_written(each, None) for each in value) + "]"


def _text(value: str) -> str:
    """A basic string: JSON's, but that DEL stands in neither as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
