"""A gateway with all that clients meet behind it: simulated upstreams of both APIs that fail on purpose, one that is
dead, one that never answers, and a real engine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_cases import TEXT, planned

from entrepot.engine import DEMO_MODEL, Engine
from entrepot.sim.server import simulated
from entrepot.sim.settings import Match, Rule, Settings
from harness import Account, Fleet, Gateway, Upstream, World

HERE = Path(__file__).parent
COMMANDS = {
    "openai 3": [sys.executable, "-W", "error", str(HERE / "openai_calls.py")],
    "openai 2": [str(HERE.parents[1] / ".venv-openai2/bin/python"), "-W", "error", str(HERE / "openai_calls.py")],
    "node": ["node", str(HERE / "node/calls.mjs")],
}
_AT_ONCE = {"retry-after": "7", "retry-after-ms": "5"}  # SDKs wait by the second where both are given
_TOO_LONG = {
    "message": "too long",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}
_FILTERED = {
    "message": "The response was filtered",
    "param": "prompt",
    "type": None,
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
}
_SCRIPT = (
    Rule(Match(model="limited"), error="rate_limit_exceeded", headers=_AT_ONCE),
    Rule(Match(model="spent"), error="insufficient_quota"),
    Rule(Match(model="too-long"), status=400, json={"error": _TOO_LONG}),
    Rule(Match(model="filtered"), status=400, json={"error": _FILTERED}),
    Rule(Match(model="failing"), status=500, headers=_AT_ONCE),
    Rule(Match(model="overloaded"), status=503),
    Rule(Match(model="banned"), error="unsupported_territory"),
    Rule(Match(model="locked"), status=401),
    Rule(Match(model="cut"), text=TEXT, fault="cut", after=3),
    Rule(Match(model="hanging"), fault="hang"),
    Rule(text=TEXT),
)
_ON_OPENAI = ("gpt-4o", "embed", "limited", "spent", "too-long", "failing", "overloaded", "banned", "locked", "cut")
_ON_AZURE = ("gpt-4o", "embed", "limited", "filtered", "cut")


@pytest.fixture(scope="session")
def gateway(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("clients")
    with (
        simulated(Settings(script=_SCRIPT, api="openai", dimensions=8)) as openai,
        simulated(Settings(script=_SCRIPT, api="azure", dimensions=8)) as azure,
        Engine.start(DEMO_MODEL, alias="entrepot-tiny") as engine,
        socket.socket() as deaf,
    ):
        deaf.bind(("127.0.0.1", 0))  # and never listens
        models = {f"az-{name}": name for name in _ON_AZURE}
        upstreams = [
            Upstream("openai", openai.base_url, {name: name for name in _ON_OPENAI}),
            Upstream("azure", azure.base_url, models, api="azure"),
            Upstream("engine", f"http://{engine.host}:{engine.port}", {"tiny": "entrepot-tiny"}, credential="none"),
            Upstream("dead", f"http://127.0.0.1:{deaf.getsockname()[1]}", {"dead": "dead"}),
            Upstream("hanging", openai.base_url, {"hanging": "hanging"}, timeouts="first_byte_s = 0.2"),
        ]
        served = [model for upstream in upstreams for model in upstream.models]
        accounts = [
            Account("kanto", deployments=tuple((model, model, "GlobalStandard") for model in served)),
            Account("abroad", more='egress = [{ network = "127.0.0.1/32", territory = "CN" }]'),
            Account("far", territory="CN"),
            Account("cloudy", channel="cloud", territory="CN"),
            Account("pending", kyc="pending"),
            Account("halted", state="suspended"),
            Account("unlicensed", flag="needs-licence"),
        ]
        world = World(home / "world", upstreams, accounts)
        world.write()
        with fleet.gateway(world, home / "gateway") as gateway:
            yield gateway


@pytest.fixture(scope="session")
def results_of(gateway: Gateway) -> Callable[[str], Any]:
    """By SDK (`openai 3`, `openai 2`, `node`): all results of its one run, made when first asked for."""
    keys = {account.name: account.key for account in gateway.world.accounts}
    metrics = f"http://{gateway.admin.host}:{gateway.admin.port}/metrics"
    plan = json.dumps({"root": gateway.url, "metrics": metrics, "cases": planned(keys)})
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    made: dict[str, Any] = {}

    def results(sdk: str) -> Any:
        if sdk not in made:
            made[sdk] = None
            done = subprocess.run(
                COMMANDS[sdk], input=plan, capture_output=True, text=True, env=environ, timeout=100, check=False
            )
            assert done.returncode == 0, done.stderr
            assert not done.stderr
            made[sdk] = json.loads(done.stdout)
        assert made[sdk] is not None, f"the run of {sdk} has failed already"
        return made[sdk]

    return results
