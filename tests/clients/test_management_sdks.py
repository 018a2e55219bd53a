"""Azure's management SDKs for Python and Node, unmodified, through their own credentials and pollers."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outside import Outside

from entrepot.management.roles import OPENAI_USER, OWNER, REVIEWER
from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from people import MAINLAND, PERSON, YANGTZE, Served, served

HERE = Path(__file__).parent
TEXT = "A receipt is a promise that can be checked."
COMMANDS = {
    "python": [sys.executable, str(HERE / "management_calls.py")],
    "node": ["node", str(HERE / "node/management.mjs")],
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    with (
        simulated(Settings(script=(Rule(text=TEXT),))) as sim,
        served(tmp_path_factory.mktemp("sdks") / "data") as house,
    ):
        house.upstream(sim.base_url, "gpt-4o@2024-11-20")
        two = [house.person("owner", OWNER), house.person("reviewer", REVIEWER)]
        house.agree(two, "policyRelease", None, {"packs": MAINLAND})
        subscription = house.contract("tokyo", {**YANGTZE, "territory": "JP", "registration": None})
        barred = house.contract("lilei", PERSON)
        developer = house.person("developer", OWNER, f"/subscriptions/{subscription}")
        house.assign(developer.client_id, OWNER, f"/subscriptions/{barred}")
        house.assign(developer.client_id, OPENAI_USER, f"/subscriptions/{subscription}")
        for each in (subscription, barred):
            developer.do("PUT", f"/subscriptions/{each}/resourcegroups/sdk", location="japaneast")
        yield (
            house,
            {
                "url": house.url,
                "client_id": developer.client_id,
                "secret": developer.secret,
                "subscription": subscription,
                "barred": barred,
                "group": "sdk",
            },
        )


@pytest.mark.parametrize("tenant", ["adfs", "a tenant's GUID"])
@pytest.mark.parametrize("sdk", COMMANDS)
def test_the_life_of_an_account(plan: tuple[Served, dict[str, str]], sdk: str, tenant: str) -> None:
    house, asked = plan
    outside, name = Outside(), f"sdk-{uuid.uuid4().hex[:8]}"
    given = {**asked, "tenant": "adfs" if tenant == "adfs" else house.tenant, "name": name}
    environ = {**outside.environ(), "REQUESTS_CA_BUNDLE": house.ca, "NODE_EXTRA_CA_CERTS": house.ca}
    done = subprocess.run(
        COMMANDS[sdk], input=json.dumps(given), capture_output=True, text=True, env=environ, timeout=110, check=False
    )
    outside.close()
    assert (done.returncode, done.stderr) == (0, "")
    seen: dict[str, Any] = json.loads(done.stdout)
    status, code, message = seen.pop("barred")
    assert (status, code) == (400, "CannotDeployDueToLocalRegulations")
    assert "only enterprise customers with a registered business license are eligible" in message
    assert seen == {
        "created": "Succeeded",
        "key2 stays": True,
        "deployed": "Succeeded",
        "scaled": 20,
        "deployments": ["chat"],
        "models": ["gpt-4o"],
        "usage": 20,
        "with key": TEXT,
        "with token": TEXT,
        "no such model": [400, "DeploymentModelNotSupported"],
        "left": [],
        "deleted": [name],
        "recovered": True,
        "purged": [],
    }
    assert outside.asked == []
