"""Which limits calls meet, by which keys, and what of it is one object for many."""

from __future__ import annotations

from functools import cache

from entrepot.gateway.bounds import Allowances, key_of
from entrepot.resources import model
from entrepot.snapshot import Compiled, Published, Revision, Snapshot
from harness import BASE_PACK

BUDGETS = (model.Budget(5_000_000, "day", "USD"), model.Budget(90_000_000, "month", "EUR", 50))
OF_KEYS = model.Quota(requests_per_minute=6, in_flight=2)
OF_ACCOUNT = model.Quota(tokens_per_minute=4_000, budgets=BUDGETS)
OF_ORGANIZATION = model.Quota(requests_per_minute=60, budgets=BUDGETS[:1])


def account(name: str, subscription: str, *capacities: int, **limits: model.Quota) -> model.Account:
    served = tuple(
        model.Deployment(f"d{number}", "gpt-4o", "1", "GlobalStandard", capacity)
        for number, capacity in enumerate(capacities)
    )
    keys = model.Keys(f"sha256:{name.encode().hex():0<64}")
    return model.Account(name, subscription, "rg", "japaneast", "direct", "harbour", keys, deployments=served, **limits)


@cache
def snapshot() -> Snapshot:
    world = model.World(
        gateway=model.Gateway(territory="JP"),
        operators=(model.Operator("harbour", "Harbour", "JP"),),
        regions=(model.Region("japaneast", "JP", "harbour", ("apac",)),),
        providers=(model.Provider("openai"),),
        upstreams=(
            model.Upstream("a", "openai", "japaneast", "openai", "http://x.example/v1", "none", {"gpt-4o@1": "g"}),
        ),
        organizations=(
            model.Organization("free", "Free", "JP", "enterprise"),
            model.Organization("bound", "Bound", "JP", "enterprise", limits=OF_ORGANIZATION),
        ),
        subscriptions=(model.Subscription("s-free", "free"), model.Subscription("s-bound", "bound")),
        accounts=(
            account("one", "s-free", 1, 1, 2),
            account("two", "s-free", 1),
            account("all", "s-bound", 10, limits=OF_ACCOUNT, key_limits=OF_KEYS),
        ),
        packs=(model.PackSource("base.toml", BASE_PACK.encode()),),
    )
    return Compiled.whole(Published(Revision(1, 7), world)).snapshot


def test_the_cheapest_to_mend_come_first_each_by_its_own_key() -> None:
    of = snapshot().accounts["all"]
    found = Allowances(snapshot()).of(of, of.deployments["d0"], "key2")
    expected = {
        ("requests", "deployment"): ("deployment", "all/d0", "requests"),
        ("requests", "key"): ("key", "all/key2", "requests"),
        ("requests", "organization"): ("organization", "bound", "requests"),
        ("in_flight", "key"): ("key", "all/key2", "in_flight"),
        ("tokens", "deployment"): ("deployment", "all/d0", "tokens"),
        ("tokens", "account"): ("account", "all", "tokens"),
        ("budget", "account", "USD"): ("account", "all", "budget", "day", "USD"),
        ("budget", "account", "EUR"): ("account", "all", "budget", "month", "EUR"),
        ("budget", "organization", "USD"): ("organization", "bound", "budget", "day", "USD"),
    }
    kinds = [(each.kind, each.scope, *([each.currency] if each.currency else ())) for each in found.terms.all]
    assert kinds == list(expected)
    assert found.keys == tuple(key_of(*parts) for parts in expected.values())
    amounts = [each.limit.amount or each.limit.burst for each in found.terms.all]
    assert amounts == [60, 6, 60, 2, 10_000, 4_000, 5 * 10**12, 90 * 10**12, 5 * 10**12]
    assert found.terms.all[7].soft == 45 * 10**12
    assert found.terms.most_tokens == 4_000


def test_keys_without_limits_of_their_own_meet_the_same() -> None:
    known, accounts = Allowances(snapshot()), snapshot().accounts
    one = accounts["one"]
    assert known.of(one, one.deployments["d0"], "key1") is known.of(one, one.deployments["d0"], "key2")
    of = accounts["all"]
    assert known.of(of, of.deployments["d0"], "key1").keys != known.of(of, of.deployments["d0"], "key2").keys


def test_terms_are_shared_by_what_is_limited_alike() -> None:
    known, accounts = Allowances(snapshot()), snapshot().accounts
    one, two = accounts["one"], accounts["two"]
    found = [known.of(one, one.deployments[f"d{number}"], "key1") for number in range(3)]
    found.append(known.of(two, two.deployments["d0"], "key1"))
    assert found[1].terms is found[0].terms
    assert found[2].terms is not found[0].terms
    assert len({key for each in found for key in each.keys}) == 8
