"""Usage beside the counters of a real engine: llama.cpp's own `/metrics`, over calls through a gateway."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from entrepot.cli import command_line
from entrepot.engine import DEMO_MODEL, Engine
from harness import Account, Fleet, Gateway, Place, Upstream, World, ask

QUESTIONS = ("What is an entrepot?", "What is a receipt?", "Who is refused?", "What is a giraffe?", "Hello", "港")
COUNTERS = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.start(DEMO_MODEL, alias="entrepot-tiny") as engine:
        yield engine


def counted(engine: Engine) -> dict[str, int]:
    """Tokens since its start: of prompts those that it computed and those that it had, and those that it wrote."""
    lines = ask(Place(engine.host, engine.port), "/metrics").body.decode().splitlines()
    found = dict(line.removeprefix("llamacpp:").split(" ") for line in lines if not line.startswith("#"))
    return {name: int(found[name]) for name in COUNTERS}


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Whole and streamed, with and without a wish for usage, some of them cut short by their own limit."""
    for number in range(60):
        question = QUESTIONS[number % len(QUESTIONS)]
        fields: dict[str, Any] = {"stream": number % 3 == 0}
        if number % 4 == 0:
            fields["max_tokens"] = 7
        if fields["stream"] and number % 2:
            fields["stream_options"] = {"include_usage": True}
        if number % 5 == 0:
            yield "completions", {"prompt": question, **fields}
        else:
            yield "chat/completions", {"messages": [{"role": "user", "content": question}], **fields}
    for number in range(6):
        yield "embeddings", {"input": list(QUESTIONS[: number + 1])}


def usage_of(data: Path) -> dict[str, Any]:
    arguments = ["usage", "--data", str(data), "--json"]
    done = CliRunner().invoke(command_line(arguments), arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_usage_is_what_the_engine_counted(engine: Engine, fleet: Fleet, tmp_path: Path) -> None:
    account = Account("kanto")
    upstream = Upstream("local", f"http://{engine.host}:{engine.port}", {"gpt-4o": "entrepot-tiny"})
    world = World(tmp_path / "world", [upstream], [account])
    world.write()
    before, made = counted(engine), list(calls())
    home, data = tmp_path / "gateway", tmp_path / "data"
    with fleet.gateway(world, home, "--data", str(data)) as gateway, ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda one: called(gateway, account, *one), made))
        gateway.signal(signal.SIGTERM)  # once: it ends in good order
        assert gateway.wait() == 0
    assert statuses == [200] * len(made)
    spent = {name: value - before[name] for name, value in counted(engine).items()}
    told = usage_of(data)
    total = told["total"]
    assert (told["doubts"], total["calls"], total["served"]) == ([], len(made), len(made))
    assert total["prompt_reported"] == spent["prompt_tokens_total"] + spent["prompt_tokens_cached_total"] > 0
    assert total["cached"] == spent["prompt_tokens_cached_total"] > 0
    assert total["completion_reported"] == spent["tokens_predicted_total"] > 0
    assert total["prompt_counted"] + total["prompt_estimated"] + total["completion_counted"] == 0


def called(gateway: Gateway, account: Account, path: str, fields: dict[str, Any]) -> int:
    body = json.dumps({"model": "gpt-4o", "temperature": 0, **fields}).encode()
    return ask(gateway.data, f"/v1/{path}", body, account.key).status
