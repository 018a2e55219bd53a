"""Upstreams that fail, and where a call goes then: to the next permitted target, never to a forbidden one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from entrepot.sim.server import Sim, simulated
from entrepot.sim.settings import Match, Rule, Settings
from harness import Account, Answer, Fleet, Gateway, Upstream, World, ask, body_of, until

QUICK = "connect_s = 2.0, first_byte_s = 0.4, idle_s = 0.4"
TERRITORY = {
    "error": {
        "code": "unsupported_country_region_territory",
        "message": "Country, region, or territory not supported",
        "param": None,
        "type": "request_forbidden",
    }
}
# How an upstream fails, as the rule of the simulated one for a model of that name.
FAULTS: dict[str, Rule] = {
    "dead": Rule(),  # nobody listens there
    "hang": Rule(fault="hang"),
    "garbage": Rule(fault="garbage"),
    "cut": Rule(fault="cut", after=9),
    "reset": Rule(fault="reset", after=9),
    "e408": Rule(status=408),
    "e409": Rule(status=409),
    "e429": Rule(status=429, headers={"retry-after": "1"}),
    "e500": Rule(status=500),
    "e503": Rule(status=503),
    "e401": Rule(status=401),
    "e403": Rule(status=403),
    "e404": Rule(status=404),
    "territory": Rule(status=403, json=TERRITORY),
    "e400": Rule(status=400, json={"error": {"message": "no", "type": "t", "param": None, "code": "c"}}),
    "page": Rule(status=200, headers={"content-type": "text/html"}, body="<html>maintenance</html>"),
    "empty": Rule(status=200, body=""),
    "half": Rule(status=200, body='{"id": "x", '),
    "moved": Rule(status=302, headers={"location": "http://127.0.0.1:1/"}),
}
OTHERS_TRY = tuple(name for name in FAULTS if name not in {"territory", "e400"})
ODD_RETRY_AFTER = {"dates": "Wed, 21 Oct 2026 07:28:00 GMT", "squared": "\xb2", "huge": "9" * 400}


@dataclass
class Ground:
    """`bad` fails by the name of the model that it is asked for; `good` never; `forbidden` is in a forbidden region."""

    gateway: Gateway
    bad: Sim
    good: Sim
    forbidden: Sim
    account: Account
    free: Account

    def call(self, deployment: str, account: Account | None = None, **more: Any) -> Answer:
        return ask(self.gateway.data, body=body_of(deployment, **more), key=(account or self.account).key)


def script() -> Settings:
    rules = [Rule(**{**_given(rule), "match": Match(model=name)}) for name, rule in FAULTS.items()]
    rules += [
        Rule(match=Match(model="stall"), fault="stall"),
        Rule(match=Match(model="cut-at-once"), fault="cut"),
        *(
            Rule(match=Match(model=name), status=429, headers={"retry-after": value})
            for name, value in ODD_RETRY_AFTER.items()
        ),
    ]
    return Settings(script=tuple(rules))


def _given(rule: Rule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


@pytest.fixture(scope="module")
def ground(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    home = tmp_path_factory.mktemp("fallback")
    with (
        simulated(script()) as bad,
        simulated() as good,
        simulated() as forbidden,
        socket.create_server(("127.0.0.1", 0)) as dead,
    ):
        nobody = f"http://127.0.0.1:{dead.getsockname()[1]}"
        dead.close()
        upstreams, deployments = [], []

        def upstream(name: str, url: str, model: str, theirs: str, **more: Any) -> None:
            upstreams.append(Upstream(name, url, {model: theirs}, timeouts=QUICK, **more))

        def deployment(name: str, sku: str = "GlobalStandard") -> None:
            deployments.append((name, name, sku))

        for fault in [*FAULTS, "stall", "cut-at-once", *ODD_RETRY_AFTER]:
            url = nobody if fault == "dead" else bad.base_url
            upstream(f"{fault}-forbidden", forbidden.base_url, fault, "x", region="westeurope", priority=0)
            upstream(f"{fault}-bad", url, fault, fault)
            upstream(f"{fault}-good", good.base_url, fault, f"good-{fault}", region="koreacentral", priority=2)
            upstream(f"only-{fault}", url, f"only-{fault}", fault)
            upstream(f"both-{fault}-1", url, f"both-{fault}", fault)
            upstream(f"both-{fault}-2", url, f"both-{fault}", fault, region="koreacentral", priority=2)
            for name in (fault, f"only-{fault}", f"both-{fault}"):
                deployment(name)
        for number, region in enumerate(["westeurope", "koreacentral", "japaneast"], 1):
            upstream(f"sku-{region}", good.base_url, "sku", "sku", region=region, priority=number)
        for weight, region in ((90, "koreacentral"), (10, "japaneast")):
            upstream(f"weight-{region}", good.base_url, "weight", "weight", region=region, weight=weight)
        for number, region in enumerate(["koreacentral", "japaneast"], 1):
            url = (bad if number == 1 else good).base_url
            upstream(f"health-{region}", url, "health", "health", region=region, priority=number)
        deployments += [(f"sku-{sku}", "sku", sku) for sku in ("Standard", "DataZoneStandard", "GlobalStandard")]
        deployment("weight")
        deployment("health")
        bound = Account("bound", flag="not-in-europe", deployments=tuple(deployments))
        free = Account("free", deployments=tuple(deployments))
        world = World(home / "world", upstreams, [bound, free])
        world.write()
        with fleet.gateway(world, home / "gateway") as gateway:
            yield Ground(gateway, bad, good, forbidden, bound, free)


@pytest.mark.parametrize("fault", OTHERS_TRY)
def test_the_next_permitted_target_answers(ground: Ground, fault: str) -> None:
    before = ground.good.counters.models[f"good-{fault}"]
    answer = ground.call(fault)
    assert answer.status == 200, answer.body
    assert answer.headers["x-ms-region"] == "koreacentral"
    assert ground.good.counters.models[f"good-{fault}"] == before + 1
    assert ground.forbidden.counters.connections == 0


@pytest.mark.parametrize("fault", ["dead", "hang", "e500", "e429", "e401", "stall", "cut-at-once"])
def test_also_of_a_stream_that_has_not_begun(ground: Ground, fault: str) -> None:
    answer = ground.call(fault, stream=True)
    assert answer.status == 200
    assert answer.headers["x-ms-region"] == "koreacentral"
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b"error" not in answer.body
    assert ground.forbidden.counters.connections == 0


def test_a_forbidden_upstream_is_never_connected_to(ground: Ground) -> None:
    """It has the best priority of all; calls of an account that may go there are served there, and only there."""
    good = ground.good.counters.requests
    for fault in ("dead", "hang", "e500"):
        assert ground.call(fault).headers["x-ms-region"] == "koreacentral"
        for _ in range(4):  # also when health has changed the order
            assert ground.call(fault).status == 200
        assert ground.call(f"both-{fault}").status >= 500
    assert ground.forbidden.counters.connections == 0
    assert ground.good.counters.requests == good + 15
    assert ground.call("dead", ground.free).headers["x-ms-region"] == "westeurope"
    assert ground.forbidden.counters.requests == 1
    ground.forbidden.counters.opened = 0  # for the tests after this one


@pytest.mark.parametrize("which", ["only", "both"])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("dead", 502, "upstream_fault"),
        ("hang", 504, "upstream_timeout"),
        ("garbage", 502, "upstream_fault"),
        ("cut", 502, "upstream_fault"),
        ("reset", 502, "upstream_fault"),
        ("e401", 502, "upstream_fault"),
        ("e403", 502, "upstream_fault"),
        ("e404", 502, "upstream_fault"),
        ("moved", 502, "upstream_fault"),
        ("e500", 500, None),
        ("e503", 503, None),
        ("e429", 429, None),
    ],
)
def test_at_last_the_client_is_told(ground: Ground, which: str, fault: str, status: int, code: str | None) -> None:
    answer = ground.call(f"{which}-{fault}")
    assert answer.status == status
    error = answer.json["error"]
    if code is not None:
        assert error["code"] == code
        assert "x-ms-region" not in answer.headers
    assert set(error) == {"message", "type", "param", "code"}
    assert "x-should-retry" not in answer.headers
    assert answer.headers.get("retry-after") == ("1" if fault == "e429" else None)


def test_the_operator_s_refused_credential_is_the_operator_s_affair(ground: Ground) -> None:
    before = len(ground.gateway.events)
    answer = ground.call("only-e401")
    assert answer.json["error"]["message"] == "the model's provider does not accept this service's own configuration"
    lines = ground.gateway.events[before:]
    assert [(line["level"], line["event"], line["upstream"], line["status"]) for line in lines] == [
        ("error", "upstream refuses our credential or model name", "only-e401", 401)
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_the_provider_s_own_territory_refusal_is_ours_and_ends_the_call(ground: Ground, stream: bool) -> None:
    good = ground.good.counters.requests
    answer = ground.call("territory", stream=stream)
    assert (answer.status, answer.json) == (403, TERRITORY)
    assert answer.headers["x-should-retry"] == "false"
    assert ground.good.counters.requests == good


def test_the_client_s_own_mistake_is_tried_nowhere_else(ground: Ground) -> None:
    good = ground.good.counters.requests
    answer = ground.call("e400")
    assert (answer.status, answer.json) == (400, FAULTS["e400"].json)
    assert ground.good.counters.requests == good


@pytest.mark.parametrize("name", ODD_RETRY_AFTER)
def test_delays_that_are_no_number_of_seconds(ground: Ground, name: str) -> None:
    assert ground.call(name).headers["x-ms-region"] == "koreacentral"
    assert ground.call(name).headers["x-ms-region"] == "koreacentral"


def test_who_asks_to_wait_is_left_alone_so_long(ground: Ground) -> None:
    model = ground.bad.counters.models
    until(lambda: ground.call("e429").status == 200 and model["e429"], "a first try")
    before = model["e429"]
    assert ground.call("e429").headers["x-ms-region"] == "koreacentral"
    assert model["e429"] == before
    until(lambda: ground.call("e429").status == 200 and model["e429"] > before, "it is asked again")


@pytest.mark.parametrize(
    ("sku", "region"),
    [("Standard", "Japan East"), ("DataZoneStandard", "koreacentral"), ("GlobalStandard", "westeurope")],
)
def test_the_sku_says_how_far_a_call_may_go(ground: Ground, sku: str, region: str) -> None:
    assert ground.call(f"sku-{sku}", ground.free).headers["x-ms-region"] == region


def test_the_policy_narrows_what_the_sku_allows(ground: Ground) -> None:
    assert ground.call("sku-GlobalStandard").headers["x-ms-region"] == "koreacentral"


def test_weights_share_the_calls_of_equals(ground: Ground) -> None:
    regions = [ground.call("weight").headers["x-ms-region"] for _ in range(150)]
    assert 110 <= regions.count("koreacentral") <= 149  # 135 ± 3.7


def test_failures_in_a_row_rest_an_upstream_until_a_probe_succeeds(ground: Ground) -> None:
    settings = script()
    ground.bad.use(Settings(script=(Rule(match=Match(model="health"), status=503), *settings.script)))
    asked = ground.bad.counters.models
    for _ in range(8):
        assert ground.call("health").headers["x-ms-region"] == "Japan East"
    assert asked["health"] == 3
    assert "health-koreacentral" in ground.gateway.readiness()["unhealthy_upstreams"]
    assert ground.gateway.metric('entrepot_upstream_healthy{upstream="health-koreacentral"}') == 0
    ground.bad.use(settings)
    until(lambda: ground.call("health").headers["x-ms-region"] == "koreacentral", "the probe succeeds")
    assert asked["health"] == 4
    assert "health-koreacentral" not in ground.gateway.readiness()["unhealthy_upstreams"]
    assert ground.gateway.readiness()["ready"]


def test_streams_that_break_off_rest_an_upstream_too(ground: Ground) -> None:
    settings = script()
    ground.bad.use(Settings(script=(Rule(match=Match(model="health"), fault="cut", after=5), *settings.script)))
    regions = [ground.call("health", stream=True).headers["x-ms-region"] for _ in range(5)]
    assert regions == ["koreacentral"] * 3 + ["Japan East"] * 2
    ground.bad.use(settings)
    until(lambda: ground.call("health", stream=True).headers["x-ms-region"] == "koreacentral", "the probe succeeds")
    assert "health-koreacentral" not in ground.gateway.readiness()["unhealthy_upstreams"]


def test_attempts_are_counted(ground: Ground) -> None:
    names = [
        'entrepot_attempts_total{result="failed",upstream="both-cut-1"}',
        'entrepot_attempts_total{result="failed",upstream="both-cut-2"}',
        'entrepot_calls_total{operation="chat",outcome="failed",status="502"}',
    ]
    before = [ground.gateway.metric(name) for name in names]
    assert ground.call("both-cut").status == 502
    assert [ground.gateway.metric(name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1]
