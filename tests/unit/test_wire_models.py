from __future__ import annotations

import json

import pytest

from entrepot.wire.forms import Form
from entrepot.wire.headers import relayed
from entrepot.wire.models import Listed, item, listing
from entrepot.wire.reported import Usage
from entrepot.wire.usage import estimated, usage_in_part, usage_of

CHAT = Listed("my-chat", "gpt-4o", "2024-11-20", "openai")
CHAT_TOO = Listed("other", "gpt-4o", "2024-11-20", "openai")
EMBED = Listed("emb", "text-embedding-3-small", "1", "openai")


@pytest.mark.parametrize("form", [Form.OPENAI, Form.AZURE_V1])
def test_deployments_are_listed_by_the_name_that_calls_give(form: Form) -> None:
    listed = json.loads(listing([CHAT, EMBED], form))
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "my-chat", "object": "model", "created": 1732060800, "owned_by": "openai"}
    assert listed["data"][1]["created"] == 0
    assert json.loads(item(CHAT, form)) == listed["data"][0]


def test_azure_classic_lists_base_models_once() -> None:
    listed = json.loads(listing([CHAT, CHAT_TOO, EMBED], Form.AZURE))
    assert [each["id"] for each in listed["data"]] == ["gpt-4o-2024-11-20", "text-embedding-3-small-1"]
    first, second = listed["data"]
    assert first["created_at"] == 1732060800
    assert not {"created", "owned_by"} & set(first)
    assert first["capabilities"]["chat_completion"]
    assert second["capabilities"]["embeddings"]
    assert json.loads(item(CHAT, Form.AZURE)) == first


def test_only_named_headers_are_relayed() -> None:
    given = {
        "content-type": "application/json",
        "x-request-id": "r",
        "apim-request-id": "r",
        "x-ms-region": "r",
        "x-ratelimit-remaining-tokens": "1",
        "set-cookie": "c",
        "connection": "close",
        "transfer-encoding": "chunked",
        "content-length": "1",
        "retry-after": "3",
    }
    assert relayed(given) == [("content-type", "application/json"), ("retry-after", "3")]


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}', Usage(3, 4)),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', Usage(3, 0)),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":null,"completion_tokens":1}}', Usage(3, 1)),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-3}}', None),
        (b'{"usage":{"prompt_tokens":1e99}}', None),
        (b"{}", None),
        (b"[]", None),
        (b"nonsense", None),
        (b"", None),
        (b"[" * 10_000, None),
    ],
)
def test_usage_of_a_whole_answer(body: bytes, usage: Usage | None) -> None:
    assert usage_of(body) == usage


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":4},"choices":[{"te', Usage(3, 4)),
        (
            b'{"usage": {"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens":4},"x',
            Usage(3, 4, 2),
        ),
        (b'{"usage":{"prompt_tokens":3,"completion_tok', None),
        (b'{"choices":[{"text":"the \\"usage\\":{}', None),
        (b"", None),
        (b'{"usage"' + b"}" * 100_000, None),
    ],
)
def test_usage_of_an_answer_that_broke_off(body: bytes, usage: Usage | None) -> None:
    assert usage_in_part(body) == usage


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"model":"a-long-name","messages":[{"role":"user","content":"twelve bytes"}]}', 3),
        (b'{"messages":[{"role":"user","content":[{"type":"text","text":"\xc3\xa9\xc3\xa9\xc3\xa9"}]}]}', 2),
        (b'{"prompt":["four","five!"],"user":"nobody"}', 3),
        (b'{"choices":[{"message":{"role":"assistant","content":"12345678"},"finish_reason":"stop"}]}', 2),
        (b'{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}', 1),
        (b'{"input":[1,2,3]}', 0),
        (b"no JSON", 0),
        (b"[" * 100_000, 0),
    ],
)
def test_tokens_are_estimated_from_the_text(body: bytes, tokens: int) -> None:
    assert estimated(body) == tokens
