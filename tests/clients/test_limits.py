"""Stock SDKs past a limit: their own retries come when they were told to, and succeed; nothing storms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import Account, Fleet, Gateway, Upstream, World

HERE = Path(__file__).parent
COMMANDS = {
    "openai 3": [sys.executable, "-W", "error", str(HERE / "limit_calls.py")],
    "openai 2": [str(HERE.parents[1] / ".venv-openai2/bin/python"), "-W", "error", str(HERE / "limit_calls.py")],
    "node": ["node", str(HERE / "node/limits.mjs")],
}
# Five fit at once, then one every two seconds: of two that are too many each waits so long, one of them once more.
ACCOUNTS = {
    sdk: Account(f"limited-{at}", more="key_limits = { requests_per_minute = 30 }") for at, sdk in enumerate(COMMANDS)
}
CALLS, REFUSED = 7, 3


@pytest.fixture(scope="module")
def limited(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("limited")
    with simulated(Settings(api="openai")) as sim:
        world = World(home / "world", [Upstream("openai", sim.base_url)], list(ACCOUNTS.values()))
        world.write()
        with fleet.gateway(world, home) as gateway:
            yield gateway


@pytest.mark.parametrize("sdk", COMMANDS)
def test_a_client_waits_as_it_is_told_and_every_call_succeeds(limited: Gateway, sdk: str) -> None:
    plan = json.dumps({"root": limited.url, "key": ACCOUNTS[sdk].key, "calls": CALLS})
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    before = counted(limited)
    done = subprocess.run(
        COMMANDS[sdk], input=plan, capture_output=True, text=True, env=environ, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [True] * CALLS
    served, refused = (after - at for after, at in zip(counted(limited), before, strict=True))
    assert served == CALLS
    assert 1 <= refused <= REFUSED, "each came again when it was told to, not before"


def counted(gateway: Gateway) -> tuple[float, float]:
    """Requests that were served, and those that met the limit."""
    series = 'entrepot_calls_total{operation="chat",outcome="%s",status="%d"}'
    return gateway.metric(series % ("served", 200)), gateway.metric(series % ("refused", 429))
