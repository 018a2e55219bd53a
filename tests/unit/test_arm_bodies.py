"""Requests of the management API as bodies of rows, and rows as Azure shows them."""

from __future__ import annotations

from typing import Any

import pytest

from entrepot.errors import Error
from entrepot.management.arm import asked, shapes
from entrepot.storage import Row
from entrepot.wire.refusals import refusal

GROUP = "/subscriptions/8a1d2c3e-0000-4000-8000-000000000001/resourceGroups/rg1"
ACCOUNT = f"{GROUP}/providers/Microsoft.CognitiveServices/accounts/acc1"
BODY: dict[str, Any] = {"location": "eastus", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}


def account(given: dict[str, Any], held: dict[str, Any] | None = None, name: str = "acc1") -> dict[str, Any]:
    return asked.account(given, held, name, ACCOUNT)


def mistakes(error: pytest.ExceptionInfo[Error]) -> list[str | None]:
    return [detail.target for detail in error.value.details]


def test_unknown_fields_are_kept_and_computed_ones_dropped() -> None:
    given = {
        **BODY,
        "etag": "x",
        "futureField": [1],
        "properties": {"endpoint": "http://x", "apiProperties": {"a": "b"}},
    }
    found = account(given)
    assert found["futureField"] == [1]
    assert found["properties"] == {"apiProperties": {"a": "b"}}
    assert "etag" not in found


def test_all_mistakes_are_told_with_their_fields() -> None:
    with pytest.raises(Error) as raised:
        account({"kind": "OpenAI", "tags": {"a": 1}, "properties": {"disableLocalAuth": "yes"}}, name="Acc_1")
    assert raised.value.name == "InvalidRequestContent"
    assert mistakes(raised) == ["accountName", "location", "sku.name", "tags.a", "properties.disableLocalAuth"]


@pytest.mark.parametrize("field", sorted(asked.PROTECTED))
@pytest.mark.parametrize("held", [None, {**BODY, "properties": {"residency": ["DE"]}}])
def test_what_the_policy_reads_is_not_written(field: str, held: dict[str, Any] | None) -> None:
    with pytest.raises(Error) as raised:
        account({**BODY, "properties": {field: ["US"]}}, held)
    assert raised.value.name == "PropertyNotWritable"
    assert mistakes(raised) == [f"properties.{field}"]
    if held is not None:
        with pytest.raises(Error):
            asked.account_update({"properties": {field: ["US"]}}, held, "acc1", ACCOUNT)


def test_how_to_propose_is_told() -> None:
    with pytest.raises(Error, match=r"PUT /providers/Entrepot.Access/proposals/\{guid\}"):
        account({**BODY, "properties": {"residency": ["US"]}})


@pytest.mark.parametrize("patch", [{}, {"properties": {"residency": None, "state": None}}, {"properties": {"x": 1}}])
def test_what_the_policy_reads_outlives_writes(patch: dict[str, Any]) -> None:
    held = {**BODY, "tags": {}, "properties": {"residency": ["DE"], "state": "suspended"}}
    for found in (account({**BODY, **patch}, held), asked.account_update(patch, held, "acc1", ACCOUNT)):
        assert found["properties"]["residency"] == ["DE"]
        assert found["properties"]["state"] == "suspended"
    sent_back = account({**BODY, "properties": {"residency": ["DE"], "state": "suspended"}}, held)
    assert sent_back["properties"] == held["properties"]


@pytest.mark.parametrize(
    "properties",
    [
        {"publicNetworkAccess": "Disabled"},
        {"networkAcls": {"defaultAction": "Deny"}},
        {"networkAcls": "Deny"},
        {"restrictOutboundNetworkAccess": True},
        {"encryption": {"keySource": "Microsoft.KeyVault"}},
        {"userOwnedStorage": [{"resourceId": "x"}]},
        {"customSubDomainName": "other"},
    ],
)
def test_promises_that_could_not_be_kept_are_refused(properties: dict[str, Any]) -> None:
    with pytest.raises(Error, match="`properties"):
        account({**BODY, "properties": properties})


def test_a_patch_replaces_tags_and_merges_properties() -> None:
    held = {**BODY, "tags": {"a": "1"}, "properties": {"apiProperties": {"q": "1"}, "disableLocalAuth": True}}
    found = asked.account_update(
        {"tags": {"b": "2"}, "properties": {"disableLocalAuth": None}, "sku": {"name": "S0"}}, held, "acc1", ACCOUNT
    )
    assert found["tags"] == {"b": "2"}
    assert found["properties"] == {"apiProperties": {"q": "1"}}
    assert asked.account_update({"kind": "aiservices"}, held, "acc1", ACCOUNT)["kind"] == "AIServices"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({**BODY, "kind": "Vision"}, "InvalidApiSetId"),
        ({**BODY, "sku": {"name": "F0"}}, "InvalidSkuId"),
        ({**BODY, "sku": "S0"}, "InvalidRequestContent"),
        ({**BODY, "properties": []}, "InvalidRequestContent"),
        ({**BODY, "location": 7}, "InvalidRequestContent"),
        ({**BODY, "tags": {str(i): "" for i in range(51)}}, "InvalidRequestContent"),
    ],
)
def test_wrong_accounts(given: dict[str, Any], name: str) -> None:
    with pytest.raises(Error) as raised:
        account(given)
    assert raised.value.name == name


MODEL = {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}


@pytest.mark.parametrize(
    ("given", "sku"),
    [
        ({"sku": {"name": "GlobalStandard", "capacity": "10"}}, {"name": "GlobalStandard", "capacity": 10}),
        ({"sku": {"name": "Standard", "capacity": 3.0}}, {"name": "Standard", "capacity": 3}),
        ({}, {"name": "Standard"}),
        (
            {"properties": {"scaleSettings": {"scaleType": "Standard", "capacity": 5}}},
            {"name": "Standard", "capacity": 5},
        ),
    ],
)
def test_a_deployments_capacity_however_it_is_written(given: dict[str, Any], sku: dict[str, Any]) -> None:
    whole = {**given, "properties": {**given.get("properties", {}), "model": MODEL}}
    found = asked.deployment(whole, "d")
    assert found["sku"] == sku
    assert found["properties"] == {"model": MODEL, "versionUpgradeOption": "NoAutoUpgrade"}


@pytest.mark.parametrize("capacity", ["ten", 0, -1, 1.5, 1_000_001, True, [], "0"])
def test_capacities_that_are_none(capacity: Any) -> None:
    with pytest.raises(Error) as raised:
        asked.deployment({"sku": {"name": "Standard", "capacity": capacity}, "properties": {"model": MODEL}}, "d")
    assert mistakes(raised) == ["sku.capacity"]


def test_a_deployment_needs_a_model() -> None:
    with pytest.raises(Error) as raised:
        asked.deployment({"properties": {"model": {"version": 4}}}, "-d")
    assert mistakes(raised) == [
        "deploymentName",
        "properties.model.format",
        "properties.model.name",
        "properties.model.version",
    ]


def test_a_patch_of_a_deployment_changes_capacity_and_tags_only() -> None:
    held = {"sku": {"name": "Standard", "capacity": 1}, "tags": {"a": "1"}, "properties": {"model": MODEL}}
    found = asked.deployment_update({"sku": {"capacity": "7"}}, held)
    assert found == {**held, "sku": {"name": "Standard", "capacity": 7}}
    with pytest.raises(Error, match="PUT the whole deployment"):
        asked.deployment_update({"properties": {"model": MODEL}}, held)


def test_an_account_as_azure_shows_it() -> None:
    row = Row(
        id=ACCOUNT,
        kind="account",
        name="acc1",
        body=account({**BODY, "tags": {"a": "b"}}),
        etag="ab",
        created_by="admin",
        changed_by="bob",
        created_ms=1_790_000_000_000,
        changed_ms=1_790_000_001_000,
    )
    shown = shapes.account(row, "http://127.0.0.1:8080")
    assert shown["id"] == ACCOUNT
    assert shown["type"] == "Microsoft.CognitiveServices/accounts"
    assert shown["etag"] == '"ab"'
    assert shown["properties"]["endpoint"] == "http://127.0.0.1:8080/accounts/acc1/"
    assert shown["properties"]["customSubDomainName"] == "acc1"
    assert shown["properties"]["provisioningState"] == "Succeeded"
    assert shown["systemData"]["createdBy"] == "admin"
    assert shown["systemData"]["lastModifiedBy"] == "bob"
    # What was read can be written back as it is.
    assert account(shown, row.body)["properties"] == {
        "disableLocalAuth": False,
        "publicNetworkAccess": "Enabled",
        "customSubDomainName": "acc1",
        "networkAcls": {"defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
    }


def test_the_refusal_in_the_real_services_words() -> None:
    reason = {"en": "our text", "zh": "我们的文字"}
    found = refusal("cannot_deploy_due_to_local_regulations", reason, "log/7", "req-1")["error"]
    assert found["code"] == "CannotDeployDueToLocalRegulations"
    assert found["message"] == (
        "Due to local regulatory requirements, in mainland China only enterprise customers with a registered business "
        "license are eligible to subscribe to the Azure OpenAI Service."
    )
    assert found["additionalInfo"] == [
        {"type": "AccessDecision", "info": {"decision": "log/7", "request": "req-1", "reason": reason}}
    ]


@pytest.mark.parametrize(
    ("code", "reason", "name", "message"),
    [
        ("outside_residency", {"en": "outside"}, "OutsideResidency", "outside"),
        ("not_eligible", {"zh": "无"}, "NotEligible", "无"),
        (None, {}, "RefusedByAccessPolicy", "the access policy does not permit this deployment"),
    ],
)
def test_other_refusals_say_their_own_code(code: str | None, reason: dict[str, str], name: str, message: str) -> None:
    found = refusal(code, reason, "log/7", "req-1")["error"]
    assert (found["code"], found["message"]) == (name, message)
