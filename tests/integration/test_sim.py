"""The simulated upstream over real sockets: what it answers, how it fails, what it counts."""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from entrepot.cli.sim import app
from entrepot.errors import Code, Error
from entrepot.sim.counters import Counters
from entrepot.sim.server import Sim, simulated
from entrepot.sim.settings import Rule, Settings, Sse, parse_script

ROOT = Path(__file__).parents[2]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is an entrepot?"}]}
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def sim() -> Iterator[Sim]:
    with simulated(Settings(keep=10)) as running:
        yield running


class Reply:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(sim: Sim, path: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
    connection = http.client.HTTPConnection(sim.base_url.removeprefix("http://"), timeout=10)
    try:
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, headers or {})
        return Reply(connection.getresponse())
    finally:
        connection.close()


def chunks_of(body: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_same_request_gets_the_same_answer(sim: Sim) -> None:
    first, second = ask(sim, "/v1/chat/completions", CHAT), ask(sim, "/v1/chat/completions", CHAT)
    assert first.body == second.body
    other = ask(sim, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "else"}]})
    text = first.json["choices"][0]["message"]["content"]
    assert text != other.json["choices"][0]["message"]["content"]
    assert len(text.split()) == first.json["usage"]["completion_tokens"] == 16


def test_the_openai_sdk_reads_all_of_it(sim: Sim) -> None:
    with openai.OpenAI(base_url=sim.base_url + "/v1", api_key="k", max_retries=0) as client:
        whole = client.chat.completions.create(model="gpt-4o", messages=CHAT["messages"], n=2, max_tokens=5)
        assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 10
        streamed = list(
            client.chat.completions.create(
                model="gpt-4o", messages=CHAT["messages"], stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        assert text == ask(sim, "/v1/chat/completions", CHAT).json["choices"][0]["message"]["content"]
        assert streamed[-1].usage is not None
        assert [chunk.usage for chunk in streamed[:-1]] == [None] * (len(streamed) - 1)
        legacy = client.completions.create(model="gpt-4o", prompt="Once", max_tokens=3)
        assert len(legacy.choices[0].text.split()) == 3
        vectors = client.embeddings.create(model="e", input=["a", "b"], dimensions=8)
        assert [len(item.embedding) for item in vectors.data] == [8, 8]
        assert sum(value * value for value in vectors.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
        assert "gpt-4o" in [model.id for model in client.models.list()]
        assert client.models.retrieve("gpt-4o").owned_by == "simulated"


def test_tools_and_structured_output(sim: Sim) -> None:
    schema = {
        "type": "object",
        "properties": {"port": {"type": "string", "enum": ["Kobe"]}, "tons": {"$ref": "#/$defs/t"}, "x": {}},
        "required": ["port", "tons"],
        "$defs": {"t": {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}},
    }
    tools = [{"type": "function", "function": {"name": "ship", "parameters": schema}}]
    called = ask(sim, "/v1/chat/completions", {**CHAT, "tools": tools, "tool_choice": "required"}).json["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    function = called["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("ship", {"port": "Kobe", "tons": 3})
    named = {"type": "function", "function": {"name": "ship"}}
    stream = ask(sim, "/v1/chat/completions", {**CHAT, "tools": tools, "tool_choice": named, "stream": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(stream.body)]
    parts = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert json.loads("".join(parts)) == {"port": "Kobe", "tons": 3}
    free = ask(sim, "/v1/chat/completions", {**CHAT, "tools": tools, "tool_choice": "auto"}).json["choices"][0]
    assert free["message"]["content"]
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    formed = ask(sim, "/v1/chat/completions", {**CHAT, "response_format": wanted}).json
    assert json.loads(formed["choices"][0]["message"]["content"]) == {"port": "Kobe", "tons": 3}


def test_embeddings_are_the_same_numbers_in_both_encodings(sim: Sim) -> None:
    asked = {"model": "e", "input": "harbour", "dimensions": 4}
    floats = ask(sim, "/v1/embeddings", asked).json["data"][0]["embedding"]
    packed = ask(sim, "/v1/embeddings", {**asked, "encoding_format": "base64"}).json["data"][0]["embedding"]
    assert list(struct.unpack("<4f", base64.b64decode(packed))) == pytest.approx(floats)
    assert ask(sim, "/v1/embeddings", {"model": "e", "input": [[1, 2], [3]]}).json["usage"]["prompt_tokens"] == 3


def test_azures_wire(sim: Sim) -> None:
    path = "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    whole = ask(sim, path, {"messages": CHAT["messages"]}, {"api-key": "k"})
    assert whole.json["prompt_filter_results"][0]["content_filter_results"]["hate"] == {
        "filtered": False,
        "severity": "safe",
    }
    assert whole.headers["apim-request-id"]
    stream = ask(sim, path, {"messages": CHAT["messages"], "stream": True})
    first, *rest = chunks_of(stream.body)
    assert (first["id"], first["choices"], "prompt_filter_results" in first) == ("", [], True)
    assert all("content_filter_results" in chunk["choices"][0] for chunk in rest)
    assert ask(sim, "/openai/v1/chat/completions", CHAT).status == 200
    assert ask(sim, "/openai/models?api-version=2024-10-21").json["data"][0]["created_at"]
    for wrong in (
        "/openai/deployments/mine/chat/completions",
        "/openai/chat/completions?api-version=2024-10-21",
        "/openai/deployments/mine/models?api-version=2024-10-21",
        "/openai/deployments/mine/nothing?api-version=2024-10-21",
    ):
        assert ask(sim, wrong, CHAT).json == {"error": {"code": "404", "message": "Resource not found"}}


def test_one_api_one_key_and_given_models_only() -> None:
    with simulated(Settings(api="azure", key="right", models=("here",))) as sim:
        key = {"api-key": "right"}
        body = {"messages": CHAT["messages"]}
        assert ask(sim, "/v1/models", headers=key).status == 404
        assert ask(sim, "/openai/v1/models").json["error"]["code"] == "401"
        assert ask(sim, "/openai/v1/models", headers={"authorization": "Bearer right"}).status == 200
        query = "chat/completions?api-version=2024-10-21"
        assert ask(sim, f"/openai/deployments/here/{query}", body, key).status == 200
        gone = ask(sim, f"/openai/deployments/gone/{query}", body, key)
        assert (gone.status, gone.json["error"]["code"]) == (404, "DeploymentNotFound")
        assert sim.counters.keys == {"right": 4, "": 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({**CHAT, "n": 0}, 400),
        ({**CHAT, "messages": []}, 400),
        ({"messages": CHAT["messages"]}, 400),
        ([], 400),
    ],
)
def test_what_a_real_service_refuses(sim: Sim, body: object, status: int) -> None:
    answer = ask(sim, "/v1/chat/completions", body)
    assert answer.status == status
    assert answer.json["error"]["message"]


@pytest.mark.parametrize("status", [201, 302])
def test_every_call_gets_the_status_that_is_set(status: int) -> None:
    with simulated(Settings(status=status)) as sim:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            asked = {**CHAT, "prompt": "x", "input": "x"}
            assert ask(sim, path, asked).status == status
            assert ask(sim, path, {**asked, "stream": True}).status == status
        assert ask(sim, "/v1/models").status == status


def test_statuses_and_a_repeatable_share_of_failures() -> None:
    with simulated(Settings(status=429)) as sim:
        limited = ask(sim, "/v1/chat/completions", CHAT)
        assert (limited.status, limited.json["error"]["code"]) == (429, "rate_limit_exceeded")
        sim.use(Settings(fail_rate=0.5, seed=3))
        first = [ask(sim, "/v1/chat/completions", CHAT).status for _ in range(20)]
        sim.use(Settings(fail_rate=0.5, seed=3))
        assert [ask(sim, "/v1/chat/completions", CHAT).status for _ in range(20)] == first
        assert set(first) == {200, 500}


def test_a_script_matches_in_order_and_so_many_times() -> None:
    script = parse_script("""
        [[answer]]
        match = { model = "gpt-4o", header = { X-Test = "limit" } }
        times = 2
        error = "rate_limit_exceeded"
        headers = { Retry-After = "1" }

        [[answer]]
        match = { path = "/v1/emb*" }
        status = 418
        json = { tea = true }

        [[answer]]
        text = "äöü 港"
    """)
    with simulated(Settings(script=script)) as sim:
        answers = [ask(sim, "/v1/chat/completions", CHAT, {"x-test": "limit"}) for _ in range(3)]
        assert [answer.status for answer in answers] == [429, 429, 200]
        assert answers[0].headers["retry-after"] == "1"
        assert answers[2].json["choices"][0]["message"]["content"] == "äöü 港"
        tea = ask(sim, "/v1/embeddings", {"model": "e", "input": "x"})
        assert (tea.status, tea.json) == (418, {"tea": True})


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("[[answer]]\nstatus = 99", "$.answer[0].status"),
        ("[[answer]]\nspeed = 3", "`speed`"),
        ("[[answer]]\nerror = 'oops'", "answer 1: `oops` is no error code"),
        ("[[answer", "script"),
        ("[[answer]]\nsse = { line_end = 'x' }", "line_end"),
    ],
)
def test_a_wrong_script_is_refused_with_the_place(script: str, said: str) -> None:
    with pytest.raises(Error, match=re.escape(said)) as raised:
        parse_script(script, "a script")
    assert raised.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize(
    ("sse", "seen"),
    [
        (Sse(line_end="crlf"), b"}\r\n\r\ndata: {"),
        (Sse(line_end="cr"), b"}\r\rdata: {"),
        (Sse(space=False), b"\n\ndata:{"),
        (Sse(comments=True), b": ping\n\ndata: {"),
        (Sse(event_lines=True), b"event: message\ndata: {"),
        (Sse(bom=True), b"\xef\xbb\xbfdata: {"),
        (Sse(usage="last"), b'"finish_reason":"stop"}],"usage":{"prompt_tokens":'),
        (Sse(usage="every"), b'"completion_tokens":2,'),
    ],
)
def test_spellings_of_a_stream(sse: Sse, seen: bytes) -> None:
    with simulated(Settings(script=(Rule(sse=sse),))) as sim:
        assert seen in ask(sim, "/v1/chat/completions", {**CHAT, "stream": True}).body


def test_a_stream_in_small_blocks_and_without_done(sim: Sim) -> None:
    asked = {**CHAT, "stream": True}
    plain = ask(sim, "/v1/chat/completions", asked).body
    sim.use(Settings(script=(Rule(sse=Sse(split_bytes=7)),)))
    assert ask(sim, "/v1/chat/completions", asked).body == plain
    sim.use(Settings(script=(Rule(sse=Sse(done=False, usage="never")),)))
    assert ask(sim, "/v1/chat/completions", asked).body == plain.removesuffix(DONE)
    sim.use(Settings(chunks=4))
    four = ask(sim, "/v1/chat/completions", asked).body
    assert sum("content" in chunk["choices"][0]["delta"] for chunk in chunks_of(four)) == 1 + 4
    assert sim.counters.completion_tokens == 4 * 16


def raw(sim: Sim, body: object) -> tuple[bytes, bool]:
    """Everything that comes until the connection ends, and whether it ended by a reset."""
    host, _, port = sim.base_url.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
        got = b""
        try:
            while block := sock.recv(65536):
                got += block
        except ConnectionResetError:
            return got, True
        return got, False


@pytest.mark.parametrize(("fault", "reset"), [("cut", False), ("reset", True), ("garbage", False)])
@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_break_off(fault: Any, reset: bool, stream: bool) -> None:
    with simulated(Settings(script=(Rule(fault=fault, after=3),))) as sim:
        got, was_reset = raw(sim, {**CHAT, "stream": stream})
        assert was_reset is reset
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        if stream:
            assert len(chunks_of(got)) == 3
            assert not got.endswith(b"0\r\n\r\n")
            assert sim.counters.completion_tokens == 2
        else:
            assert b'\r\n\r\n{"i' in got
        assert (b"\x16\x03\x01" in got) is (fault == "garbage")
        sim.use(Settings(script=(Rule(fault="garbage"),)))
        assert raw(sim, CHAT)[0].startswith(b"\x16\x03\x01")


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_answers_that_never_come_end_with_the_client(fault: Any) -> None:
    with simulated(Settings(script=(Rule(fault=fault, after=2),))) as sim:
        host, _, port = sim.base_url.removeprefix("http://").partition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=10)
        client.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
        if fault == "stall":
            answer = client.getresponse()
            assert answer.status == 200
            answer.close()
        until(lambda: sim.counters.requests == 1)
        assert sim.connections == 1
        client.close()
        until(lambda: sim.connections == 0)
        assert sim.counters.abandoned == 1


def test_pace_spreads_the_chunks() -> None:
    with simulated(Settings(ttft_ms=30, pace_ms=10, tokens=5)) as sim:
        begin = time.monotonic()
        ask(sim, "/v1/chat/completions", {**CHAT, "stream": True})
        assert time.monotonic() - begin >= 0.03 + 5 * 0.01


def test_counters_and_requests_over_http_do_not_count_themselves(sim: Sim) -> None:
    assert ask(sim, "/sim/counters").json["connections"] == 0
    whole = ask(sim, "/v1/chat/completions", CHAT, {"authorization": "Bearer k", "x-y": "z"})
    counted = ask(sim, "/sim/counters").json
    usage = whole.json["usage"]
    assert counted == {
        "connections": 1,
        "open": 0,
        "requests": 1,
        "abandoned": 0,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "statuses": {"200": 1},
        "models": {"gpt-4o": 1},
        "keys": {"k": 1},
    }
    (seen,) = ask(sim, "/sim/requests").json
    assert (seen["path"], seen["headers"]["x-y"], json.loads(seen["body"])) == ("/v1/chat/completions", "z", CHAT)
    assert ask(sim, "/sim/other").status == 404
    with socket.create_connection(("127.0.0.1", int(sim.base_url.rpartition(":")[2]))):
        until(lambda: sim.counters.connections == 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_stops_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('[[answer]]\ntext = "scripted"\nfault = "stall"\nafter = 1\nmatch = { model = "slow" }\n')
    command = [sys.executable, "-m", "entrepot", "sim", "--script", str(script), "--tokens", "3", "--verbose"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            host = line.removeprefix("simulated upstream on http://").strip()
            client = http.client.HTTPConnection(host, timeout=10)
            client.request("POST", "/v1/chat/completions", json.dumps(CHAT))
            assert Reply(client.getresponse()).json["usage"]["completion_tokens"] == 3
            client.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "model": "slow", "stream": True}))
            assert client.getresponse().status == 200
            process.send_signal(number)
            _, log = process.communicate(timeout=10)
            client.close()
        finally:
            process.kill()
    assert process.returncode == 0
    assert '"event":"connection opened"' in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--script", "/nonexistent"], "cannot be read"),
        (["--status", "99"], "equal to 200"),
    ],
)
def test_the_command_refuses_wrong_options(options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, options)
    assert done.exit_code in {1, 2}
    assert said in done.stderr


def test_every_option_and_script_key_is_documented() -> None:
    text = (ROOT / "docs/sim.md").read_text(encoding="utf-8")
    options = [name for option in get_command(app).params for name in (*option.opts, *option.secondary_opts)]
    assert len(options) > 10
    assert [option for option in options if f"`{option}`" not in text] == []
    assert [key for key in (*Rule.__struct_fields__, *Sse.__struct_fields__) if f"`{key}`" not in text] == []
    assert [key for key in Counters().as_json() if f"`{key}`" not in text] == []
