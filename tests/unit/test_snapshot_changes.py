"""A snapshot reached by changes is the one that compiling the result gives; a publication survives its encoding."""

from __future__ import annotations

import gc
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.gateway.admit import judge
from entrepot.gateway.call import Occasion
from entrepot.origin.resolve import Origin, Resolver
from entrepot.policy import Program
from entrepot.resources import model
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import (
    Account,
    Candidate,
    Compiled,
    Delta,
    Deployment,
    Issuer,
    Published,
    Revision,
    Snapshot,
    Standing,
    applied,
    decode,
    difference,
    encode,
)
from entrepot.snapshot.clients import Clients
from entrepot.snapshot.targets import Targets
from harness import BASE_PACK

AT_MS = 1_790_000_000_000
KINDS = (Snapshot, Account, Resolver, Program, Clients, Targets)
NETWORKS = ("10.1.0.0/16", "10.2.0.0/16")
MODELS = (("gpt-4o", "1"), ("mini", "2"), ("nobody-serves", "1"))
REGIONS = ("japaneast", "koreacentral", "westeurope", "nowhere")
FIRST = Revision(2, 7)


def digest(key: str) -> str:
    return "sha256:" + sha256(key.encode()).hexdigest()


CATALOGUE = model.World(
    gateway=model.Gateway(territory="JP"),
    operators=(model.Operator("harbour", "Harbour", "JP"),),
    regions=(
        model.Region("japaneast", "JP", "harbour", ("apac",)),
        model.Region("koreacentral", "KR", "harbour", ("apac",)),
        model.Region("westeurope", "NL", "harbour", ("eu",)),
    ),
    providers=(model.Provider("openai"),),
    upstreams=tuple(
        model.Upstream(name, "openai", region, "openai", "http://x.example/v1", "secret:up", {"gpt-4o@1": "g", **more})
        for name, region, more in (("a", "japaneast", {"mini@2": "m"}), ("b", "westeurope", {}), ("c", "japaneast", {}))
    ),
    packs=(model.PackSource("base.toml", BASE_PACK.encode()),),
)
OCCASIONS = [
    Occasion(AT_MS + days * 86_400_000, Origin(territory, "business", attested=False, source="site"), "chat")
    for days in (-400, 0, 400)
    for territory in ("JP", "CN", "unknown")
]


def names(prefix: str, count: int) -> st.SearchStrategy[str]:
    return st.integers(0, count - 1).map(lambda number: f"{prefix}{number}")


def listed(each: st.SearchStrategy[Any], name: str) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, max_size=3, unique_by=lambda client: getattr(client, name)).map(tuple)


organizations = st.builds(
    model.Organization,
    names("o", 3),
    st.just("An Organization"),
    st.sampled_from(["JP", "CN", "unknown"]),
    st.just("enterprise"),
    kyc=st.sampled_from(["approved", "pending"]),
    kyc_expires_ms=st.sampled_from([None, AT_MS]),
    screening=st.just("clear"),
    flag=st.sampled_from([(), ("needs-licence",), ("not-in-europe",)]),
)
subscriptions = st.builds(model.Subscription, names("s", 3), names("o", 3))
deployments = st.builds(
    lambda name, served, sku: model.Deployment(name, *served, sku),
    names("d", 3),
    st.sampled_from(MODELS[:1] * 8 + MODELS),
    st.sampled_from(["Standard", "DataZoneStandard", "GlobalStandard", "GlobalStandard"]),
)
accounts = st.builds(
    model.Account,
    names("a", 4),
    names("s", 3),
    st.just("rg"),
    st.sampled_from(REGIONS[:1] * 9 + REGIONS),
    st.sampled_from(["direct", "cloud"]),
    st.sampled_from(["harbour"] * 12 + ["nobody"]),
    st.builds(model.Keys, names("k", 9).map(digest), st.none() | names("k", 9).map(digest)),
    state=st.sampled_from(["active", "suspended"]),
    residency=st.sampled_from([(), ("JP",), ("eu",)]),
    egress=st.sampled_from([(), (model.Egress(NETWORKS[0], "CN"),), tuple(model.Egress(n, "JP") for n in NETWORKS)]),
    deployments=listed(deployments, "name"),
    disable_local_auth=st.booleans(),
)
gone = st.one_of(
    st.tuples(st.just("organization"), names("o", 3)),
    st.tuples(st.just("subscription"), names("s", 3)),
    st.tuples(st.just("account"), names("a", 4)),
)
changes = st.builds(
    Delta,
    st.just(FIRST),
    st.just(FIRST),
    listed(organizations, "name"),
    listed(subscriptions, "id"),
    listed(accounts, "name"),
    st.lists(gone, max_size=2).map(tuple),
    grants=st.none() | st.dictionaries(names("p", 2), st.sampled_from([("/",), ("/subscriptions/s0",)])),
)


def whole(world: model.World = CATALOGUE, revision: Revision = FIRST, **more: Any) -> Published:
    return Published(revision, world, {"secret:up": "the-operators-key"}, **more)


@cache
def empty() -> Compiled:
    """It lends its program, which would take most of the time."""
    return Compiled.whole(whole())


def spelled(part: Any) -> Any:
    """What a part of a snapshot says, for comparing: the snapshot's own parts are found by their identity."""
    if isinstance(part, tuple):
        return tuple(spelled(each) for each in part)
    if isinstance(part, Standing | Deployment | Candidate):
        return {name: spelled(getattr(part, name)) for name in type(part).__slots__}
    return part


def behaviour(compiled: Compiled) -> dict[str, Any]:
    """All that a call can tell."""
    snapshot = compiled.snapshot
    decided = {
        (account.name, deployment.name): [judge(snapshot.program, account, deployment, each) for each in OCCASIONS]
        for account in snapshot.accounts.values()
        for deployment in account.deployments.values()
    }
    return {
        "revision": snapshot.revision,
        "keys": {found: (key.account.name, key.name) for found, key in snapshot.keys.items()},
        "accounts": {
            name: (account.given, account.organization, spelled(account.standing), account.egress is None)
            for name, account in snapshot.accounts.items()
        },
        "deployments": {
            account.name: [spelled(each) for each in account.deployments.values()]
            for account in snapshot.accounts.values()
        },
        "decided": decided,
        "grants": snapshot.grants,
        "own": all(key.account is snapshot.accounts[key.account.name] for key in snapshot.keys.values()),
    }


def contents(published: Published) -> dict[str, Any]:
    world = published.world
    clients = {kind: set(getattr(world, kind)) for kind in ("organizations", "subscriptions")}
    by_name = {account.name: account for account in world.accounts}
    bare = msgspec.structs.replace(world, organizations=(), subscriptions=(), accounts=())
    return {**clients, "accounts": by_name, "world": bare, "rest": (published.issuer, published.grants)}


def attempt(work: Any) -> Any:
    try:
        return work()
    except WorldInvalid:
        return None


@settings(max_examples=100, deadline=None)
@given(st.lists(changes, min_size=1, max_size=8))
def test_any_changes_give_what_compiling_the_result_gives(deltas: list[Delta]) -> None:
    published = whole()
    compiled = start = empty()
    for number, drawn in enumerate(deltas):
        delta = msgspec.structs.replace(
            drawn, after=published.revision, revision=Revision(FIRST.epoch, FIRST.n + 1 + number)
        )
        before = behaviour(compiled)
        result = applied(published, delta)
        wanted, found = attempt(lambda: Compiled.whole(result, start)), attempt(lambda: compiled.changed(delta))  # noqa: B023
        assert (wanted is None) == (found is None)
        assert behaviour(compiled) == before
        if found is not None:
            assert behaviour(found) == behaviour(wanted)
            assert contents(found.published()) == contents(result)
            assert behaviour(Compiled.whole(found.published(), start)) == behaviour(found)
            published, compiled = result, found


@settings(max_examples=100, deadline=None)
@given(changes, changes)
def test_a_difference_leads_from_one_to_the_other(first: Delta, second: Delta) -> None:
    one = applied(whole(), msgspec.structs.replace(first, revision=Revision(2, 8)))
    other = msgspec.structs.replace(applied(whole(), second), revision=Revision(2, 9))
    delta = difference(one, other)
    assert delta is not None
    assert contents(applied(one, delta)) == contents(other)
    assert (delta.after, delta.revision) == (one.revision, other.revision)


@settings(max_examples=50, deadline=None)
@given(changes)
def test_what_is_encoded_is_what_is_decoded(delta: Delta) -> None:
    assert decode(encode(delta)) == delta
    published = applied(whole(issuer=Issuer("https://x.example", b"{}", ("a",))), delta)
    assert decode(encode(published)) == published


def test_pieces_join_in_their_order() -> None:
    many = tuple(model.Organization(f"o{n}", "O", "JP", "enterprise") for n in range(1_000))
    published = whole(msgspec.structs.replace(CATALOGUE, organizations=many))
    assert decode(encode(published)) == published


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa1a\x01", encode(whole())[:-9], encode(whole()) + b"x"])
def test_what_is_no_publication_is_refused(data: bytes) -> None:
    with pytest.raises(WorldInvalid, match="cannot be read"):
        decode(data)


ORGANIZATION = model.Organization("o", "O", "JP", "enterprise", "approved", screening="clear")
SUBSCRIPTION = model.Subscription("s", "o")
ONE = model.Account("one", "s", "rg", "japaneast", "cloud", "harbour", model.Keys(digest("k1"), digest("k2")))
TWO = msgspec.structs.replace(ONE, name="two", keys=model.Keys(digest("k3")))
SERVED = whole(
    msgspec.structs.replace(
        CATALOGUE, organizations=(ORGANIZATION,), subscriptions=(SUBSCRIPTION,), accounts=(ONE, TWO)
    )
)


def delta(**what: Any) -> Delta:
    return Delta(FIRST, Revision(2, 8), **what)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"accounts": (msgspec.structs.replace(TWO, keys=ONE.keys),)}, "`two` and `one` have the same key"),
        ({"accounts": (msgspec.structs.replace(TWO, subscription="x"),)}, "no subscription `x`"),
        ({"accounts": (msgspec.structs.replace(TWO, location="x"),)}, "no region `x`"),
        ({"accounts": (msgspec.structs.replace(TWO, operator="x"),)}, "no operator `x`"),
        ({"accounts": (TWO, TWO)}, "`two` is there twice"),
        ({"accounts": (msgspec.structs.replace(TWO, keys=model.Keys("secret:x")),)}, "`secret:x` was not published"),
        (
            {"accounts": (msgspec.structs.replace(TWO, deployments=(model.Deployment("d", "gpt-5", "1"),)),)},
            "no upstream can serve `gpt-5@1`",
        ),
        ({"subscriptions": (model.Subscription("s", "x"),)}, "no organization `x`"),
        ({"gone": (("organization", "o"),)}, "no organization `o`"),
        ({"gone": (("subscription", "s"),)}, "no subscription `s`"),
        ({"secrets": {"secret:up": "other"}}, "another value"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_leaves_what_was(what: dict[str, Any], told: str) -> None:
    compiled = Compiled.whole(SERVED)
    before = behaviour(compiled)
    with pytest.raises(WorldInvalid, match=told):
        compiled.changed(delta(**what))
    assert behaviour(compiled) == before
    good = compiled.changed(
        delta(accounts=(msgspec.structs.replace(TWO, keys=model.Keys("secret:k")),), secrets={"secret:k": "k4"})
    )
    assert good.snapshot.keys[bytes.fromhex(digest("k4")[7:])].account.name == "two"
    assert bytes.fromhex(digest("k3")[7:]) not in good.snapshot.keys


def test_a_key_moves_from_one_account_to_another_in_one_change() -> None:
    swapped = (msgspec.structs.replace(ONE, keys=TWO.keys), msgspec.structs.replace(TWO, keys=ONE.keys))
    keys = Compiled.whole(SERVED).changed(delta(accounts=swapped)).snapshot.keys
    assert {bytes.fromhex(digest(f"k{n}")[7:]): name for n, name in ((1, "two"), (2, "two"), (3, "one"))} == {
        found: key.account.name for found, key in keys.items()
    }


def test_a_change_to_another_revision_is_refused() -> None:
    changed = Compiled.whole(SERVED).changed(delta())
    assert changed.revision == Revision(2, 8)
    with pytest.raises(WorldInvalid, match=r"revision 2\.7, and this is 2\.8"):
        changed.changed(delta())


def test_what_a_change_does_not_touch_is_the_same_object() -> None:
    compiled = Compiled.whole(SERVED)
    changed = compiled.changed(delta(accounts=(msgspec.structs.replace(TWO, state="suspended"),)))
    assert changed.snapshot.accounts["one"] is compiled.snapshot.accounts["one"]
    assert changed.snapshot.accounts["two"] is not compiled.snapshot.accounts["two"]
    both = compiled.changed(delta(organizations=(msgspec.structs.replace(ORGANIZATION, kyc="expired"),)))
    assert all(account.organization.kyc == "expired" for account in both.snapshot.accounts.values())


def test_a_whole_borrows_what_is_the_same() -> None:
    compiled = Compiled.whole(SERVED)
    assert Compiled.whole(SERVED, compiled).snapshot.program is compiled.snapshot.program
    pack = model.PackSource("base.toml", BASE_PACK.replace("TEST-", "T-").encode())
    other = msgspec.structs.replace(SERVED, world=msgspec.structs.replace(SERVED.world, packs=(pack,)))
    assert Compiled.whole(other, compiled).snapshot.program.release != compiled.snapshot.program.release


def test_a_larger_change_is_no_difference() -> None:
    for change in (
        {"world": msgspec.structs.replace(SERVED.world, warn_days=7)},
        {"secrets": {"secret:up": "rotated"}},
        {"issuer": Issuer("https://x.example", b"{}", ())},
    ):
        assert difference(SERVED, msgspec.structs.replace(SERVED, **change)) is None
    same = difference(SERVED, msgspec.structs.replace(SERVED, revision=Revision(2, 8)))
    assert same == delta()


def test_a_snapshot_has_no_cycles() -> None:
    """So that what is frozen out of the collector's sight is freed all the same."""

    def alive() -> int:
        return sum(type(each) in KINDS for each in gc.get_objects())

    before = alive()
    compiled = Compiled.whole(SERVED)
    changed = compiled.changed(delta(accounts=(TWO,)))
    changed.snapshot.origins.resolve("10.0.0.1", None, None)
    assert alive() >= before + len(KINDS)
    gc.disable()
    try:
        del compiled, changed
        assert alive() == before
    finally:
        gc.enable()


def test_revisions_are_in_one_order_with_their_numbers() -> None:
    ordered = [Revision(0, 1), Revision(0, 2), Revision(1, 0), Revision(1, 5), Revision(2, 1)]
    assert sorted(ordered, key=Revision.number) == sorted(ordered) == ordered
    assert str(Revision(1, 5)) == "1.5"
    assert Revision(0, 42).number() == 42
