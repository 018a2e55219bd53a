"""The unmodified `azure-mgmt-cognitiveservices`, through its own pollers, over TLS."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
from azure.mgmt.cognitiveservices import models as azure

from planes import NORTH, PERSON, Plane, plane

GROUP = "sdk"


class Up(NamedTuple):
    plane: Plane
    ca: str

    @contextmanager
    def sdk(self, principal: str, subscription: str) -> Iterator[CognitiveServicesManagementClient]:
        token = self.plane.of(principal).headers["authorization"].removeprefix("Bearer ")
        with CognitiveServicesManagementClient(
            Given(token),
            subscription,
            base_url=self.plane.url,
            credential_scopes=[f"{self.plane.url}/.default"],
            connection_verify=self.ca,
        ) as client:
            yield client


class Given:
    """A credential that has its token already."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self._token, int(time.time()) + 3_000)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("plane")
    ca, certificate = _certificates(folder)
    context = ssl.create_default_context(cafile=ca)
    with plane(folder, tls=(str(certificate), str(certificate)), ca=context) as found:
        yield Up(found, ca)


def _certificates(folder: Path) -> tuple[str, Path]:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return str(folder / "ca.pem"), folder / "server.pem"


def _account(location: str = "swedencentral") -> azure.Account:
    return azure.Account(
        location=location, kind="OpenAI", sku=azure.Sku(name="S0"), properties=azure.AccountProperties()
    )


def _deployment(capacity: int = 1) -> azure.Deployment:
    model = azure.DeploymentModel(format="OpenAI", name="gpt-4o", version="2024-11-20")
    return azure.Deployment(
        sku=azure.Sku(name="GlobalStandard", capacity=capacity), properties=azure.DeploymentProperties(model=model)
    )


def test_from_the_account_to_its_purge(up: Up) -> None:
    up.plane.of("north-tenant").put(
        f"/subscriptions/{NORTH}/resourcegroups/{GROUP}", json={"location": "swedencentral"}
    ).raise_for_status()
    with up.sdk("north-tenant", NORTH) as sdk:
        _whole_life(sdk)


def _whole_life(sdk: CognitiveServicesManagementClient) -> None:
    account = sdk.accounts.begin_create(GROUP, "sdk-one", _account()).result()
    assert account.properties.provisioning_state == "Succeeded"
    assert account.properties.endpoint.endswith("/accounts/sdk-one/")
    keys = sdk.accounts.list_keys(GROUP, "sdk-one")
    assert sdk.accounts.regenerate_key(GROUP, "sdk-one", "Key1").key2 == keys.key2
    deployment = sdk.deployments.begin_create_or_update(GROUP, "sdk-one", "d", _deployment()).result()
    assert deployment.properties.model.name == "gpt-4o"
    patch = azure.PatchResourceTagsAndSku(sku=azure.Sku(name="GlobalStandard", capacity=5), tags={"a": "b"})
    assert sdk.deployments.begin_update(GROUP, "sdk-one", "d", patch).result().sku.capacity == 5
    assert [each.name for each in sdk.deployments.list(GROUP, "sdk-one")] == ["d"]
    assert [each.resource_type for each in sdk.deployments.list_skus(GROUP, "sdk-one", "d")]
    assert {each.model.name for each in sdk.models.list("swedencentral")} == {"gpt-4o", "text-embedding-3-large"}
    assert "gpt-4o" in {each.name for each in sdk.accounts.list_models(GROUP, "sdk-one")}
    usages = {each.name.value: each.current_value for each in sdk.usages.list("swedencentral")}
    assert usages["OpenAI.GlobalStandard.gpt-4o"] == 5
    assert sdk.accounts.list_usages(GROUP, "sdk-one").value[0].current_value == 5
    assert sdk.accounts.list_skus(GROUP, "sdk-one").value[0].sku.name == "S0"
    assert {each.kind for each in sdk.resource_skus.list()} == {"OpenAI", "AIServices"}
    assert [each.name for each in sdk.operations.list()]
    capacities = sdk.model_capacities.list(model_format="OpenAI", model_name="gpt-4o", model_version="2024-11-20")
    assert {each.location for each in capacities} == {"francecentral", "japaneast", "swedencentral"}
    free = sdk.check_domain_availability("sdk-one", "Microsoft.CognitiveServices/accounts")
    assert not free.is_subdomain_available
    account = sdk.accounts.begin_update(GROUP, "sdk-one", azure.Account(tags={"c": "d"})).result()
    assert account.tags == {"c": "d"}
    sdk.deployments.begin_delete(GROUP, "sdk-one", "d").result()
    sdk.accounts.begin_delete(GROUP, "sdk-one").result()
    with pytest.raises(ResourceNotFoundError):
        sdk.accounts.get(GROUP, "sdk-one")
    assert [each.name for each in sdk.deleted_accounts.list()] == ["sdk-one"]
    back = azure.Account(location="swedencentral", properties=azure.AccountProperties(restore=True))
    assert sdk.accounts.begin_create(GROUP, "sdk-one", back).result().kind == "OpenAI"
    sdk.accounts.begin_delete(GROUP, "sdk-one").result()
    sdk.deleted_accounts.begin_purge("swedencentral", GROUP, "sdk-one").result()
    assert list(sdk.deleted_accounts.list()) == []


def test_the_refusal_reads_as_the_real_services(up: Up) -> None:
    up.plane.of("person").put(
        f"/subscriptions/{PERSON}/resourcegroups/{GROUP}", json={"location": "japaneast"}
    ).raise_for_status()
    with up.sdk("person", PERSON) as sdk:
        sdk.accounts.begin_create(GROUP, "sdk-two", _account("japaneast")).result()
        with pytest.raises(HttpResponseError) as raised:
            sdk.deployments.begin_create_or_update(GROUP, "sdk-two", "d", _deployment()).result()
    error = raised.value.error
    assert error is not None
    assert error.code == "CannotDeployDueToLocalRegulations"
    assert error.message.startswith("Due to local regulatory requirements, in mainland China only enterprise customers")
    assert error.additional_info[0].type == "AccessDecision"
    with up.sdk("north-tenant", NORTH) as sdk, pytest.raises(HttpResponseError) as raised:
        sdk.deployments.begin_create_or_update(GROUP, "sdk-two", "d", _deployment()).result()
    assert raised.value.status_code == 404
