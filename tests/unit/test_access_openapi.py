"""The OpenAPI document follows from the Shapes, the tables of routes and what documents are read by."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from starlette.routing import Route

from entrepot.management import access, principals
from entrepot.management.access import openapi
from entrepot.management.access.proposal import KINDS, STATES
from entrepot.management.access.schemas import camel, of_reader
from entrepot.resources.schema import INNER, MANY, ONCE

DOCUMENT = openapi.document()


def operations() -> set[tuple[str, str]]:
    methods = {"get", "put", "patch", "post", "delete"}
    return {(key.upper(), path) for path, item in DOCUMENT["paths"].items() for key in item if key in methods}


def served(route: Route) -> bool:
    """Whether the route does more than to say that there is no such method."""
    inside = [cell.cell_contents for cell in getattr(route.endpoint, "__closure__", None) or ()]
    return "refused.<locals>.handle" not in {getattr(each, "__qualname__", "") for each in inside}


def test_every_route_is_described_and_nothing_else() -> None:
    routes = [*access.routes(), *principals.routes()]
    there = {
        (method, route.path) for route in routes if served(route) for method in route.methods or () if method != "HEAD"
    }
    assert there == operations()


def test_every_key_of_a_shape_is_described() -> None:
    for shape in (*MANY.values(), *ONCE.values(), *INNER.values()):
        for key in shape.keys.values():
            assert of_reader(key.read)
    for kind in ("operator", "region", "provider", "model", "upstream", "site", "organization"):
        told = DOCUMENT["components"]["schemas"][kind.capitalize()]["properties"]["properties"]["properties"]
        keys = {camel(name) for name in MANY[kind].keys} - {"name", *(("version",) if kind == "model" else ())}
        assert keys <= told.keys()


def test_every_path_and_kind_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "access-api.md").read_text(encoding="utf-8")
    for path in DOCUMENT["paths"]:
        last = [part for part in path.split("/") if part and not part.startswith("{")][-1]
        assert f"/{last}" in page, path
    for word in (*KINDS, *STATES.values(), "breakGlass", "kycReview", "credentialValue"):
        assert word in page


def test_every_reference_leads_somewhere() -> None:
    found: set[str] = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert found <= DOCUMENT["components"]["schemas"].keys()


def test_patterns_are_regular_expressions() -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("pattern"), str):
                re.compile(value["pattern"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"
