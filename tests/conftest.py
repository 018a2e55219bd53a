"""What tests of whole gateways share: a fleet to start them in, a look after each test that no secret left them,
and one house that most tests call: a gateway over a world with an account of every kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import DOMAIN, PROXY, Account, Fleet, House, Upstream, World


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture(autouse=True)
def _no_secret_leaves(fleet: Fleet) -> Iterator[None]:
    yield
    fleet.audit()


@pytest.fixture(scope="session")
def _house(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("house")
    named = (("gpt-4o", "gpt-4o", "GlobalStandard"),)
    accounts = [
        Account(
            "kanto",
            second_key=True,
            deployments=(
                *named,
                ("gpt-4o-again", "gpt-4o", "Standard"),
                ("embed", "text-embedding-3-small", "GlobalStandard"),
                ("on-azure", "gpt-4o-az", "GlobalStandard"),
            ),
        ),
        Account("cloudy", channel="cloud", territory="CN"),
        Account("attested", more='egress = [{ network = "127.0.0.2/32", territory = "SG" }]'),
        Account("far", territory="CN"),
        Account("pending", kyc="pending"),
        Account("halted", state="suspended"),
        Account("unlicensed", flag="needs-licence"),
    ]
    gateway_table = f"""
data_domain = "{DOMAIN}"
origin_header = "x-forwarded-for"
trusted_proxies = ["{PROXY}/32"]
limits = {{ body_bytes = 2000000, header_bytes = 16384 }}
"""
    with simulated(Settings(keep=20)) as openai, simulated(Settings(keep=20, api="azure")) as azure:
        models = {"gpt-4o": "gpt-4o-upstream", "text-embedding-3-small": "embedder"}
        upstreams = [
            Upstream("main", openai.base_url, models),
            Upstream("azure", azure.base_url, {"gpt-4o-az": "their deployment"}, api="azure"),
        ]
        world = World(home / "world", upstreams, accounts, gateway_table)
        world.write()
        with fleet.gateway(world, home / "gateway") as gateway:
            yield House(gateway, openai, azure, {account.name: account for account in accounts})


@pytest.fixture
def house(_house: House) -> House:
    """The one house of a run, its upstreams as they are by default."""
    _house.openai.use(Settings())
    _house.azure.use(Settings(api="azure"))
    _house.openai.seen.clear()
    _house.azure.seen.clear()
    return _house
