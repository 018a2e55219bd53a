"""Role assignments and principals over HTTP: who can give what to whom, and what nobody can take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from entrepot.management.roles import COMPLIANCE_OFFICER, CONTRIBUTOR, DEFINITIONS, OPENAI_USER, OWNER, READER
from planes import CLIENTS, NORTH, SOUTH, VERSION, Plane, plane

ROLES = "providers/Microsoft.Authorization"
PRINCIPALS = "/providers/Entrepot.Access/principals"
SUB = f"/subscriptions/{NORTH}"
OPERATOR = "/providers/Entrepot.Access/operators/north"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture
def admin(up: Plane) -> httpx.Client:
    return up.of("admin")


def give(by: httpx.Client, scope: str, role: str, to: str, name: str | None = None) -> httpx.Response:
    properties = {"roleDefinitionId": f"{scope}{DEFINITIONS}{role}", "principalId": to}
    path = f"{scope.rstrip('/')}/{ROLES}/roleAssignments/{name or uuid4()}"
    return by.put(path, json={"properties": properties})


def newcomer(up: Plane, by: str = "admin", **properties: Any) -> tuple[str, str, httpx.Client]:
    """A principal's name and id, and a client that is logged in as it."""
    name = f"p-{uuid4().hex[:8]}"
    maker = up.of(by)
    made = maker.put(f"{PRINCIPALS}/{name}", json={"properties": properties})
    assert made.status_code == 201, made.text
    told = maker.post(f"{PRINCIPALS}/{name}/newSecret").json()
    form = {"grant_type": "client_credentials", "client_id": told["appId"], "client_secret": told["secret"]}
    token = httpx.post(f"{up.url}/adfs/oauth2/token", data=form).json()["access_token"]
    client = httpx.Client(base_url=up.url, headers={"authorization": f"Bearer {token}"}, params=VERSION)
    return name, told["appId"], client


def test_definitions_by_name_and_id(admin: httpx.Client) -> None:
    path = f"{SUB}/{ROLES}/roleDefinitions"
    found = admin.get(path, params={"$filter": "roleName eq 'cognitive services openai user'"}).json()["value"]
    assert [role["name"] for role in found] == [OPENAI_USER]
    assert found[0]["properties"]["permissions"][0]["dataActions"]
    assert admin.get(f"{path}/{OPENAI_USER}").json() == found[0]
    missing = admin.get(f"{path}/{uuid4()}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "RoleDefinitionDoesNotExist")


def test_an_assignment_is_in_force_with_its_answer_and_out_of_it_with_its_end(up: Plane, admin: httpx.Client) -> None:
    _, client_id, client = newcomer(up)
    with client:
        assert client.get(SUB).status_code == 404
        made = give(admin, SUB, READER, client_id)
        assert made.status_code == 201
        assert client.get(SUB).status_code == 200
        refused = client.put(f"{SUB}/resourceGroups/g", json={"location": "swedencentral"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AuthorizationFailed")
        path = made.json()["id"]
        assert give(admin, SUB, READER, client_id, made.json()["name"]).status_code == 200
        again = give(admin, SUB, READER, client_id)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "RoleAssignmentExists")
        other = give(admin, SUB, CONTRIBUTOR, client_id, made.json()["name"])
        assert other.json()["error"]["code"] == "RoleAssignmentUpdateNotPermitted"
        assert client.get(path).json()["properties"]["principalId"] == client_id
        assert admin.delete(path).status_code == 200
        assert admin.delete(path).status_code == 204
        assert client.get(SUB).status_code == 404


def test_lists_at_below_and_for_one(up: Plane, admin: httpx.Client) -> None:
    _, client_id, client = newcomer(up)
    client.close()
    assert give(admin, SUB, READER, client_id).status_code == 201
    group = f"{SUB}/resourceGroups/listed"
    assert admin.put(group, json={"location": "swedencentral"}).status_code == 201
    assert give(admin, group, OPENAI_USER, client_id).status_code == 201

    def listed(by: httpx.Client, scope: str, condition: str = "") -> set[tuple[str, str]]:
        found = by.get(f"{scope}/{ROLES}/roleAssignments", params={"$filter": condition} if condition else None)
        assert found.status_code == 200, found.text
        return {(each["properties"]["scope"], each["properties"]["principalId"]) for each in found.json()["value"]}

    mine = {(SUB, client_id), (group, client_id)}
    assert mine <= listed(admin, "")
    assert mine <= listed(admin, SUB)
    assert {pair for pair in listed(admin, SUB, "atScope()") if pair[1] == client_id} == {(SUB, client_id)}
    assert listed(admin, SUB, f"principalId eq '{client_id}'") == mine
    assert listed(admin, "", f"assignedTo('{client_id}')") == mine
    assert listed(admin, SUB, f"atScope() and principalId eq '{client_id}'") == {(SUB, client_id)}
    # Longer ones than anybody means cost no more than reading them: looking for n² matches would take minutes here.
    for condition in ("a" * 40_000, "assignedTo(" + " " * 40_000, "atScope()" + " a" * 20_000):
        assert mine <= listed(admin, SUB, condition) or condition.startswith("atScope")
    # A tenant sees its own, and not who stands above it.
    assert all(scope.startswith(SUB) for scope, _ in listed(up.of("north-tenant"), SUB))
    assert up.of("south-tenant").get(f"{SUB}/{ROLES}/roleAssignments").status_code == 404


@pytest.mark.parametrize(
    ("by", "scope", "role", "status"),
    [
        ("north-staff", SUB, OWNER, 201),
        ("north-staff", OPERATOR, COMPLIANCE_OFFICER, 201),
        ("north-staff", "/", READER, 403),
        ("north-staff", f"/subscriptions/{SOUTH}", READER, 404),
        ("north-staff", "/providers/Entrepot.Access/operators/south", READER, 404),
        ("north-tenant", SUB, CONTRIBUTOR, 201),
        ("north-tenant", OPERATOR, READER, 404),
        ("north-tenant", "/", READER, 404),
        ("north-tenant", SUB, COMPLIANCE_OFFICER, 400),
        ("north-reader", SUB, READER, 403),
        ("one-group", f"{SUB}/resourceGroups/shared", READER, 403),
        ("admin", "/", READER, 201),
        ("admin", "/subscriptions/00000000-0000-4000-8000-0000000000aa", READER, 404),
        ("admin", f"{SUB}/resourceGroups/none", READER, 404),
    ],
)
def test_nobody_gives_more_than_they_hold(up: Plane, by: str, scope: str, role: str, status: int) -> None:
    if scope.endswith("/shared"):
        up.of("admin").put(scope, json={"location": "swedencentral"})
    _, client_id, client = newcomer(up)
    client.close()
    given = give(up.of(by), scope, role, client_id)
    # Who may read at a scope is told 403; who may not is told that there is nothing.
    assert given.status_code in ({403, 404} if status in {403, 404} else {status}), given.text


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({}, "RoleDefinitionDoesNotExist"),
        (
            {"roleDefinitionId": DEFINITIONS + str(uuid4()), "principalId": CLIENTS["person"]},
            "RoleDefinitionDoesNotExist",
        ),
        ({"roleDefinitionId": DEFINITIONS + READER}, "InvalidRequestContent"),
        ({"roleDefinitionId": DEFINITIONS + READER, "principalId": "x"}, "InvalidRoleAssignmentId"),
        ({"roleDefinitionId": DEFINITIONS + READER, "principalId": str(uuid4())}, "PrincipalNotFound"),
    ],
)
def test_assignments_that_are_wrong(admin: httpx.Client, properties: dict[str, str], code: str) -> None:
    answer = admin.put(f"{SUB}/{ROLES}/roleAssignments/{uuid4()}", json={"properties": properties})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_an_assignment_is_not_of_the_kind_of_what_it_is_at(up: Plane, admin: httpx.Client) -> None:
    """It changes nothing of it: neither is anything but grants published, nor the policy compiled anew."""
    program = up.control.program
    assert admin.put("/providers/Entrepot.Access/gateways/edge", json={"properties": {}}).status_code == 201
    kinds = ("organizations/northwind", "operators/north", "upstreams/up-sweden", "regions/japaneast", "gateways/edge")
    for each in (f"/providers/Entrepot.Access/{kind}" for kind in kinds):
        made = give(admin, each, READER, CLIENTS["north-tenant"])
        assert made.status_code == 201, made.text
        assert admin.delete(made.json()["id"]).status_code == 200
    assert up.control.program is program
    assert admin.delete("/providers/Entrepot.Access/gateways/edge").status_code == 200


def test_the_last_owner_of_the_instance_stays(up: Plane, admin: httpx.Client) -> None:
    found = admin.get(f"/{ROLES}/roleAssignments", params={"$filter": f"principalId eq '{CLIENTS['admin']}'"}).json()
    (own,) = found["value"]
    for answer in (
        admin.delete(own["id"]),
        admin.delete(f"{PRINCIPALS}/admin"),
        admin.put(f"{PRINCIPALS}/admin", json={"properties": {"state": "Disabled"}}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "LastOwner")
    name, client_id, client = newcomer(up)
    client.close()
    second = give(admin, "/", OWNER, client_id).json()["id"]
    assert admin.put(f"{PRINCIPALS}/{name}", json={"properties": {"state": "Disabled"}}).status_code == 200
    refused = admin.delete(own["id"])  # a disabled Owner is none
    assert refused.json()["error"]["code"] == "LastOwner"
    assert admin.delete(second).status_code == 200


def test_an_operator_keeps_its_own_principals_and_nobody_elses(up: Plane) -> None:
    north, south = up.of("north-staff"), up.of("south-staff")
    name, client_id, client = newcomer(up, "north-staff", operator="north")
    client.close()
    assert north.get(f"{PRINCIPALS}/{name}").json()["properties"]["operator"] == "north"
    for answer in (
        south.get(f"{PRINCIPALS}/{name}"),
        south.post(f"{PRINCIPALS}/{name}/newSecret"),
        south.delete(f"{PRINCIPALS}/{name}"),
        south.put(f"{PRINCIPALS}/{name}", json={"properties": {"state": "Disabled"}}),
        north.post(f"{PRINCIPALS}/admin/newSecret"),
        north.put(f"{PRINCIPALS}/of-the-instance", json={"properties": {}}),
        north.put(f"{PRINCIPALS}/of-the-south", json={"properties": {"operator": "south"}}),
        up.of("north-tenant").put(f"{PRINCIPALS}/of-a-tenant", json={"properties": {"operator": "north"}}),
    ):
        assert answer.status_code == 404, answer.text
    assert name not in {each["name"] for each in south.get(PRINCIPALS).json()["value"]}
    assert {each["name"] for each in north.get(PRINCIPALS).json()["value"]} >= {name}
    # Once the instance made it more than its operator is, its operator cannot become it.
    assert give(up.of("admin"), "/", READER, client_id).status_code == 201
    refused = north.post(f"{PRINCIPALS}/{name}/newSecret")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AuthorizationFailed")


def test_new_secrets_and_the_end_of_old_ones(up: Plane, admin: httpx.Client) -> None:
    name, client_id, client = newcomer(up)
    client.close()

    def works(secret: str) -> bool:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        return httpx.post(f"{up.url}/adfs/oauth2/token", data=form).status_code == 200

    first, second = (admin.post(f"{PRINCIPALS}/{name}/newSecret").json()["secret"] for _ in range(2))
    assert works(first)
    assert works(second)
    third = admin.post(f"{PRINCIPALS}/{name}/newSecret", json={"revokeOthers": True})
    assert third.headers["cache-control"] == "no-store"
    assert [works(each) for each in (first, second, third.json()["secret"])] == [False, False, True]
    shown = admin.get(f"{PRINCIPALS}/{name}")
    assert third.json()["secret"] not in shown.text
    assert shown.json()["properties"]["secretMadeAt"]
    assert admin.post(f"{PRINCIPALS}/{name}/newSecret", json={"revokeOthers": "yes"}).status_code == 400


def test_stale_writes_and_what_cannot_change(admin: httpx.Client, up: Plane) -> None:
    name, _, client = newcomer(up)
    client.close()
    path = f"{PRINCIPALS}/{name}"
    stale = admin.put(path, json={"properties": {}}, headers={"if-match": '"0000"'})
    assert (stale.status_code, stale.json()["error"]["code"]) == (412, "PreconditionFailed")
    etag = admin.get(path).headers["etag"]
    assert admin.put(path, json={"properties": {}}, headers={"if-match": etag}).status_code == 200
    for properties in ({"appId": str(uuid4())}, {"operator": "north"}):
        assert admin.put(path, json={"properties": properties}).status_code == 400
    assert admin.put(path, json={"properties": {"owner": "Li Wei"}}).status_code == 200
    kept = admin.put(path, json={"properties": {"displayName": "other"}}).json()["properties"]
    assert (kept["owner"], kept["displayName"]) == ("Li Wei", "other")
    # Whoever proposed with one principal does not approve with another by calling it somebody else's.
    assert admin.put(path, json={"properties": {"owner": " LI  wei"}}).status_code == 200
    for another in ("Li Wei Jr.", "bob"):
        refused = admin.put(path, json={"properties": {"owner": another}})
        assert (refused.status_code, refused.json()["error"]["target"]) == (400, "properties.owner")
    sent_back = admin.put(path, json={"properties": admin.get(path).json()["properties"]})
    assert sent_back.status_code == 200


def test_graph_finds_service_principals_and_shows_no_others(up: Plane, admin: httpx.Client) -> None:
    name, client_id, client = newcomer(up, operator="north")
    with client:
        condition = f"servicePrincipalNames/any(c:c eq '{client_id}')"
        for by in (admin, up.of("north-staff"), client):
            (found,) = by.get("/v1.0/servicePrincipals", params={"$filter": condition}).json()["value"]
            assert (found["id"], found["servicePrincipalNames"]) == (client_id, [client_id, name])
        assert up.of("south-staff").get("/v1.0/servicePrincipals", params={"$filter": condition}).json()["value"] == []
        by_ids = admin.post("/v1.0/directoryObjects/getByIds", json={"ids": [client_id], "types": []}).json()["value"]
        assert [each["id"] for each in by_ids] == [client_id]
        assert client.get(f"/v1.0/servicePrincipals/{CLIENTS['admin']}").status_code == 404
        assert admin.get("/v1.0/users").json()["value"] == []
