"""Stock SDKs at what `properties.endpoint` of an account says, with its key and with an access token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from msgspec.structs import replace

from control_plane import ControlPlane
from entrepot.config import Config
from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from entrepot.snapshot import Issuer, Revision, publish_files
from harness import BASE_PACK, Account, Fleet, Upstream, World

HERE = Path(__file__).parent
COMMANDS = {
    "openai 3": [sys.executable, "-W", "error", str(HERE / "endpoint_calls.py")],
    "openai 2": [str(HERE.parents[1] / ".venv-openai2/bin/python"), "-W", "error", str(HERE / "endpoint_calls.py")],
    "node": ["node", str(HERE / "node/endpoint.mjs")],
}
ISSUER, AUDIENCE = "https://127.0.0.1:8443/tenant/v2.0", "https://cognitiveservices.azure.com"
TEXT = "A receipt is a promise that can be checked."
ACCOUNT = Account("kanto")


@pytest.fixture(scope="module")
def asked(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("endpoint")
    signing, now, plane = ECKey.generate_key("P-256", {"kid": "k1"}), int(time.time()), ControlPlane()
    claims = {"iss": ISSUER, "aud": AUDIENCE, "oid": "app", "exp": now + 600}
    with simulated(Settings(api="openai", script=(Rule(text=TEXT),))) as sim:
        world = World(home / "world", [Upstream("u", sim.base_url)], [ACCOUNT])
        files = {"world.toml": world.text().encode(), "packs/base.toml": BASE_PACK.encode()}
        whole = publish_files(files, Config(home, {"UPSTREAM_KEY": world.upstream_key}), Revision(1, 1))
        keys = json.dumps(KeySet([signing]).as_dict(private=False)).encode()
        plane.publish(replace(whole, issuer=Issuer(ISSUER, keys, (AUDIENCE,)), grants={"app": ("/",)}))
        plane.start()
        with fleet.gateway(world, home, "--control", plane.url, "--enrol", plane.token("gw-1")) as gateway:
            yield json.dumps(
                {
                    "endpoint": f"{gateway.url}/accounts/kanto/",
                    "key": ACCOUNT.key,
                    "token": jwt.encode({"alg": "ES256", "kid": "k1"}, claims, signing, ["ES256"]),
                }
            )
        plane.kill()


@pytest.mark.parametrize("sdk", COMMANDS)
def test_the_endpoint_works_as_it_stands(asked: str, sdk: str) -> None:
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        COMMANDS[sdk], input=asked, capture_output=True, text=True, env=environ, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    results: dict[str, Any] = json.loads(done.stdout)["results"]
    assert results.pop("azure, bad token") == [401, "401"]
    assert len(results) == 7
    assert {name: result for name, result in results.items() if result[0] != TEXT} == {}
    assert {str(result[1]) for name, result in results.items() if "azure" not in name} == {"['gpt-4o']"}
