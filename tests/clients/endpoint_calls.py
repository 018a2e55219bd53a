"""Calls at an account's endpoint as Azure names it, with whichever `openai` this interpreter has; prints results.

Standard input is `{"endpoint", "key", "token"}` and perhaps the deployment, `"model"`; the results are what each way of
calling got. `node/endpoint.mjs` does the same with the SDK for Node.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

MESSAGES: list[Any] = [{"role": "user", "content": "What is a receipt?"}]
VERSION = "2024-10-21"


def got(client: Any, model: str) -> Any:
    try:
        with client:
            answer = client.chat.completions.create(model=model, messages=MESSAGES)
            listed = [model.id for model in client.models.list()]
    except openai.APIStatusError as error:
        return [error.status_code, error.code]
    return [answer.choices[0].message.content, listed]


def main() -> None:
    asked = json.load(sys.stdin)
    endpoint, key, token, model = asked["endpoint"], asked["key"], asked["token"], asked.get("model", "gpt-4o")
    azure = openai.AzureOpenAI
    clients = {
        "azure, key": azure(azure_endpoint=endpoint, api_key=key, api_version=VERSION),
        "azure, deployment": azure(azure_endpoint=endpoint, azure_deployment=model, api_key=key, api_version=VERSION),
        "azure, token": azure(azure_endpoint=endpoint, azure_ad_token=token, api_version=VERSION),
        "azure, token provider": azure(
            azure_endpoint=endpoint, azure_ad_token_provider=lambda: token, api_version=VERSION
        ),
        "azure, bad token": azure(azure_endpoint=endpoint, azure_ad_token=token + "x", api_version=VERSION),
        "v1, key": openai.OpenAI(base_url=f"{endpoint}openai/v1/", api_key=key),
        "v1, token": openai.OpenAI(base_url=f"{endpoint}openai/v1/", api_key=token),
        "openai, key": openai.OpenAI(base_url=f"{endpoint}/v1", api_key=key),
    }
    results = {name: got(client, model) for name, client in clients.items()}
    json.dump({"version": openai.__version__, "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
