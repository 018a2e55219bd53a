"""Several deltas as one: what a gateway that was away gets."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.management.changes import parent_of
from entrepot.management.publish import Publisher, Seen, merge
from entrepot.resources.model import Account, Keys, Organization, Subscription, World
from entrepot.snapshot import Delta, Published, Revision, applied


def organization(random: Random, name: str) -> Organization:
    return Organization(name, f"legal {random.random()}", "JP", "enterprise")


def subscription(random: Random, name: str) -> Subscription:
    return Subscription(name, random.choice("abc"), "op", random.choice(("direct", "cloud")))


def account(random: Random, name: str) -> Account:
    return Account(name, random.choice("abc"), "rg", "here", "direct", "op", Keys(f"sha256:{random.random()}"))


MAKERS: tuple[tuple[str, Any], ...] = (
    ("organization", organization),
    ("subscription", subscription),
    ("account", account),
)


def any_delta(random: Random, n: int) -> Delta:
    given: dict[str, list[Any]] = {}
    gone: list[Any] = []
    for kind, make in MAKERS:
        for name in random.sample("abcdef", random.randint(0, 3)):
            # A client can be gone and there again in one delta: another took its name.
            if random.random() < 0.4:
                gone.append((kind, name))
            if random.random() < 0.6:
                given.setdefault(f"{kind}s", []).append(make(random, name))
    grants = random.choice((None, {"oid": (str(n),)}))
    found = {kind: tuple(each) for kind, each in given.items()}
    return Delta(Revision(1, n), Revision(1, n + 1), gone=tuple(gone), grants=grants, **found)


@pytest.mark.parametrize("seed", range(50))
def test_one_delta_does_what_several_do(seed: int) -> None:
    random = Random(seed)
    deltas = [any_delta(random, n) for n in range(random.randint(1, 6))]
    before = Published(Revision(1, 0), World(organizations=tuple(organization(random, name) for name in "abc")))
    after = before
    for each in deltas:
        after = applied(after, each)
    merged = merge(deltas)
    assert as_sets(applied(before, merged)) == as_sets(after)
    assert not {name for _, name in merged.gone} & {
        each.name for each in merged.accounts if ("account", each.name) in merged.gone
    }


def as_sets(published: Published) -> tuple[Any, ...]:
    world = published.world
    clients = (world.organizations, world.subscriptions, world.accounts)
    return published.revision, published.grants, *(sorted(each, key=str) for each in clients)


def test_what_a_resource_lies_in() -> None:
    for resource, parent in (
        ("/subscriptions/S", ""),
        ("/subscriptions/S/resourceGroups/Rg", "/subscriptions/s"),
        ("/subscriptions/S/resourceGroups/rg/providers/M.C/accounts/A", "/subscriptions/s/resourcegroups/rg"),
        (
            "/subscriptions/S/resourceGroups/rg/providers/M.C/accounts/A/deployments/d",
            "/subscriptions/s/resourcegroups/rg/providers/m.c/accounts/a",
        ),
        ("/providers/Entrepot.Access/organizations/x", ""),
        ("/subscriptions/S/providers/Microsoft.Authorization/roleAssignments/g", "/subscriptions/s"),
    ):
        assert parent_of(resource) == parent


def test_who_asks_for_the_whole_runs_what_it_ran() -> None:
    publisher = Publisher(Ed25519PrivateKey.generate())
    publisher.tell("Edge", Seen(Revision(1, 7), True, 1, "::1"))
    publisher.tell("edge", Seen(None, False, 2, "::1"))
    seen = publisher.seen("edge")
    assert seen is not None
    assert (seen.revision, seen.ready, seen.at_ms) == (Revision(1, 7), False, 2)
