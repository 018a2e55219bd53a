"""Azure's management API over a real socket: deployments, what the policy says of them, quota, models, usages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from planes import NORTH, PERSON, Plane, plane

S = f"/subscriptions/{NORTH}"
COGNITIVE = "providers/Microsoft.CognitiveServices"
MODEL = {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}


def deployment(sku: str = "GlobalStandard", capacity: Any = 1, **model: str) -> dict[str, Any]:
    return {"sku": {"name": sku, "capacity": capacity}, "properties": {"model": {**MODEL, **model}}}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture
def tenant(up: Plane) -> httpx.Client:
    return up.of("north-tenant")


@pytest.fixture
def account(tenant: httpx.Client) -> Iterator[str]:
    yield (path := made(tenant, S))
    tenant.delete(path.partition("/providers/")[0])
    name, group = path.rpartition("/")[2], path.partition("/providers/")[0].removeprefix(S)
    tenant.delete(f"{S}/{COGNITIVE}/locations/swedencentral{group}/deletedAccounts/{name}")


def made(client: httpx.Client, subscription: str, location: str = "swedencentral") -> str:
    group = f"{subscription}/resourceGroups/g-{uuid4().hex[:8]}"
    client.put(group, json={"location": location}).raise_for_status()
    path = f"{group}/{COGNITIVE}/accounts/acc-{uuid4().hex[:8]}"
    client.put(path, json={"location": location, "kind": "OpenAI", "sku": {"name": "S0"}}).raise_for_status()
    return path


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def usage(client: httpx.Client, name: str) -> tuple[float, float]:
    found = client.get(f"{S}/{COGNITIVE}/locations/swedencentral/usages").json()["value"]
    (one,) = [each for each in found if each["name"]["value"] == name]
    return one["currentValue"], one["limit"]


def test_a_deployment_is_created_read_scaled_and_deleted(tenant: httpx.Client, account: str, up: Plane) -> None:
    path = f"{account}/deployments/GPT.4o"
    answer = tenant.put(path, json={**deployment(capacity="10"), "tags": {"a": "b"}})
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert found["sku"] == {"name": "GlobalStandard", "capacity": 10}
    assert found["properties"]["model"] == MODEL
    assert found["properties"]["provisioningState"] == "Succeeded"
    assert found["properties"]["rateLimits"][1] == {"key": "token", "renewalPeriod": 60.0, "count": 10_000.0}
    assert tenant.get(answer.headers["azure-asyncoperation"]).json()["status"] == "Succeeded"
    assert tenant.get(path.replace("GPT.4o", "gpt.4O")).json() == found
    snapshot = up.control.snapshot.accounts[account.rpartition("/")[2]]
    assert [each.name for each in snapshot.deployments.values()] == ["GPT.4o"]
    scaled = tenant.patch(path, json={"sku": {"name": "GlobalStandard", "capacity": "20"}})
    assert (scaled.status_code, scaled.json()["sku"]["capacity"]) == (200, 20)
    assert scaled.json()["tags"] == {"a": "b"}
    assert tenant.patch(path, json={"tags": {}}).json()["sku"]["capacity"] == 20
    again = tenant.put(path, json=deployment(version="2024-05-13"))
    assert (again.status_code, again.json()["properties"]["model"]["version"]) == (200, "2024-05-13")
    assert [each["name"] for each in tenant.get(f"{account}/deployments").json()["value"]] == ["GPT.4o"]
    (sku,) = tenant.get(f"{path}/skus").json()["value"]
    assert sku["sku"] == {"name": "GlobalStandard"}
    assert code(up.of("north-reader").put(path, json=deployment())) == (403, "AuthorizationFailed")
    assert tenant.delete(path).status_code == 202
    assert tenant.delete(path).status_code == 204
    assert code(tenant.get(path)) == (404, "ResourceNotFound")
    assert not up.control.snapshot.accounts[account.rpartition("/")[2]].deployments


def test_a_paused_deployment_serves_nothing(tenant: httpx.Client, account: str, up: Plane) -> None:
    path = f"{account}/deployments/d"
    tenant.put(path, json=deployment())
    name = account.rpartition("/")[2]
    assert tenant.post(f"{path}/pause").json()["properties"]["deploymentState"] == "Paused"
    assert not up.control.snapshot.accounts[name].deployments
    assert tenant.post(f"{path}/resume").json()["properties"]["deploymentState"] == "Running"
    assert list(up.control.snapshot.accounts[name].deployments) == ["d"]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (deployment(name="gpt-9"), "DeploymentModelNotSupported"),
        (deployment(version="1999-01-01"), "DeploymentModelNotSupported"),
        (deployment(format="Meta"), "DeploymentModelNotSupported"),
        (deployment("ProvisionedManaged"), "InvalidResourceProperties"),
        ({"sku": {"name": "Standard"}, "properties": {"model": {"format": "OpenAI"}}}, "InvalidRequestContent"),
        (deployment(capacity="much"), "InvalidRequestContent"),
        (deployment(capacity=1_000), "InsufficientQuota"),
    ],
)
def test_deployments_that_cannot_be(tenant: httpx.Client, account: str, body: dict[str, Any], name: str) -> None:
    assert code(tenant.put(f"{account}/deployments/d", json=body)) == (400, name)
    assert tenant.get(f"{account}/deployments").json()["value"] == []


def test_a_deployment_needs_its_account(tenant: httpx.Client, account: str) -> None:
    answer = tenant.put(f"{account}x/deployments/d", json=deployment())
    assert code(answer) == (404, "ParentResourceNotFound")
    assert code(tenant.get(f"{account}x/deployments")) == (404, "ResourceNotFound")
    assert code(tenant.put(f"{account}/deployments/-d", json=deployment())) == (400, "InvalidRequestContent")


def test_quota_is_drawn_and_given_back(tenant: httpx.Client, account: str) -> None:
    name = "OpenAI.GlobalStandard.gpt-4o"
    assert usage(tenant, name) == (0, 100)
    tenant.put(f"{account}/deployments/a", json=deployment(capacity=60)).raise_for_status()
    refused = tenant.put(f"{account}/deployments/b", json=deployment(capacity=50, version="2024-05-13"))
    assert code(refused) == (400, "InsufficientQuota")
    assert refused.json()["error"]["message"] == (
        "This operation require 50 new capacity in quota Tokens Per Minute (thousands) - gpt-4o - GlobalStandard, "
        "which is bigger than the current available capacity 40. The current quota usage is 60 and the quota limit is "
        "100 for quota Tokens Per Minute (thousands) - gpt-4o."
    )
    assert code(tenant.patch(f"{account}/deployments/a", json={"sku": {"capacity": 101}})) == (400, "InsufficientQuota")
    tenant.patch(f"{account}/deployments/a", json={"sku": {"capacity": 100}}).raise_for_status()
    assert usage(tenant, name) == (100, 100)
    (own,) = tenant.get(f"{account}/usages").json()["value"]
    assert (own["name"]["value"], own["currentValue"]) == (name, 100)
    group, place = account.partition("/providers/")[0].removeprefix(S), f"{S}/{COGNITIVE}/locations/swedencentral"
    left = tenant.get(
        f"{place}/modelCapacities",
        params={"modelFormat": "OpenAI", "modelName": "gpt-4o", "modelVersion": "2024-11-20"},
    )
    by_sku = {each["properties"]["skuName"]: each["properties"]["availableCapacity"] for each in left.json()["value"]}
    assert by_sku["GlobalStandard"] == 0
    # Soft-deleted, it keeps what it holds; purged, it does not.
    tenant.delete(account)
    assert usage(tenant, name) == (100, 100)
    tenant.delete(f"{place}{group}/deletedAccounts/{account.rpartition('/')[2]}")
    assert usage(tenant, name) == (0, 100)


def test_quota_holds_when_many_ask_at_once(tenant: httpx.Client, account: str) -> None:
    def deploy(at: int) -> int:
        return tenant.put(f"{account}/deployments/d{at}", json=deployment(capacity=30)).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(deploy, range(8)))
    assert sorted(answers) == [201] * 3 + [400] * 5
    assert usage(tenant, "OpenAI.GlobalStandard.gpt-4o")[0] == 90


def test_a_recovered_account_has_its_deployments(tenant: httpx.Client, account: str, up: Plane) -> None:
    tenant.put(f"{account}/deployments/d", json=deployment()).raise_for_status()
    name = account.rpartition("/")[2]
    tenant.delete(account)
    assert name not in up.control.snapshot.accounts
    assert code(tenant.get(f"{account}/deployments/d")) == (404, "ResourceNotFound")
    tenant.put(account, json={"location": "swedencentral", "properties": {"restore": True}}).raise_for_status()
    assert tenant.get(f"{account}/deployments/d").status_code == 200
    assert list(up.control.snapshot.accounts[name].deployments) == ["d"]


def test_an_individual_in_mainland_china_creates_an_account_and_deploys_nothing(up: Plane) -> None:
    person = up.of("person")
    account = made(person, f"/subscriptions/{PERSON}", "japaneast")
    refused = person.put(f"{account}/deployments/d", json=deployment())
    assert code(refused) == (400, "CannotDeployDueToLocalRegulations")
    error = refused.json()["error"]
    assert error["message"] == (
        "Due to local regulatory requirements, in mainland China only enterprise customers with a registered business "
        "license are eligible to subscribe to the Azure OpenAI Service."
    )
    (info,) = error["additionalInfo"]
    assert info["type"] == "AccessDecision"
    assert info["info"]["decision"]
    assert person.get(f"{account}/deployments").json()["value"] == []


def test_models_skus_and_capacities(tenant: httpx.Client, account: str) -> None:
    place = f"{S}/{COGNITIVE}/locations/Sweden%20Central"
    models = tenant.get(f"{place}/models").json()["value"]
    assert {each["kind"] for each in models} == {"OpenAI", "AIServices"}
    own = tenant.get(f"{account}/models").json()["value"]
    assert [(each["name"], each["version"], each["isDefaultVersion"]) for each in own] == [
        ("gpt-4o", "2024-05-13", False),
        ("gpt-4o", "2024-11-20", True),
        ("text-embedding-3-large", "1", True),
    ]
    assert [sku["name"] for sku in own[1]["skus"]] == ["Standard", "DataZoneStandard", "GlobalStandard"]
    assert [sku["name"] for sku in own[2]["skus"]] == ["GlobalStandard"]
    assert code(tenant.get(f"{S}/{COGNITIVE}/locations/mars/models")) == (400, "LocationNotAvailableForResourceType")
    every = tenant.get(f"{S}/{COGNITIVE}/modelCapacities", params={"modelName": "text-embedding-3-large"}).json()[
        "value"
    ]
    assert {each["location"] for each in every} == {"francecentral", "japaneast", "swedencentral"}
    skus = tenant.get(f"{S}/{COGNITIVE}/skus").json()["value"]
    assert {"OpenAI", "AIServices"} == {each["kind"] for each in skus}
    assert tenant.get(f"{account}/skus").json()["value"][0]["sku"]["name"] == "S0"
    asked = {"skus": ["S0", "F9"], "kind": "OpenAI", "type": "Microsoft.CognitiveServices/accounts"}
    found = tenant.post(f"{S}/{COGNITIVE}/locations/swedencentral/checkSkuAvailability", json=asked).json()["value"]
    assert [each["skuAvailable"] for each in found] == [True, False]
    load = {"requestPerMinute": 10, "requestParameters": {"avgPromptTokens": 900, "avgGeneratedTokens": 100}}
    asked = {"model": MODEL, "skuName": "GlobalStandard", "workloads": [load]}
    found = tenant.post(f"{S}/{COGNITIVE}/calculateModelCapacity", json=asked).json()
    assert found["estimatedCapacity"]["value"] == 10
