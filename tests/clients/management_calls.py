"""The life of an account with `azure-mgmt-cognitiveservices` and `azure-identity`, and calls with what they gave.

Standard input is `{"url", "tenant", "client_id", "secret", "subscription", "barred", "group", "name"}`; `barred` is a
subscription in which the policy forbids to deploy. Standard output is what was seen, by step.
`node/management.mjs` does the same with the SDKs for Node.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.identity import ClientSecretCredential, get_bearer_token_provider
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
from azure.mgmt.cognitiveservices import models as azure
from openai import AzureOpenAI

LOCATION = "japaneast"
DATA = "https://cognitiveservices.azure.com/.default"


def account(**properties: Any) -> azure.Account:
    made = azure.AccountProperties(**properties)
    return azure.Account(location=LOCATION, kind="OpenAI", sku=azure.Sku(name="S0"), properties=made)


def deployment(capacity: int, model: str = "gpt-4o") -> azure.Deployment:
    given = azure.DeploymentModel(format="OpenAI", name=model, version="2024-11-20")
    properties = azure.DeploymentProperties(model=given)
    return azure.Deployment(sku=azure.Sku(name="GlobalStandard", capacity=capacity), properties=properties)


def called(endpoint: str, **who: Any) -> str | None:
    with AzureOpenAI(azure_endpoint=endpoint, api_version="2024-10-21", **who) as client:
        answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Well?"}])
        return answer.choices[0].message.content


def failed(poll: Any) -> list[Any]:
    try:
        poll().result()
    except HttpResponseError as error:
        told = error.error or azure.ErrorDetail()
        return [error.status_code, told.code, told.message]
    return []


def life(sdk: CognitiveServicesManagementClient, barred: Any, plan: dict[str, str], token: Any) -> dict[str, Any]:
    group, name = plan["group"], plan["name"]
    deploy = sdk.deployments.begin_create_or_update
    seen: dict[str, Any] = {}
    made = sdk.accounts.begin_create(group, name, account()).result()
    seen["created"] = made.properties.provisioning_state
    seen["key2 stays"] = (
        sdk.accounts.list_keys(group, name).key2 == sdk.accounts.regenerate_key(group, name, "Key1").key2
    )
    seen["deployed"] = deploy(group, name, "chat", deployment(10)).result().properties.provisioning_state
    seen["scaled"] = deploy(group, name, "chat", deployment(20)).result().sku.capacity
    seen["deployments"] = [each.name for each in sdk.deployments.list(group, name)]
    seen["models"] = sorted({each.model.name for each in sdk.models.list(LOCATION)})
    usages = {each.name.value: each.current_value for each in sdk.usages.list(LOCATION)}
    seen["usage"] = usages["OpenAI.GlobalStandard.gpt-4o"]
    seen["with key"] = called(made.properties.endpoint, api_key=sdk.accounts.list_keys(group, name).key1)
    seen["with token"] = called(made.properties.endpoint, azure_ad_token_provider=token)
    seen["no such model"] = failed(lambda: deploy(group, name, "no", deployment(1, "no-such-model")))[:2]
    other = f"{name}-barred"
    barred.accounts.begin_create(group, other, account()).result()
    seen["barred"] = failed(lambda: barred.deployments.begin_create_or_update(group, other, "chat", deployment(1)))
    sdk.deployments.begin_delete(group, name, "chat").result()
    seen["left"] = [each.name for each in sdk.deployments.list(group, name)]
    sdk.accounts.begin_delete(group, name).result()
    seen["deleted"] = [each.name for each in sdk.deleted_accounts.list()]
    seen["recovered"] = sdk.accounts.begin_create(group, name, account(restore=True)).result().name == name
    sdk.accounts.begin_delete(group, name).result()
    sdk.deleted_accounts.begin_purge(LOCATION, group, name).result()
    seen["purged"] = [each.name for each in sdk.deleted_accounts.list()]
    return seen


def main() -> None:
    plan = json.load(sys.stdin)
    url, tenant = plan["url"], plan["tenant"]
    # The tenant `adfs` needs no flag; for any other the SDK would ask Microsoft whether it may trust us.
    more = {} if tenant == "adfs" else {"disable_instance_discovery": True}
    credential = ClientSecretCredential(tenant, plan["client_id"], plan["secret"], authority=url, **more)
    clients = [
        CognitiveServicesManagementClient(
            credential, plan[subscription], base_url=url, credential_scopes=[f"{url}/.default"]
        )
        for subscription in ("subscription", "barred")
    ]
    with clients[0], clients[1]:
        seen = life(clients[0], clients[1], plan, get_bearer_token_provider(credential, DATA))
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
