"""JSON Schema (2020-12) of resources, read off the Shapes by which they are validated, so that it cannot go stale."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from entrepot.resources import values
from entrepot.resources.model import UNKNOWN
from entrepot.resources.reading import Reader, Shape
from entrepot.resources.territories import ALIASES, CODES

Schema: TypeAlias = dict[str, Any]

REFERENCE: Final = "#/components/schemas/"

# Any text on one line that is not blank: `values.text`.
_LINE: Final = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
_TERRITORY: Final = f"^({'|'.join(sorted({*CODES, *ALIASES}))})(-[A-Z0-9]{{1,3}})?$"
_OCTET: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PORT: Final = r"[0-9]{1,4}"
_HOST: Final = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
_INSTANT: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "description": "RFC 3339, with an offset; a date alone is 00:00 UTC of it",
}


def text(description: str = "") -> Schema:
    return {"type": "string", "pattern": _LINE} | ({"description": description} if description else {})


def one_of(*names: str) -> Schema:
    return {"type": "string", "enum": list(names)}


def components(shapes: Mapping[str, Shape]) -> dict[str, Schema]:
    """The schemas of tables inside tables, by the name of the component."""
    return {component(shape): table(shape) for shape in shapes.values()}


def component(shape: Shape) -> str:
    """`served_models` → `ServedModels`."""
    return "".join(word.capitalize() for word in shape.kind.split("_"))


def table(shape: Shape, *, without: frozenset[str] = frozenset()) -> Schema:
    """The object that a Shape reads, `without` some of its keys. Other keys are kept and mean nothing."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(shape.struct)}
    properties: dict[str, Schema] = {}
    for name, key in shape.keys.items():
        if name in without:
            continue
        schema = of_reader(key.read)
        default = defaults.get(key.field or name)
        if isinstance(default, bool | int | float | str) and "$ref" not in schema:
            schema = schema | {"default": default}
        properties[camel(name)] = schema
    required = sorted(camel(name) for name in shape.required - without)
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def camel(name: str) -> str:
    """`legal_name` → `legalName`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def of_reader(read: Reader) -> Schema:
    """Raises LookupError for a reader that no line here knows."""
    known = _PLAIN.get(read)
    if known is not None:
        return dict(known)
    maker = read.__qualname__.partition(".")[0]
    if maker not in _MADE:
        raise LookupError(f"no schema is known for the reader `{read.__qualname__}`")
    return _MADE[maker](inspect.getclosurevars(read).nonlocals)


def _form(made: Mapping[str, Any]) -> Schema:
    pattern: re.Pattern[str] = made["match"].__self__
    return {"type": "string", "pattern": f"^({pattern.pattern})$"}


def _whole(made: Mapping[str, Any]) -> Schema:
    return {"type": "integer", "minimum": made["least"], "maximum": made["most"]}


def _choice(made: Mapping[str, Any]) -> Schema:
    return one_of(*sorted(made["allowed"]))


def _named(made: Mapping[str, Any]) -> Schema:
    kind = made["kind"]
    if kind == "residency":
        return text("a territory, or a zone of a region")
    return text(f"the name of {'an' if kind[0] in 'aeiou' else 'a'} {kind}")


def _list(made: Mapping[str, Any]) -> Schema:
    return {"type": "array", "items": of_reader(made["item"])}


def _inner(made: Mapping[str, Any]) -> Schema:
    return {"$ref": REFERENCE + component(made["shape"])}


# Readers that a function of `values` or `reading` makes, by the name of that function; what it was given is in the
# closure.
_MADE: Final[Mapping[str, Callable[[Mapping[str, Any]], Schema]]] = {
    "form": _form,
    "integer": _whole,
    "one_of": _choice,
    "refer": _named,
    "array": _list,
    "table": _inner,
    "_named_until": lambda _: {"anyOf": [text(), {"$ref": REFERENCE + "Eligibility"}]},
}
_NETWORK: Final[Schema] = {
    "type": "string",
    "format": "ip-network",
    "description": "an IPv4 or IPv6 network in CIDR form, no bits set to the right of its prefix",
}
_TERRITORY_SCHEMA: Final[Schema] = {
    "type": "string",
    "pattern": _TERRITORY,
    "description": "ISO 3166-1 alpha-2, or ISO 3166-2",
}
_PLAIN: Final[Mapping[Reader, Schema]] = {
    values.text: text(),
    values.seconds: {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
    values.territory: _TERRITORY_SCHEMA,
    values.territory_or_unknown: {"anyOf": [_TERRITORY_SCHEMA, {"const": UNKNOWN}]},
    values.instant: _INSTANT,
    values.share: {"anyOf": [{"type": "number", "minimum": 0, "maximum": 100}, {"const": UNKNOWN}]},
    values.network: _NETWORK,
    values.trusted_network: _NETWORK,
    values.listener: {
        "type": "string",
        "pattern": rf"^([A-Za-z]([A-Za-z0-9.-]*[A-Za-z0-9])?|{_OCTET}(\.{_OCTET}){{3}}|\[::1?\]):{_PORT}$",
        "description": "`host:port`, or `[IPv6]:port`",
    },
    values.base_url: {
        "type": "string",
        "pattern": rf"^https?://{_HOST}(:[1-9][0-9]{{0,3}})?(/[A-Za-z0-9._~-]+)*/?$",
        "description": "`http` or `https`; no query, no user and password",
    },
    values.store_url: {
        "type": "string",
        "pattern": rf"^(rediss?://{_HOST}(:[1-9][0-9]{{0,3}})?(/[0-9]{{1,2}})?|env:[A-Za-z_][A-Za-z0-9_]*)$",
        "description": "`redis://`, `rediss://` or `unix://`; `env:NAME` or `file:PATH` is looked up by the gateway",
    },
    values.proxy_url: {
        "type": "string",
        "pattern": rf"^http://([A-Za-z0-9]+(:[A-Za-z0-9]+)?@)?{_HOST}:[1-9][0-9]{{0,3}}/?$",
        "description": "`http://[user:password@]host:port`",
    },
    values.client_key: text("`sha256:` and 64 hexadecimal digits, `env:NAME` or `file:PATH`"),
    values.credential: {
        "type": "string",
        "pattern": "^(none|env:[A-Za-z_][A-Za-z0-9_]*|file:[^\\x00-\\x1f\\x7f]+)$",
        "description": "`env:NAME`, `file:PATH` or `none`",
    },
    values.served_models: {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^({values.MODEL}@{values.VERSION})$"},
        "additionalProperties": text("what the upstream calls it"),
    },
    values.header_name: {"type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"},
    values.guid: {"type": "string", "format": "uuid"},
    values.micros: {"type": "integer", "minimum": 0},
    values.boolean: {"type": "boolean"},
}
