"""Limits over sockets: what is refused, in whose words, and what is given back when a call is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from entrepot.ledger.disclosed import disclosed
from entrepot.ledger.read import entries_of, folders_of
from entrepot.projections.refusals import Refusals
from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from harness import Account, Answer, Fleet, Gateway, House, Upstream, World, ask, body_of, opened, until
from redises import private

MANY = (("one", "gpt-4o", "GlobalStandard"), ("two", "gpt-4o", "GlobalStandard"))
PRICED = """
[[model]]
name = "gpt-4o"
version = "2024-11-20"
prices = [{ from = 2020-01-01, input_micros = 2_000_000, output_micros = 10_000_000 }]
"""


@pytest.fixture
def house(running: House) -> House:
    running.openai.use(Settings(keep=20))
    running.openai.seen.clear()
    return running


DAILY = 'budgets = [{ amount_micros = 1_000_000, period = "day" }]'


def quota(what: str, of: str = "limits") -> str:
    return f"{of} = {{ {what} }}"


ACCOUNTS = [
    Account("small", capacity=1),
    Account("tokens", capacity=10),
    Account("key", more=quota("requests_per_minute = 6", "key_limits"), second_key=True, deployments=MANY),
    Account("flying", more=quota("in_flight = 1")),
    Account("budget", more=quota('budgets = [{ amount_micros = 22_000, period = "day", soft_percent = 40 }]')),
    Account("forbidden", kyc="none", more=quota("requests_per_minute = 6", "key_limits")),
    Account("stock", capacity=20, more=quota("requests_per_minute = 60", "key_limits")),
]


@pytest.fixture(scope="module")
def running(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("limits")
    with simulated(Settings(keep=20)) as sim, simulated() as unused:
        world = World(folder / "world", [Upstream("openai", sim.base_url)], ACCOUNTS, gateway=PRICED)
        world.write()
        with fleet.gateway(world, folder) as gateway:
            yield House(gateway, sim, unused, {account.name: account for account in ACCOUNTS})


def call(house: House, account: str, model: str = "gpt-4o", path: str = "/v1/chat/completions", **more: Any) -> Answer:
    return ask(house.gateway.data, path, body_of(model, **more), house.key(account))


def refused(answer: Answer) -> dict[str, Any]:
    assert answer.status == 429, answer
    found: dict[str, Any] = answer.json["error"]
    return found


def limited(gateway: Gateway, scope: str, kind: str) -> float:
    return gateway.metric(f'entrepot_limited_total{{kind="{kind}",scope="{scope}"}}')


def test_a_deployment_answers_as_often_as_its_capacity_allows(house: House) -> None:
    served = call(house, "small", max_tokens=1)
    assert served.status == 200
    assert served.headers["x-ratelimit-limit-requests"] == "6"
    assert served.headers["x-ratelimit-remaining-requests"] == "0"
    assert served.headers["x-ratelimit-reset-requests"] in {"10s", "9.999s", "9.998s"}
    assert served.headers["x-ratelimit-limit-tokens"] == "1000"
    seen = len(house.openai.seen)
    told = refused(answer := call(house, "small", max_tokens=1))
    assert (told["code"], told["type"], told["param"]) == ("rate_limit_exceeded", "requests", None)
    assert told["message"].startswith("Rate limit reached for gpt-4o on requests per min (RPM): Limit 6, Used 6, ")
    assert 8_000 < int(answer.headers["retry-after-ms"]) <= 10_000
    assert answer.headers["retry-after"] == str(-(-int(answer.headers["retry-after-ms"]) // 1_000))
    assert "x-entrepot-receipt" in answer.headers, "a refusal is on record"
    assert "x-should-retry" not in answer.headers
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    azure = call(house, "small", path="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21")
    assert refused(azure)["code"] == "429"
    assert refused(azure)["message"].startswith(
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded "
        "call rate limit of your current OpenAI S0 pricing tier. Please retry after "
    )
    assert azure.headers["x-ratelimit-reset-requests"].isdigit()
    assert len(house.openai.seen) == seen, "a refused call costs nothing upstream"
    assert limited(house.gateway, "deployment", "requests") == 2


def test_tokens_are_reserved_and_what_was_not_used_is_given_back(house: House) -> None:
    first = call(house, "tokens", max_tokens=9_000)
    assert first.status == 200
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 1_000
    used = first.json["usage"]["total_tokens"]
    second = call(house, "tokens", max_tokens=1_000)
    assert second.status == 200
    assert int(second.headers["x-ratelimit-remaining-tokens"]) >= 10_000 - used - 1_000 - len(body_of(max_tokens=1_000))
    told = refused(answer := call(house, "tokens", max_tokens=20_000))
    assert told["message"].startswith("Request too large for gpt-4o on tokens per min (TPM): Limit 10000, Requested ")
    assert (told["code"], told["type"]) == ("rate_limit_exceeded", "tokens")
    assert "retry-after" not in answer.headers
    assert answer.headers["x-should-retry"] == "false"


def test_a_key_has_its_own_limit_over_all_deployments(house: House) -> None:
    assert call(house, "key", "one").status == 200
    assert "of this key on requests" in refused(call(house, "key", "two"))["message"]
    other = house.accounts["key"].key2
    assert ask(house.gateway.data, "/v1/chat/completions", body_of("two"), other).status == 200


def test_calls_at_one_time_end_with_the_call_whatever_becomes_of_it(house: House) -> None:
    house.openai.use(Settings(keep=20, script=(Rule(fault="hang"),)))
    with opened(house.gateway.data) as connection:
        headers = {"authorization": f"Bearer {house.key('flying')}"}
        connection.request("POST", "/v1/chat/completions", body_of(), headers)
        until(lambda: house.openai.seen, "the first call is under way")
        house.openai.use(Settings(keep=20))
        answer = call(house, "flying")
        assert "of this account on requests at one time: Limit 1, Used 1" in refused(answer)["message"]
        assert answer.headers["retry-after"] == "1"
    until(lambda: call(house, "flying").status == 200, "the client went, and its call is over")
    house.openai.use(Settings(keep=20, script=(Rule(fault="cut", after=2, pace_ms=1, times=2),)))
    assert b"event" not in call(house, "flying", stream=True).body
    assert call(house, "flying").status == 502
    assert call(house, "flying").status == 200


def test_a_budget_tells_in_time_and_then_stops(house: House) -> None:
    """An answer of 1,000 tokens costs a cent; the prompt next to nothing."""
    house.openai.use(Settings(keep=20, tokens=1_000))
    first = call(house, "budget", max_tokens=1_000)
    assert first.status == 200
    assert first.headers["x-entrepot-budget-used"] == "45%"
    assert call(house, "budget", max_tokens=1_000).headers["x-entrepot-budget-used"] == "91%"
    answer = call(house, "budget", max_tokens=1_000)
    told = refused(answer)
    assert (told["code"], told["type"]) == ("insufficient_quota", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    azure = call(house, "budget", path="/openai/v1/chat/completions", max_tokens=1_000)
    assert refused(azure)["code"] == "insufficient_quota"
    assert call(house, "budget", max_tokens=1).status == 200, "what still fits is served"
    assert any(event["event"] == "a budget is nearly spent" for event in house.gateway.events)


def test_refusals_by_policy_count_as_requests_of_the_key(house: House) -> None:
    assert call(house, "forbidden").status == 403
    assert "of this key on requests" in refused(call(house, "forbidden"))["message"]


def test_refusals_past_the_key_s_limit_are_counted_together(fleet: Fleet, tmp_path: Path) -> None:
    with simulated() as sim:
        accounts = [Account("forbidden", kyc="none", more=quota("requests_per_minute = 12", "key_limits"))]
        world = World(tmp_path / "world", [Upstream("openai", sim.base_url)], accounts)
        world.write()
        data = tmp_path / "entrepot-data"
        with fleet.gateway(world, tmp_path, "--data", str(data)) as gateway:
            key = accounts[0].key
            answers = [ask(gateway.data, "/v1/chat/completions", body_of(), key) for _ in range(30)]
            statuses = [answer.status for answer in answers]
            assert statuses.count(403) in {2, 3}
            assert statuses.count(429) == 30 - statuses.count(403)
            assert sum("x-entrepot-receipt" in answer.headers for answer in answers) in {12, 13}
            gateway.signal(signal.SIGTERM)
            gateway.wait()
        usage = Refusals()
        for folder in folders_of(data / "ledger"):
            for read in entries_of(folder):
                usage.take(read)
        assert sum(usage.cells.values()) == 30
        assert disclosed(data / "ledger").findings == []


def test_a_stock_client_waits_as_it_is_told_and_succeeds(house: House) -> None:
    client = openai.OpenAI(base_url=f"{house.gateway.url}/v1", api_key=house.key("stock"), max_retries=2)
    series = 'entrepot_calls_total{operation="chat",outcome="refused",status="429"}'
    before = after = house.gateway.metric(series)
    for _ in range(100):  # 11 where calls take no time: they are forgotten at one a second
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}], max_tokens=1)
        after = house.gateway.metric(series)
        if after > before:
            break
    assert 1 <= after - before <= 2, "it came again when it was told to, not before"
    client.close()


def test_workers_of_one_gateway_share_every_limit_and_one_that_dies_gives_back(fleet: Fleet, tmp_path: Path) -> None:
    with simulated(Settings(keep=20)) as sim:
        world = World(tmp_path / "world", [Upstream("openai", sim.base_url)], [Account("small", capacity=10)])
        world.gateway = "workers = 2\n"
        world.write()
        with fleet.gateway(world, tmp_path) as gateway:
            key = world.accounts[0].key
            body = body_of(max_tokens=1)

            def status() -> int:
                return ask(gateway.data, "/v1/chat/completions", body, key).status

            answers = [status() for _ in range(24)]
            assert 10 <= answers.count(200) <= 12, "ten at once for both, and one a second"
            sim.use(Settings(keep=20, script=(Rule(fault="hang"),)))
            large = body_of(max_tokens=9_000)
            with opened(gateway.data) as connection:
                headers = {"authorization": f"Bearer {key}"}

                def under_way() -> bool:
                    seen = len(sim.seen)
                    connection.close()
                    connection.request("POST", "/v1/chat/completions", large, headers)
                    try:
                        until(lambda: len(sim.seen) > seen, "it reached the upstream", 0.3)
                    except AssertionError:
                        return False
                    return True

                until(under_way, "a large call is under way")
                sim.use(Settings(keep=20))
                assert "TPM" in until(
                    lambda: next((text for text in [refusal(gateway, large, key)] if "RPM" not in text), None),
                    "its tokens are held, whichever worker is asked",
                )
                for pid in gateway.workers():
                    os.kill(pid, signal.SIGKILL)
                until(lambda: served(gateway, large, key), "what the dead had reserved is free")


def refusal(gateway: Gateway, body: bytes, key: str) -> str:
    return str(ask(gateway.data, "/v1/chat/completions", body, key).json["error"]["message"])


def served(gateway: Gateway, body: bytes, key: str) -> bool:
    try:
        return ask(gateway.data, "/v1/chat/completions", body, key).status == 200
    except OSError:
        return False


def test_two_gateways_share_limits_and_go_on_alone_while_the_store_is_away(fleet: Fleet, tmp_path: Path) -> None:
    with simulated(Settings(keep=20)) as sim, private(tmp_path) as store:
        worlds = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            accounts = [Account("small", capacity=10), Account("money", more=quota(DAILY))]
            world = World(tmp_path / name / "world", [Upstream("openai", sim.base_url)], accounts)
            world.gateway = f'log_name = "{name}"\nlimit_store = {{ url = "{store.url}" }}\n{PRICED}'
            world.write()
            worlds.append(world)
        with fleet.gateway(worlds[0], tmp_path / "one") as one, fleet.gateway(worlds[1], tmp_path / "two") as two:
            key, money = (account.key for account in worlds[0].accounts)
            body = body_of(max_tokens=1)

            def status(gateway: Gateway, key: str = key) -> int:
                return ask(gateway.data, "/v1/chat/completions", body, key).status

            answers = [status((one, two)[at % 2]) for at in range(20)]
            assert 9 <= answers.count(200) <= 12, "ten at once for both together"
            assert status(two, money) == 200
            assert one.metric("entrepot_limits_shared") == 1
            store.kill()
            until(lambda: one.readiness()["limits_problem"], "it is known")
            assert one.readiness()["ready"]
            problem = until(lambda: two.readiness()["limits_problem"], "it is known here too")
            assert problem.startswith("the store of limits cannot be reached: ")
            until(lambda: status(two, money) == 503, "budgets wait for the store", 5)
            until(lambda: status(one) == 200, "a share of what leaks away is admitted")
            assert one.metric("entrepot_limits_shared") == 0
            store.start()
            until(lambda: one.readiness()["limits_problem"] is None, "it is back")
            assert until(lambda: status(two, money) == 200, "budgets go on")
        entries = b"".join(path.read_bytes() for path in (tmp_path / "one").rglob("*.entries"))
        assert b'"degraded":["limits"]' in entries
