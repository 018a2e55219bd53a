"""Azure's management API over a real socket: subscriptions, groups, accounts, keys, soft deletion."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from entrepot.management.arm.deleted import RETENTION_MS, purge_due
from planes import NORTH, SOUTH, VERSION, Plane, plane

S = f"/subscriptions/{NORTH}"
COGNITIVE = "providers/Microsoft.CognitiveServices"
BODY: dict[str, Any] = {"location": "swedencentral", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture
def tenant(up: Plane) -> httpx.Client:
    return up.of("north-tenant")


@pytest.fixture
def group(tenant: httpx.Client) -> str:
    path = f"{S}/resourceGroups/g-{uuid4().hex[:8]}"
    assert tenant.put(path, json={"location": "swedencentral"}).status_code == 201
    return path


def fresh() -> str:
    return f"acc-{uuid4().hex[:8]}"


def create(client: httpx.Client, group: str, name: str, **more: Any) -> dict[str, Any]:
    answer = client.put(f"{group}/{COGNITIVE}/accounts/{name}", json={**BODY, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_subscriptions_are_those_in_which_one_has_a_role(up: Plane) -> None:
    def seen(name: str) -> list[str]:
        return [each["subscriptionId"] for each in up.of(name).get("/subscriptions").json()["value"]]

    assert seen("north-tenant") == seen("north-reader") == seen("one-group") == seen("north-staff") == [NORTH]
    assert len(seen("admin")) == 3
    assert len(seen("south-staff")) == 2
    one = up.of("one-group").get(S).json()
    assert (one["tenantId"], one["state"]) == (up.tenant, "Enabled")
    assert code(up.of("south-tenant").get(S)) == (404, "SubscriptionNotFound")
    assert code(up.of("admin").get("/subscriptions/nonsense")) == (400, "InvalidSubscriptionId")
    places = up.of("one-group").get(f"{S}/locations").json()["value"]
    assert [each["name"] for each in places] == ["francecentral", "japaneast", "swedencentral"]


def test_a_subscription_is_written_by_the_operators_staff_only(up: Plane) -> None:
    path = f"/subscriptions/{uuid4()}"
    contract = {"organization": "northwind", "operator": "north", "channel": "direct", "displayName": "New"}
    assert code(up.of("north-tenant").put(path, json={"properties": contract}))[0] in (403, 404)
    assert code(up.of("south-staff").put(path, json={"properties": contract}))[0] in (403, 404)
    assert up.of("north-staff").put(path, json={"properties": contract}).status_code == 201
    # The tenant's own Owner, who sees it, cannot give itself to another organization or channel.
    assert code(up.of("north-tenant").put(S, json={"properties": {"channel": "direct"}}))[0] == 403
    takeover = {"operator": "south", "organization": "southwind", "channel": "cloud"}
    assert code(up.of("south-staff").put(S, json={"properties": takeover})) == (404, "SubscriptionNotFound")
    # Whoever may write both: what is in it would stay the first operator's to see and to manage.
    assert code(up.of("admin").put(S, json={"properties": takeover})) == (409, "Conflict")
    # Nor can an operator take a contract over, or serve another's organization.
    assert code(up.of("north-staff").put(path, json={"properties": {"operator": "south"}}))[0] in (403, 404)
    stolen = {**contract, "organization": "southwind"}
    assert code(up.of("north-staff").put(path, json={"properties": stolen})) == (400, "OrganizationNotFound")
    assert code(up.of("north-staff").put(path, json={"properties": {"channel": "none"}})) == (
        400,
        "InvalidRequestContent",
    )
    disabled = up.of("north-staff").put(path, json={"state": "Disabled"})
    assert (disabled.status_code, disabled.json()["state"]) == (200, "Disabled")
    staff = up.of("north-staff")
    place = {"location": "swedencentral"}
    assert code(staff.put(f"{path}/resourcegroups/g", json=place)) == (409, "ReadOnlyDisabledSubscription")
    assert staff.put(path, json={"state": "Enabled"}).json()["state"] == "Enabled"
    assert staff.put(f"{path}/resourcegroups/g", json=place).status_code == 201
    assert code(up.of("north-tenant").delete(S)) == (403, "AuthorizationFailed")
    assert code(up.of("south-staff").delete(path)) == (404, "SubscriptionNotFound")
    assert code(staff.delete(path)) == (409, "ResourceInUse")
    assert staff.delete(f"{path}/resourcegroups/g").status_code == 202
    assert staff.delete(path).status_code == 200
    assert code(staff.get(path)) == (404, "SubscriptionNotFound")


def test_groups(tenant: httpx.Client, up: Plane) -> None:
    path = f"{S}/resourcegroups/Rg.1-(x)"
    assert tenant.head(path).status_code == 404
    made = tenant.put(path, json={"location": "Sweden Central", "tags": {"a": "b"}, "managedBy": "me"})
    assert made.status_code == 201
    assert made.json()["id"] == f"{S}/resourceGroups/Rg.1-(x)"
    assert made.json()["location"] == "swedencentral"
    assert made.json()["managedBy"] == "me"
    assert tenant.head(path.upper()).status_code == 204
    assert tenant.get(path.lower()).json()["id"] == made.json()["id"]
    assert tenant.patch(path, json={"tags": {"c": "d"}}).json()["tags"] == {"c": "d"}
    assert code(tenant.put(path, json={"location": "japaneast"})) == (409, "InvalidResourceGroupLocation")
    assert code(tenant.put(path, json={"location": "mars"})) == (400, "LocationNotAvailableForResourceGroup")
    assert code(tenant.put(f"{S}/resourceGroups/bad.", json={"location": "japaneast"})) == (
        400,
        "InvalidRequestContent",
    )
    found = tenant.get(f"{S}/resourcegroups", params={"$filter": "tagName eq 'c' and tagValue eq 'd'"}).json()["value"]
    assert [each["name"] for each in found] == ["Rg.1-(x)"]
    assert code(tenant.get(f"{S}/resourceGroups", params={"$filter": "name gt 3"})) == (
        400,
        "InvalidFilterInQueryString",
    )
    assert code(tenant.get(f"{S}/resourceGroups/none")) == (404, "ResourceGroupNotFound")
    # One who may use one group only learns nothing of the others.
    assert code(up.of("one-group").get(path)) == (404, "ResourceNotFound")
    assert up.of("one-group").get(f"{S}/resourceGroups").json()["value"] == []
    assert code(up.of("north-reader").put(path, json={"location": "swedencentral"})) == (403, "AuthorizationFailed")


def test_an_account_is_created_read_changed_and_listed(tenant: httpx.Client, group: str, up: Plane) -> None:
    name = fresh()
    path = f"{group}/{COGNITIVE}/accounts/{name}"
    answer = tenant.put(path, json={**BODY, "tags": {"a": "b"}, "properties": {"customSubDomainName": name, "x": 1}})
    assert answer.status_code == 201
    made = answer.json()
    assert made["properties"]["endpoint"] == f"http://127.0.0.1:8080/accounts/{name}/"
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert made["properties"]["x"] == 1
    assert made["systemData"]["createdBy"] == "north-tenant"
    status = tenant.get(answer.headers["azure-asyncoperation"])
    assert status.json()["status"] == "Succeeded"
    assert answer.headers["retry-after"] == "1"
    assert tenant.get(path.lower().replace("resourcegroups", "RESOURCEGROUPS")).json() == made
    patched = tenant.patch(path, json={"tags": {"c": "d"}, "properties": {"disableLocalAuth": True, "x": None}}).json()
    assert patched["tags"] == {"c": "d"}
    assert patched["properties"]["disableLocalAuth"] is True
    assert "x" not in patched["properties"]
    assert patched["etag"] != made["etag"]
    assert patched["systemData"]["createdAt"] == made["systemData"]["createdAt"]
    for place in (f"{S}/{COGNITIVE}/accounts", f"{group}/{COGNITIVE}/accounts"):
        assert name in [each["name"] for each in tenant.get(place).json()["value"]]
    (found,) = tenant.get(f"{S}/resources", params={"$filter": f"name eq '{name}'"}).json()["value"]
    assert found["id"] == made["id"]
    assert "properties" not in found
    assert code(up.of("south-tenant").get(path)) == (404, "SubscriptionNotFound")
    other = path.replace(NORTH, SOUTH)
    assert code(up.of("south-tenant").get(other)) == (404, "ResourceGroupNotFound")


def test_one_who_may_use_one_group_learns_nothing_of_the_others(tenant: httpx.Client, group: str, up: Plane) -> None:
    create(tenant, group, fresh())
    own = f"{S}/resourceGroups/shared"
    tenant.put(own, json={"location": "swedencentral"})
    one = up.of("one-group")
    name = create(one, own, fresh())["name"]
    assert [each["name"] for each in one.get(f"{S}/{COGNITIVE}/accounts").json()["value"]] == [name]
    assert [each["name"] for each in one.get(f"{own}/resources").json()["value"]] == [name]
    for path in (
        f"{COGNITIVE}/accounts",
        "resources",
        f"{COGNITIVE}/accounts/x",
        f"{COGNITIVE}/accounts/x/deployments",
    ):
        there, nowhere = one.get(f"{group}/{path}"), one.get(f"{S}/resourceGroups/none/{path}")
        assert code(there) == code(nowhere) == (404, "ResourceNotFound")
    assert code(one.get(f"{S}/{COGNITIVE}/locations/swedencentral/usages")) == (404, "ResourceNotFound")


def test_lists_have_pages(tenant: httpx.Client, group: str) -> None:
    names = sorted(create(tenant, group, fresh())["name"] for _ in range(3))
    first = tenant.get(f"{group}/{COGNITIVE}/accounts", params={"$top": "2"}).json()
    second = tenant.get(first["nextLink"]).json()
    assert [each["name"] for each in [*first["value"], *second["value"]]] == names
    assert "nextLink" not in second


def test_etags(tenant: httpx.Client, group: str) -> None:
    name = fresh()
    path = f"{group}/{COGNITIVE}/accounts/{name}"
    assert code(tenant.put(path, json=BODY, headers={"if-match": '"x"'})) == (412, "PreconditionFailed")
    etag = tenant.put(path, json=BODY, headers={"if-none-match": "*"}).headers["etag"]
    assert code(tenant.put(path, json=BODY, headers={"if-none-match": "*"})) == (412, "PreconditionFailed")
    assert tenant.get(path, headers={"if-none-match": etag}).status_code == 304
    for verb, header in (
        ("GET", "if-none-match"),
        ("PUT", "if-match"),
        ("PUT", "if-none-match"),
        ("DELETE", "if-match"),
    ):
        malformed = tenant.request(verb, path, json=BODY if verb == "PUT" else None, headers={header: '"a'})
        assert code(malformed) == (400, "InvalidHeaderValue")
    assert tenant.put(path, json=BODY, headers={"if-match": etag}).status_code == 200
    assert code(tenant.patch(path, json={}, headers={"if-match": etag})) == (412, "PreconditionFailed")
    assert code(tenant.delete(path, headers={"if-match": etag})) == (412, "PreconditionFailed")
    assert tenant.delete(path, headers={"if-match": "*"}).status_code == 202


def test_names_and_places_that_cannot_be(tenant: httpx.Client, group: str) -> None:
    accounts = f"{group}/{COGNITIVE}/accounts"
    name = fresh()
    create(tenant, group, name)
    wrong = tenant.put(f"{accounts}/Acc_1", json=BODY)
    assert code(wrong) == (400, "InvalidRequestContent")
    assert wrong.json()["error"]["target"] == "accountName"
    assert "use lower-case letters" in wrong.json()["error"]["message"]
    assert code(tenant.put(f"{accounts}/{fresh()}", json={**BODY, "location": "mars"})) == (
        400,
        "LocationNotAvailableForResourceType",
    )
    assert code(tenant.put(f"{accounts}/{name}", json={**BODY, "location": "japaneast"})) == (
        409,
        "InvalidResourceLocation",
    )
    assert code(tenant.put(f"{S}/resourceGroups/none/{COGNITIVE}/accounts/x", json=BODY)) == (
        404,
        "ResourceGroupNotFound",
    )
    assert code(tenant.put(f"{accounts}/{fresh()}", json={**BODY, "properties": {"operator": "south"}})) == (
        400,
        "PropertyNotWritable",
    )
    for path in (f"{accounts}/a%2fb", f"{accounts}/%00", f"{accounts}/..%5c"):
        assert tenant.put(path, json=BODY).status_code in (400, 404)
    assert code(tenant.put(f"{accounts}/{fresh()}", content=b"{")) == (400, "InvalidRequestContent")


def test_a_name_is_unique_in_the_instance(tenant: httpx.Client, group: str, up: Plane) -> None:
    name = fresh()
    create(tenant, group, name)
    south = up.of("south-tenant")
    elsewhere = f"/subscriptions/{SOUTH}/resourceGroups/g"
    south.put(elsewhere, json={"location": "japaneast"})
    path = f"{elsewhere}/{COGNITIVE}/accounts/{name}"

    def taken() -> str | None:
        asked = {"subdomainName": name, "type": "Microsoft.CognitiveServices/accounts"}
        answer = south.post(f"/subscriptions/{SOUTH}/{COGNITIVE}/checkDomainAvailability", json=asked)
        reason: str | None = answer.json()["reason"]
        assert answer.json()["isSubdomainAvailable"] is (reason is None)
        return reason

    assert code(south.put(path, json=BODY)) == (409, "CustomDomainInUse")
    assert taken() is not None
    tenant.delete(f"{group}/{COGNITIVE}/accounts/{name}")
    assert code(south.put(path, json=BODY)) == (409, "CustomDomainInUse")
    assert taken() is not None
    purged = tenant.delete(f"{S}/{COGNITIVE}/locations/swedencentral{group.removeprefix(S)}/deletedAccounts/{name}")
    assert purged.status_code == 202
    assert taken() is None
    assert south.put(path, json=BODY).status_code == 201


def test_keys(tenant: httpx.Client, group: str, up: Plane) -> None:
    name = fresh()
    create(tenant, group, name)
    path = f"{group}/{COGNITIVE}/accounts/{name}"
    first = tenant.post(f"{path}/listKeys")
    assert first.headers["cache-control"] == "no-store"
    keys = first.json()
    assert len(keys["key1"]) == len(keys["key2"]) == 84
    fresh_keys = tenant.post(f"{path}/regenerateKey", json={"keyName": "Key2"}).json()
    assert fresh_keys["key1"] == keys["key1"]
    assert fresh_keys["key2"] != keys["key2"]
    assert tenant.post(f"{path}/listkeys").json() == fresh_keys
    for wrong in ({}, {"keyName": "Key3"}, {"keyName": 1}):
        assert code(tenant.post(f"{path}/regenerateKey", json=wrong)) == (400, "InvalidRequestContent")
    assert code(up.of("north-reader").post(f"{path}/listKeys")) == (403, "AuthorizationFailed")
    tenant.patch(path, json={"properties": {"disableLocalAuth": True}})
    refused = tenant.post(f"{path}/listKeys")
    assert code(refused) == (400, "BadRequest")
    assert refused.json()["error"]["message"] == "Failed to list key. disableLocalAuth is set to be true"


def test_deleted_softly_recovered_and_purged(tenant: httpx.Client, group: str) -> None:
    name = fresh()
    made = create(tenant, group, name)
    path = f"{group}/{COGNITIVE}/accounts/{name}"
    keys = tenant.post(f"{path}/listKeys").json()
    answer = tenant.delete(path)
    assert answer.status_code == 202
    assert tenant.get(answer.headers["azure-asyncoperation"]).json()["status"] == "Succeeded"
    assert tenant.get(answer.headers["location"]).status_code == 204
    assert code(tenant.get(path)) == (404, "ResourceNotFound")
    assert tenant.delete(path).status_code == 204
    (gone,) = [a for a in tenant.get(f"{S}/{COGNITIVE}/deletedAccounts").json()["value"] if a["name"] == name]
    assert gone["properties"]["scheduledPurgeDate"] > gone["properties"]["deletionDate"]
    assert tenant.get(gone["id"]).json() == gone
    again = tenant.put(path, json=BODY)
    assert code(again) == (409, "FlagMustBeSetForRestore")
    assert made["id"] in again.json()["error"]["message"]
    back = tenant.put(path, json={"properties": {"restore": True}, "location": "swedencentral"})
    assert back.status_code == 200
    assert back.json()["kind"] == "OpenAI"
    assert tenant.post(f"{path}/listKeys").json() == keys
    assert code(tenant.get(gone["id"])) == (404, "ResourceNotFound")
    tenant.delete(path)
    assert tenant.delete(gone["id"]).status_code == 202
    assert code(tenant.put(path, json={"properties": {"restore": True}, "location": "swedencentral"})) == (
        404,
        "CanNotRestoreANonExistingResource",
    )
    create(tenant, group, name)
    assert tenant.post(f"{path}/listKeys").json() != keys


def test_a_suspension_is_not_shaken_off(tenant: httpx.Client, group: str, up: Plane) -> None:
    name = fresh()
    made = create(tenant, group, name)
    path = f"{group}/{COGNITIVE}/accounts/{name}"
    up.of("north-staff").post(f"{made['id']}/suspend", json={"reason": "a test"}).raise_for_status()
    assert tenant.get(path).json()["properties"]["state"] == "suspended"
    assert code(tenant.delete(path)) == (409, "AccountSuspended")
    assert code(tenant.delete(group)) == (409, "AccountSuspended")
    assert code(tenant.patch(path, json={"properties": {"state": "active"}})) == (400, "PropertyNotWritable")
    assert tenant.put(path, json=BODY).json()["properties"]["state"] == "suspended"
    # Nor the record of it.
    assert tenant.get(path).json()["properties"]["suspension"]["reason"] == "a test"
    forged = {"properties": {"suspension": {"reason": "none"}}}
    assert code(tenant.patch(path, json=forged)) == (400, "PropertyNotWritable")


def test_what_is_due_is_purged_by_itself(tenant: httpx.Client, group: str, up: Plane) -> None:
    name = fresh()
    made = create(tenant, group, name)
    tenant.delete(f"{group}/{COGNITIVE}/accounts/{name}")
    (gone,) = [a for a in tenant.get(f"{S}/{COGNITIVE}/deletedAccounts").json()["value"] if a["name"] == name]
    deleted_ms = int(datetime.fromisoformat(gone["properties"]["deletionDate"]).timestamp() * 1_000)
    up.run(purge_due(up.control, deleted_ms + RETENTION_MS - 1_000))
    assert tenant.get(gone["id"]).status_code == 200
    assert up.run(up.control.store.secrets(f"{made['id'].lower()}/"))
    assert up.run(purge_due(up.control, deleted_ms + RETENTION_MS + 1_000)) >= 1
    assert code(tenant.get(gone["id"])) == (404, "ResourceNotFound")
    assert up.run(up.control.store.secrets(f"{made['id'].lower()}/")) == {}


def test_a_group_is_deleted_with_its_accounts(tenant: httpx.Client, group: str) -> None:
    name = fresh()
    create(tenant, group, name)
    answer = tenant.delete(group)
    assert answer.status_code == 202
    assert tenant.get(answer.headers["location"]).status_code == 200
    assert code(tenant.get(group)) == (404, "ResourceGroupNotFound")
    assert code(tenant.get(f"{group}/{COGNITIVE}/accounts/{name}")) == (404, "ResourceGroupNotFound")
    assert name in [each["name"] for each in tenant.get(f"{S}/{COGNITIVE}/deletedAccounts").json()["value"]]
    tenant.put(group, json={"location": "swedencentral"})
    path = f"{group}/{COGNITIVE}/accounts/{name}"
    assert tenant.put(path, json={"properties": {"restore": "true"}, "location": "swedencentral"}).status_code == 200


def test_operations_are_known_to_their_subscription_only(tenant: httpx.Client, group: str, up: Plane) -> None:
    answer = tenant.delete(f"{group}/{COGNITIVE}/accounts/{create(tenant, group, fresh())['name']}")
    path = answer.headers["azure-asyncoperation"].partition("?")[0].removeprefix(up.url)
    assert tenant.get(path).status_code == 200
    assert code(up.of("south-tenant").get(path.replace(NORTH, SOUTH))) == (404, "OperationNotFound")
    place, _, operation = path.rpartition("/")
    for forged in ("1", "x", "-1-x", operation[:-1], f"0{operation}x", "9" * 30 + "-x"):
        assert code(tenant.get(f"{place}/{forged}")) == (404, "OperationNotFound")


def test_providers(up: Plane, tenant: httpx.Client) -> None:
    found = tenant.get(f"{S}/providers/microsoft.cognitiveservices").json()
    assert found["registrationState"] == "Registered"
    assert tenant.post(f"{S}/providers/Microsoft.CognitiveServices/register").json() == found
    assert code(tenant.get(f"{S}/providers/Microsoft.Compute")) == (404, "InvalidResourceNamespace")
    assert tenant.get(f"{S}/providers").json()["value"][0]["namespace"] == found["namespace"]
    operations = tenant.get(f"/{COGNITIVE}/operations").json()["value"]
    assert "Microsoft.CognitiveServices/accounts/listKeys/action" in [each["name"] for each in operations]
    assert code(httpx.get(f"{up.url}/{COGNITIVE}/operations", params=VERSION)) == (401, "AuthenticationFailed")
