"""Event streams through a gateway: what the strictest client gets, whatever the upstream sent, to its very end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from entrepot.sim.settings import Rule, Settings, Sse
from harness import Answer, House, ask, asked, body_of, opened, raw, to_end

CHAT = "/v1/chat/completions"
CUT = "the model's answer broke off; what was received so far is incomplete"


def stream(house: House, path: str = CHAT, model: str = "gpt-4o", **more: Any) -> Answer:
    answer = ask(house.gateway.data, path, body_of(model, stream=True, **more), house.key())
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-ms-region"] == "Japan East"
    assert answer.headers["transfer-encoding"] == "chunked"
    return answer


def events(answer: Answer) -> list[str]:
    """The data of each event; every octet must be in one."""
    text = answer.body.decode()
    assert text.endswith("\n\n")
    found = text[:-2].split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in found), text
    return [event.removeprefix("data: ") for event in found]


def content(data: list[str]) -> str:
    chunks = [json.loads(event) for event in data if event != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


@pytest.mark.parametrize("asked_for", [True, False])
def test_usage_comes_to_the_client_that_asked_for_it(house: House, asked_for: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if asked_for else {}
    data = events(stream(house, **more))
    assert data[-1] == "[DONE]"
    with_usage = [event for event in data[:-1] if json.loads(event).get("usage")]
    assert len(with_usage) == asked_for
    assert content(data)


@pytest.mark.parametrize(
    "path", ["/openai/v1/chat/completions", "/openai/deployments/on-azure/chat/completions?api-version=2024-10-21"]
)
def test_azure_s_first_and_last_chunks_pass(house: House, path: str) -> None:
    data = events(stream(house, path, "on-azure"))
    assert json.loads(data[0])["choices"] == []
    assert json.loads(data[0])["prompt_filter_results"]
    assert data[-1] == "[DONE]"


def test_clean_bytes_pass_untouched(house: House) -> None:
    asked_for = {"stream_options": {"include_usage": True}}
    body = json.loads(body_of(stream=True, **asked_for)) | {"model": "gpt-4o-upstream"}
    address = house.openai.base_url.removeprefix("http://").split(":")
    with opened(type(house.gateway.data)(address[0], int(address[1]))) as connection:
        direct = asked(connection, CHAT, json.dumps(body, separators=(",", ":")).encode(), "k")
    through = stream(house, **asked_for)
    assert len(events(through)) == len(events(direct))
    assert [e for e in events(through) if "created" not in e] == [e for e in events(direct) if "created" not in e]


@pytest.mark.parametrize(
    "sse",
    [
        Sse(line_end="crlf"),
        Sse(line_end="cr"),
        Sse(space=False),
        Sse(comments=True),
        Sse(event_lines=True),
        Sse(bom=True),
        Sse(split_bytes=1),
        Sse(split_bytes=7, line_end="crlf", comments=True, event_lines=True, bom=True, space=False),
        Sse(usage="last"),
        Sse(usage="every"),
        Sse(usage="never"),
    ],
    ids=repr,
)
def test_unusual_spellings_are_made_usual(house: House, sse: Sse) -> None:
    text = "äöü 港 and a plain end"
    house.openai.use(Settings(script=(Rule(text=text, sse=sse),)))
    data = events(stream(house))
    assert content(data) == text
    assert data[-1] == "[DONE]"


def test_an_upstream_that_ends_without_done_is_told_of(house: House) -> None:
    house.openai.use(Settings(script=(Rule(sse=Sse(done=False)),)))
    data = events(stream(house))
    assert json.loads(data[-1])["error"]["code"] == "upstream_cut"


@pytest.mark.parametrize("fault", ["cut", "reset", "garbage"])
@pytest.mark.parametrize("after", [1, 5])
@pytest.mark.parametrize("path", [CHAT, "/openai/v1/chat/completions"])
def test_a_stream_that_breaks_off_ends_in_an_error(house: House, fault: Any, after: int, path: str) -> None:
    house.openai.use(Settings(script=(Rule(fault=fault, after=after, pace_ms=10),)))
    before = house.gateway.metric('entrepot_calls_total{operation="chat",outcome="cut",status="200"}')
    told = house.gateway.metric('entrepot_errors_total{code="upstream_cut"}')
    data = events(stream(house, path))
    assert len(data) == after + 1
    error = json.loads(data[-1])["error"]
    assert error["message"] == CUT
    assert error["code"] == ("upstream_cut" if path == CHAT else "BadGateway")
    assert house.gateway.metric('entrepot_calls_total{operation="chat",outcome="cut",status="200"}') == before + 1
    assert house.gateway.metric('entrepot_errors_total{code="upstream_cut"}') == told + 1
    assert (house.gateway.events[-1]["event"], house.gateway.events[-1]["upstream"]) == ("upstream broke off", "main")


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_what_breaks_off_after_the_last_event_is_whole(house: House, fault: Any) -> None:
    house.openai.use(Settings(script=(Rule(fault=fault, after=1_000, tokens=3, pace_ms=10),)))
    data = events(stream(house))
    assert data[-1] == "[DONE]"
    assert not any("error" in json.loads(event) for event in data[:-1])


def test_the_connection_serves_on_after_a_broken_stream(house: House) -> None:
    house.openai.use(Settings(script=(Rule(fault="cut", after=2, pace_ms=10, times=1),)))
    with opened(house.gateway.data) as connection:
        assert b"upstream_cut" in asked(connection, CHAT, body_of(stream=True), house.key()).body
        assert asked(connection, CHAT, body_of(stream=True), house.key()).body.endswith(b"data: [DONE]\n\n")


def test_the_upstream_s_own_error_event_passes_and_ends_it(house: House) -> None:
    event = b'data: {"choices":[]}\n\ndata: {"error":{"message":"overloaded","code":"x"}}\n\n'
    with scripted_upstream(house, event):
        data = events(stream(house))
    assert [json.loads(d) for d in data] == [{"choices": []}, {"error": {"message": "overloaded", "code": "x"}}]


def test_an_answer_that_is_not_a_stream_passes_as_it_is(house: House) -> None:
    house.openai.use(Settings(script=(Rule(body='{"choices":[]}', headers={"content-type": "application/json"}),)))
    answer = ask(house.gateway.data, CHAT, body_of(stream=True), house.key())
    assert (answer.status, answer.body) == (200, b'{"choices":[]}')
    assert answer.headers["content-length"] == "14"


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(house: House) -> None:
    body = body_of(stream=True)
    head = f"POST {CHAT} HTTP/1.0\r\nhost: a\r\napi-key: {house.key()}\r\ncontent-length: {len(body)}\r\n\r\n"
    with raw(house.gateway.data, head.encode() + body) as sock:
        answer = to_end(sock)
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


@contextmanager
def scripted_upstream(house: House, events: bytes) -> Iterator[None]:
    """The upstream answers with a body of the type of a stream, whatever the simulated one would say."""
    script = Rule(body=events.decode(), headers={"content-type": "text/event-stream"})
    house.openai.use(Settings(script=(script,)))
    yield
