"""Runs the cases of `wire/*.json`: error bodies, event streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entrepot.errors import Code, Error
from entrepot.wire.forms import Form
from entrepot.wire.problems import headers_for, render
from entrepot.wire.sse import Relay

Case = dict[str, Any]


def cases(name: str) -> list[Case]:
    return json.loads((Path(__file__).parent / "wire" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", cases("errors.json"), ids=lambda case: f"{case['code']}-{case['form']}")
def test_error(case: Case) -> None:
    error = Error(Code[case["code"]], **case["error"])
    body = render(error, Form[case["form"]], decision_id=case.get("decision_id"), reason=case.get("reason"))
    assert json.loads(body) == case["body"]
    assert list(json.loads(body)["error"]) == list(case["body"]["error"])
    assert error.code.status == case["status"]
    assert headers_for(error).decode().split("\r\n")[:-1] == case["headers"]


@pytest.mark.parametrize("case", cases("streams.json"), ids=lambda case: case["what"])
def test_stream(case: Case) -> None:
    for blocks in (case["in"], list("".join(case["in"]))):
        relay = Relay(keep_usage=False)
        out = b"".join([relay.feed(block.encode()) for block in blocks]) + relay.finish()
        assert out.decode() == case["out"]
        assert (relay.done, relay.events, relay.error) == (case["done"], case["events"], case.get("error", False))
        usage = relay.usage and [relay.usage.prompt, relay.usage.completion]
        assert usage == case.get("usage")
