"""The smallest value that satisfies a JSON schema, for structured output and tool arguments. Covers what SDKs send."""

from __future__ import annotations

from typing import Any

_MAX_DEPTH = 32
_EMPTY: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False, "null": None}


def instance_of(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """Honours type, enum, const, required, min bounds, anyOf, oneOf, allOf and local `$ref`; past 32 levels null."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return instance_of(_resolve(str(schema["$ref"]), root), root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return instance_of(schema[several][0], root, depth + 1)
    return _typed(schema, root, depth)


def _typed(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: instance_of(properties.get(name, {}), root, depth + 1) for name in schema.get("required") or ()}
    if kind == "array":
        return [instance_of(schema.get("items", {}), root, depth + 1) for _ in range(int(schema.get("minItems", 0)))]
    if kind == "string":
        return "a" * int(schema.get("minLength", 0))
    if kind in {"integer", "number"}:
        return schema.get("minimum", 0)
    return _EMPTY.get(str(kind))


def _resolve(ref: str, root: Any) -> Any:
    found = root
    for part in ref.removeprefix("#").strip("/").split("/"):
        if part:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
