"""The real engine on the real demonstration model."""

from __future__ import annotations

import http.client
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from entrepot.engine import DEMO_MODEL, Engine
from entrepot.errors import Error

ENTREPOT = (
    "An entrepot is a port where goods are brought in, stored and sent on to other countries under local customs rules."
)
RECEIPT = "A receipt is proof that a decision was recorded."


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.start(DEMO_MODEL, alias="entrepot-tiny") as engine:
        yield engine


def post(engine: Engine, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def chat(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": "entrepot-tiny", "messages": [{"role": "user", "content": question}], "temperature": 0} | fields


def text_of(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    events = body.decode().strip().split("\n\n")
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def reachable(engine: Engine) -> bool:
    try:
        post(engine, "/v1/completions", {"prompt": "x", "max_tokens": 1})
    except ConnectionError:
        return False
    return True


def test_the_file_is_small() -> None:
    assert 1_000_000 < DEMO_MODEL.stat().st_size < 6_000_000


@pytest.mark.parametrize(
    ("question", "beginning"),
    [
        ("What is an entrepot?", ENTREPOT),
        ("Please tell me: what is an entrepot?", ENTREPOT),
        ("What is a receipt?", RECEIPT),
        ("Who is refused?", "A call is refused when a rule forbids it or when no rule permits it."),
        ("What is a giraffe?", "I am a tiny demonstration model"),
    ],
)
def test_it_answers(engine: Engine, question: str, beginning: str) -> None:
    status, body = post(engine, "/v1/chat/completions", chat(question))
    assert status == 200
    assert text_of(body).startswith(beginning)
    answer = json.loads(body)
    assert answer["model"] == "entrepot-tiny"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert 0 < answer["usage"]["completion_tokens"] < 100


def test_it_takes_a_system_message_and_several_turns(engine: Engine) -> None:
    messages = [
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": "What is an entrepot?"}]},
        {"role": "assistant", "content": ENTREPOT},
        {"role": "user", "content": "What is a receipt?"},
    ]
    status, body = post(engine, "/v1/chat/completions", {"messages": messages, "temperature": 0})
    assert status == 200
    assert text_of(body).startswith(RECEIPT)


def test_a_stream_says_the_same_and_ends_with_the_usage(engine: Engine) -> None:
    _, whole = post(engine, "/v1/chat/completions", chat("What is a receipt?"))
    _, body = post(
        engine, "/v1/chat/completions", chat("What is a receipt?", stream=True, stream_options={"include_usage": True})
    )
    *chunks, last = chunks_of(body)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text_of(whole)
    assert len(chunks) > 10
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == json.loads(whole)["usage"]["completion_tokens"]


def test_completions_embeddings_and_a_schema_beside_chat(engine: Engine) -> None:
    status, body = post(engine, "/v1/completions", {"prompt": "A receipt is", "temperature": 0, "max_tokens": 40})
    assert (status, json.loads(body)["choices"][0]["text"][:6]) == (200, " proof")

    status, body = post(engine, "/v1/embeddings", {"input": ["a port", "a rule"]})
    assert status == 200
    assert [len(row["embedding"]) for row in json.loads(body)["data"]] == [192, 192]

    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
    status, body = post(engine, "/v1/chat/completions", chat("Hello", response_format=form, max_tokens=50))
    assert status == 200
    assert isinstance(json.loads(text_of(body))["ok"], bool)


def test_a_request_with_tools_is_answered(engine: Engine) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    status, body = post(engine, "/v1/chat/completions", chat("What is a receipt?", tools=[tool]))
    assert status == 200
    assert text_of(body).startswith(RECEIPT)


def test_it_prints_nothing_and_logs_where_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "engine.log"
    with Engine.start(DEMO_MODEL, alias="m", log=log) as engine:
        assert reachable(engine)
    assert not engine.running
    assert not reachable(engine)
    engine.stop()
    assert capfd.readouterr() == ("", "")
    assert "listening" in log.read_text()


def test_it_ends_when_its_parent_is_killed() -> None:
    parent = (
        "import os, signal; from entrepot.engine import *\n"
        "engine = Engine.start(DEMO_MODEL, alias='m')\n"
        "print(engine.port, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=False, timeout=60)
    connection = http.client.HTTPConnection("127.0.0.1", int(done.stdout), timeout=5)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            connection.connect()
        except ConnectionRefusedError:
            return
        connection.close()
        time.sleep(0.05)
    pytest.fail("the engine outlived its parent")


def test_a_start_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Error, match="no model file at"):
        Engine.start(tmp_path / "none.gguf", alias="m")

    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    with pytest.raises(Error, match=r"engine did not start on .*invalid magic"):
        Engine.start(bad, alias="m")

    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(Error, match=r"pip install 'entrepot\[local\]'"):
            Engine.start(DEMO_MODEL, alias="m")
