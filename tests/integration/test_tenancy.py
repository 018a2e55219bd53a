"""Two operators on one instance: every route of the application, tried by one's people against the other's resources.

The routes are taken from the running application, so that a new one is tried, or fails here until it is placed.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trustme
from starlette.applications import Starlette
from starlette.routing import Route

import planes
from planes import CLIENTS, NORTH, Plane, plane

ROOT = "/providers/Entrepot.Access"
GROUP = f"/subscriptions/{NORTH}/resourceGroups/rg"
ACCOUNT = f"{GROUP}/providers/Microsoft.CognitiveServices/accounts/fjord"
PROPOSAL = "0b5c6a52-58f5-4ab5-8a3b-2b8a8e0b9a01"
PRINCIPAL = "north-clerk"
STRANGERS = ("south-staff", "south-tenant")

# Catalogue: everybody reads it, nobody but the instance writes it.
CATALOGUE = ("regions", "providers", "models", "sites", "settings", "policyReleases")
# The names of the north's rows, and of what is the instance's alone, in each collection.
NAMES = {
    "operators": "north",
    "upstreams": "up-sweden",
    "organizations": "northwind",
    "principals": PRINCIPAL,
    "gateways": "edge-1",
    "proposals": PROPOSAL,
    "regions": "swedencentral",
    "providers": "openai",
    "models": "gpt-4o@2024-11-20",
    "sites": "10.0.0.0-8",
    "settings": "default",
    "policyReleases": "sha256:" + "0" * 64,
}
BODIES: dict[str, Any] = {
    "upstreams": {
        "properties": {
            "provider": "openai",
            "region": "swedencentral",
            "api": "openai",
            "baseUrl": "https://evil.example/v1",
            "credential": "none",
            "models": {"gpt-4o@2024-11-20": "gpt-4o"},
        }
    },
    "organizations": {
        "properties": {"legalName": "x", "operator": "north", "territory": "SE", "entityType": "enterprise"}
    },
    "operators": {"properties": {"legalName": "x", "territory": "SE"}},
    "gateways": {"properties": {"territory": "SE"}},
    "principals": {"properties": {"displayName": "x", "operator": "north"}},
    "proposals": {
        "properties": {"kind": "residency", "subject": ACCOUNT, "change": {"residency": []}, "reason": "mischief"}
    },
    "accounts": {"location": "swedencentral", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}},
    "deployments": {
        "sku": {"name": "Standard", "capacity": 1},
        "properties": {"model": {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}},
    },
    "resourceGroups": {"location": "swedencentral"},
    "subscriptions": {"properties": {"organization": "northwind", "operator": "north", "channel": "cloud"}},
    **{collection: {"properties": {}} for collection in CATALOGUE},
    "getByIds": {"ids": [CLIENTS["north-staff"], CLIENTS["north-tenant"], CLIENTS["admin"]]},
    "suspend": {"reason": "mischief"},
    "approve": {"reason": "mischief"},
    "regenerateKey": {"keyName": "Key1"},
    "setKeys": {"key1": "sha256:" + "a" * 64},
    "checkDomainAvailability": {
        "subdomainName": "free",
        "type": "Microsoft.CognitiveServices/accounts",
        "kind": "OpenAI",
    },
    "checkSkuAvailability": {"skus": ["S0"], "kind": "OpenAI", "type": "Microsoft.CognitiveServices/accounts"},
    "calculateModelCapacity": {"model": {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}},
}
SECRETS = re.compile(
    rf"northwind|up-sweden|{NORTH}|fjord|{PRINCIPAL}|edge-1|{PROPOSAL}|north-(staff|tenant|reader)|operators/north"
)


@dataclass
class World:
    served: Plane
    made: Starlette
    assignment: str
    operation: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    data = tmp_path_factory.mktemp("tenancy") / "data"
    held: list[Starlette] = []
    real = planes.app

    async def holding(control: Any, site: Any) -> Starlette:
        held.append(await real(control, site))
        return held[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planes, "app", holding)
        with plane(data) as served:
            (data / "ca").mkdir()
            trustme.CA().cert_pem.write_to_path(str(data / "ca" / "ca.pem"))
            assignment, operation = furnish(served)
            yield World(served, held[0], assignment, operation)


def furnish(served: Plane) -> tuple[str, str]:
    """One of everything that is the north's. An assignment's name, and the id of a long-running operation."""
    admin, tenant = served.of("admin"), served.of("north-tenant")
    put = {
        f"{ROOT}/principals/{PRINCIPAL}": {"properties": {"displayName": PRINCIPAL, "operator": "north"}},
        f"{ROOT}/gateways/edge-1": {"properties": {"territory": "SE"}},
        f"{ROOT}/sites/10.0.0.0-8": {"properties": {"network": "10.0.0.0/8", "territory": "SE"}},
    }
    for path, body in put.items():
        answer = admin.put(path, json=body)
        assert answer.status_code in {200, 201}, answer.text
    assert tenant.put(GROUP, json=BODIES["resourceGroups"]).status_code in {200, 201}
    made = tenant.put(ACCOUNT, json=BODIES["accounts"])
    assert made.status_code in {200, 201}, made.text
    deployed = tenant.put(f"{ACCOUNT}/deployments/gpt-4o", json=BODIES["deployments"])
    operation = deployed.headers.get("azure-asyncoperation", "").partition("/operationStatuses/")[2].partition("?")[0]
    residency = {
        "properties": {"kind": "residency", "subject": ACCOUNT, "change": {"residency": ["eu"]}, "reason": "r"}
    }
    assert tenant.put(f"{ROOT}/proposals/{PROPOSAL}", json=residency).status_code == 201
    principal = admin.get(f"{ROOT}/principals/{PRINCIPAL}").json()["properties"]["appId"]
    assignment = str(uuid.uuid4())
    role = "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7"
    answer = admin.put(
        f"/subscriptions/{NORTH}/providers/Microsoft.Authorization/roleAssignments/{assignment}",
        json={"properties": {"roleDefinitionId": role, "principalId": principal}},
    )
    assert answer.status_code == 201, answer.text
    return assignment, operation or "1-x"


def filled(route: Route, world: World) -> list[tuple[str, str]]:
    """The paths of a route that lead to the north's, each with the collection or action that decides on its body."""
    path = route.path
    values = {
        "subscription": NORTH,
        "group": "rg",
        "account": "fjord",
        "deployment": "gpt-4o",
        "location": "swedencentral",
        "operation": world.operation,
        "namespace": "Microsoft.CognitiveServices",
        "definition": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
        "id": str(uuid.UUID(int=0)),
        "tenant": world.served.tenant,
        "log": "edge-1_w0_2026-11_0",
        "first": "00000000",
    }
    if path.startswith(f"{ROOT}/") and (collection := path.split("/")[3]) in NAMES:
        values["name"] = NAMES[collection]
    elif "roleAssignments" in path:
        values["name"] = world.assignment
    else:
        values["name"] = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
    scopes = [f"subscriptions/{NORTH}", GROUP[1:], ACCOUNT[1:], f"{ROOT[1:]}/operators/north"]
    if "{scope:path}" not in path:
        scopes = [""]
    found = []
    for scope in scopes:
        text = path.replace("{scope:path}", scope)
        unknown = set(re.findall(r"{(\w+)[^}]*}", text)) - values.keys()
        assert not unknown, f"{path}: say here what {unknown} is of the north's"
        found.append(re.sub(r"{(\w+)[^}]*}", lambda match: values[match[1]], text))
    words = [part for part in path.split("/") if not part.startswith("{")]
    return [(each, words[-1] if words else "") for each in found]


def kind_of(route: Route) -> str:
    """`public`; `catalogue`; `north`: it names what is the north's; `list`: it names nothing."""
    if getattr(route, "public", False):
        return "public"
    if "roleDefinitions" in route.path or re.fullmatch(r"/providers(/{namespace}|/[\w.]+/operations)?", route.path):
        return "catalogue"
    if route.path.startswith(f"{ROOT}/") and route.path.split("/")[3] in CATALOGUE:
        return "catalogue"
    if "{scope:path}" in route.path or "{" in route.path:
        return "north"
    return "list"


def attempts(world: World) -> Iterator[tuple[str, str, str, Any]]:
    """(kind, method, path, body) of every route and method."""
    for route in world.made.routes:
        assert isinstance(route, Route)
        for method in sorted(route.methods or ()):
            for path, word in filled(route, world):
                body = BODIES.get(word) if method in {"PUT", "PATCH", "POST"} else None
                yield kind_of(route), method, path, body


def state_of(world: World) -> list[str]:
    """All that the administrator sees of the north, before and after."""
    admin = world.served.of("admin")
    told = [
        admin.get(f"{ROOT}/{collection}").text
        for collection in ("operators", "upstreams", "organizations", "principals", "gateways", "proposals")
    ]
    told += [
        admin.get(path).text for path in (GROUP, ACCOUNT, f"{ACCOUNT}/deployments/gpt-4o", f"/subscriptions/{NORTH}")
    ]
    told.append(json.dumps(admin.post(f"{ACCOUNT}/listKeys").json(), sort_keys=True))
    return told


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nothing_of_one_operators_is_there_for_another(world: World, stranger: str) -> None:
    client, before = world.served.of(stranger), state_of(world)
    counts: Counter[tuple[str, int]] = Counter()
    wrong = []
    for kind, method, path, body in attempts(world):
        if kind == "public":
            counts[kind, 0] += 1
            continue
        answer = client.request(method, path, json=body)
        counts[kind, answer.status_code] += 1
        line = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
        if answer.status_code == 405 or (method == "OPTIONS" and answer.status_code == 404):
            continue
        if kind == "north" and answer.status_code != 404:
            wrong.append(line)
        if kind == "catalogue" and method in {"PUT", "PATCH", "DELETE"} and answer.status_code not in {403, 404}:
            wrong.append(line)
        if kind == "list" and (answer.status_code not in {200, 404} or SECRETS.search(answer.text)):
            wrong.append(line)
    assert not wrong, "\n".join(wrong)
    assert state_of(world) == before
    tried = sum(number for (kind, _), number in counts.items() if kind == "north")
    refused = counts["north", 404]
    assert tried > 100
    print(f"{stranger}: {tried} reads and writes of the north's, {refused} answered 404; {dict(counts)}")


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_there_answers_like_what_is_not(world: World, stranger: str) -> None:
    """No status and no code tells a stranger whether another's resource exists."""
    client = world.served.of(stranger)
    spare = {NORTH: str(uuid.UUID(int=7)), "/fjord": "/nothing", PROPOSAL: str(uuid.UUID(int=8))}
    spare |= {f"/{name}": f"/{name}-not" for name in ("north", "up-sweden", "northwind", PRINCIPAL, "edge-1")}
    for kind, method, path, body in attempts(world):
        if kind != "north" or method == "HEAD":
            continue
        nothing = path
        for there, missing in spare.items():
            nothing = re.sub(rf"{re.escape(there)}(?=/|$)", missing, nothing)
        if nothing == path:
            continue
        one, other = client.request(method, path, json=body), client.request(method, nothing, json=body)
        told = [
            # What would be made anew lies in what is not there either: a PUT may name that instead.
            (answer.status_code, method == "PUT" or answer.json().get("error", {}).get("code"))
            for answer in (one, other)
        ]
        assert told[0] == told[1], f"{method} {path} / {nothing}"
