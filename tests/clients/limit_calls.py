"""Calls at once past a limit, by a client as it comes: `node/limits.mjs` does the same."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai


def outcome(client: openai.OpenAI) -> Any:
    try:
        answer = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hello"}], max_tokens=1
        )
        return answer.choices[0].finish_reason is not None
    except openai.APIError as error:
        return str(error)


def main() -> None:
    plan = json.load(sys.stdin)
    client = openai.OpenAI(base_url=f"{plan['root']}/v1", api_key=plan["key"])
    with client, ThreadPoolExecutor(plan["calls"]) as pool:
        made = list(pool.map(lambda _: outcome(client), range(plan["calls"])))
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
