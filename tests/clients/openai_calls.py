"""Makes the calls of a plan, read from standard input, with whichever `openai` this interpreter has; prints results.

A plan is `{"root", "metrics", "cases": [{"clients", "key", "scenario", "model", "retries"}]}`; the results are a list
for the synchronous classes and one for the asynchronous ones. `node/calls.mjs` does the same with the SDK for Node.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
import sys
import traceback
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import openai
from pydantic import BaseModel

MESSAGES: list[Any] = [{"role": "user", "content": "What is a receipt?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = {
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}],
    "tool_choice": "required",
}


class Verdict(BaseModel):
    permitted: bool
    channel: Literal["direct", "cloud"]
    rules: list[str]


async def got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def each(stream: Any) -> AsyncIterator[Any]:
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            yield item
    else:
        for item in stream:
            yield item


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def create(client: Any, model: str, **more: Any) -> Any:
    return await got(client.chat.completions.create(model=model, messages=MESSAGES, **more))


async def chat(client: Any, model: str) -> Any:
    answer = await create(client, model)
    return {
        "text": answer.choices[0].message.content,
        "finish": answer.choices[0].finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
        "request_id": bool(answer._request_id),
    }


async def told(client: Any, model: str) -> Any:
    """The first sentence of a real model, without chance."""
    return (await create(client, model, temperature=0)).choices[0].message.content.partition(".")[0]


async def raw(client: Any, model: str) -> Any:
    answer = await got(client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES))
    headers, parsed = answer.headers, await got(answer.parse())
    request_id, guid = headers["x-request-id"], headers["apim-request-id"]
    return {
        "request_id": {f"req_{guid.replace('-', '')}": "openai", guid: "azure"}.get(request_id),
        "same": parsed._request_id == request_id,
        "region": headers["x-ms-region"],
        "content_type": headers["content-type"],
    }


async def streamed(client: Any, model: str, **more: Any) -> Any:
    """What a client has of a stream, also of one that breaks off."""
    text, finish, usage = "", [], []
    seen: dict[str, Any] = {}
    try:
        async for chunk in each(await create(client, model, stream=True, **more)):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            finish += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            if chunk.usage:
                usage.append([chunk.usage.prompt_tokens, chunk.usage.completion_tokens, len(chunk.choices)])
    except openai.APIError as error:
        seen = described(error)
    return {"text": text, "finish": finish, "usage": usage, **seen}


async def streamed_usage(client: Any, model: str) -> Any:
    return await streamed(client, model, stream_options={"include_usage": True})


async def stream_told(client: Any, model: str) -> Any:
    seen = await streamed(client, model, temperature=0, stream_options={"include_usage": True})
    return {**seen, "text": seen["text"].partition(".")[0], "usage": len(seen["usage"])}


async def stream_helper(client: Any, model: str) -> Any:
    deltas = ""
    async with entered(client.chat.completions.stream(model=model, messages=MESSAGES)) as stream:
        async for event in each(stream):
            deltas += event.delta if event.type == "content.delta" else ""
        final = await got(stream.get_final_completion())
    return {"deltas": deltas, "text": final.choices[0].message.content, "finish": final.choices[0].finish_reason}


async def tools(client: Any, model: str) -> Any:
    choice = (await create(client, model, **TOOLS)).choices[0]
    function = choice.message.tool_calls[0].function
    return {"name": function.name, "arguments": json.loads(function.arguments), "finish": choice.finish_reason}


async def tools_streamed(client: Any, model: str) -> Any:
    name = arguments = finish = ""
    async for chunk in each(await create(client, model, stream=True, **TOOLS)):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    return {"name": name, "arguments": json.loads(arguments), "finish": finish}


async def schema(client: Any, model: str) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": PARAMETERS}}
    return json.loads((await create(client, model, response_format=wanted)).choices[0].message.content)


async def parsed(client: Any, model: str) -> Any:
    completions = client.chat.completions
    answer = await got(completions.parse(model=model, messages=MESSAGES, response_format=Verdict))
    verdict = answer.choices[0].message.parsed
    assert isinstance(verdict, Verdict)
    return verdict.model_dump()


async def completions(client: Any, model: str) -> Any:
    answer = await got(client.completions.create(model=model, prompt="An entrepot is"))
    return {"text": answer.choices[0].text, "finish": answer.choices[0].finish_reason}


async def completions_streamed(client: Any, model: str) -> Any:
    text, finish, usage = "", "", 0
    async for chunk in each(await got(client.completions.create(model=model, prompt="A port", stream=True))):
        usage += chunk.usage is not None
        for choice in chunk.choices:
            text, finish = text + choice.text, choice.finish_reason or finish
    return {"text": text, "finish": finish, "usage": usage}


async def embeddings(client: Any, model: str) -> Any:
    """As base64, which the SDK asks for and decodes, and as numbers: the same vectors."""
    packed = await got(client.embeddings.create(model=model, input=["a port", "a rule"]))
    plain = await got(client.embeddings.create(model=model, input=["a port", "a rule"], encoding_format="float"))
    vectors = [row.embedding for row in packed.data]
    pairs = [
        (a, b) for one, row in zip(vectors, plain.data, strict=True) for a, b in zip(one, row.embedding, strict=True)
    ]
    return {
        "sizes": [len(vector) for vector in vectors],
        "same": all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in pairs),
        "lengths": [round(math.hypot(*vector), 3) for vector in vectors],
        "counted": packed.usage.prompt_tokens > 0,
    }


async def models(client: Any, model: str) -> Any:
    page = await got(client.models.list())
    return sorted(each_model.id for each_model in page.data)


async def retrieve(client: Any, model: str) -> Any:
    return (await got(client.models.retrieve(model))).id


async def ambiguous(client: Any, model: str) -> Any:
    return await create(client, model, extra_body={"Model": "another"})


async def keyless(client: Any, model: str) -> Any:
    return await create(client, model, extra_headers={"Authorization": openai.Omit(), "api-key": openai.Omit()})


async def elsewhere(client: Any, model: str) -> Any:
    """An operation of the SDK that the gateway does not have."""
    return await got(client.moderations.create(input="x", model=model))


SCENARIOS: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
    scenario.__name__: scenario
    for scenario in (
        *(chat, told, raw, streamed, streamed_usage, stream_told, stream_helper, tools, tools_streamed, schema, parsed),
        *(completions, completions_streamed, embeddings, models, retrieve, ambiguous, keyless, elsewhere),
    )
}


def described(error: openai.APIError) -> dict[str, Any]:
    seen = {
        "raised": type(error).__name__,
        "code": error.code,
        "message": error.body.get("message") if isinstance(error.body, dict) else None,
        "inner": error.body.get("innererror") if isinstance(error.body, dict) else None,
    }
    if isinstance(error, openai.APIStatusError):
        seen["status"] = error.status_code
        seen["request_id"] = bool(error.request_id)
        seen |= {name: error.response.headers.get(name) for name in ("x-should-retry", "retry-after")}
    return seen


def opened(name: str, root: str, mode: str) -> Any:
    """A client of the class and base address that `name` stands for; `kanto` is the account in paths."""
    plain = openai.OpenAI if mode == "sync" else openai.AsyncOpenAI
    azure = openai.AzureOpenAI if mode == "sync" else openai.AsyncAzureOpenAI
    at, version = f"{root}/accounts/kanto", "2024-10-21"
    if name == "azure":
        return azure(azure_endpoint=root, api_key="set later", api_version=version)
    if name == "azure-account":
        return azure(azure_endpoint=at, api_key="set later", api_version="2025-04-01-preview")
    if name == "azure-deployment":
        return azure(azure_endpoint=root, azure_deployment="gpt-4o", api_key="set later", api_version=version)
    bases = {"openai": f"{root}/v1", "v1": f"{root}/openai/v1/", "openai-account": f"{at}/v1"}
    return plain(base_url={**bases, "v1-account": f"{at}/openai/v1/"}[name], api_key="set later")


def requests_seen(metrics: str) -> dict[str, int]:
    """Requests that the gateway has answered so far, by status."""
    with urllib.request.urlopen(metrics) as answer:
        text = answer.read().decode()
    seen: dict[str, int] = {}
    for status, count in re.findall(r'^entrepot_calls_total\{.*status="(\d+)".*\} (\d+)', text, re.MULTILINE):
        seen[status] = seen.get(status, 0) + int(count)
    return seen


async def make(plan: Any, mode: str) -> list[Any]:
    made = []
    async with AsyncExitStack() as open_clients:
        clients = {}
        for name in sorted({client for case in plan["cases"] for client in case["clients"]}):
            clients[name] = await open_clients.enter_async_context(entered(opened(name, plan["root"], mode)))
        before = requests_seen(plan["metrics"])
        for case in plan["cases"]:
            results = {}
            for name in case["clients"]:
                client = clients[name].copy(api_key=case["key"], max_retries=case["retries"])
                results[name] = await outcome(client, case["scenario"], case["model"])
            after = requests_seen(plan["metrics"])
            seen = {status: count - before.get(status, 0) for status, count in after.items()}
            made.append({"results": results, "requests": {status: count for status, count in seen.items() if count}})
            before = after
    return made


async def outcome(client: Any, scenario: str, model: str) -> Any:
    try:
        return await SCENARIOS[scenario](client, model)
    except openai.APIError as error:
        return described(error)
    except Exception:  # noqa: BLE001  one broken call is one failed test
        return traceback.format_exc()


def main() -> None:
    plan = json.load(sys.stdin)
    results = {mode: asyncio.run(make(plan, mode)) for mode in ("sync", "async")}
    json.dump({"version": openai.__version__, "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
