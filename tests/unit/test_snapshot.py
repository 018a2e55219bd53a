"""A world compiled to what calls need: keys, accounts, candidates and what the policy makes of them."""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from entrepot.config import Config
from entrepot.gateway.admit import judge, refusal
from entrepot.gateway.call import Occasion
from entrepot.origin.resolve import Origin
from entrepot.resources import model as declared
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Compiled, Published, Revision, Snapshot, decode, encode, publish_files
from harness import BASE_PACK, Account, Upstream, World

SKUS = tuple((sku, "gpt-4o", sku) for sku in ("Standard", "DataZoneStandard", "GlobalStandard"))
UPSTREAMS = [
    Upstream("west", "http://w.example", region="westeurope", priority=1),
    Upstream("korea-b", "http://k.example", region="koreacentral", priority=2),
    Upstream("korea-a", "http://k.example", region="koreacentral", priority=2),
    Upstream("japan", "http://j.example", region="japaneast", priority=3),
    Upstream("other", "http://o.example", {"gpt-4o-mini": "x"}),
]


def snapshot_of(files: dict[str, bytes], config: Config) -> Snapshot:
    return Compiled.whole(publish_files(files, config)).snapshot


def compiled(*accounts: Account, upstreams: list[Upstream] = UPSTREAMS, gateway: str = "", **environ: str) -> Snapshot:
    world = World(Path(), upstreams, list(accounts) or [Account("a", deployments=SKUS)], gateway)
    files = {"world.toml": world.text().encode(), "packs/base.toml": BASE_PACK.encode()}
    return snapshot_of(files, Config(Path(), {"UPSTREAM_KEY": "the-operators-key", **environ}))


def problem(*accounts: Account, **given: Any) -> str:
    with pytest.raises(WorldInvalid) as raised:
        compiled(*accounts, **given)
    return str(raised.value)


def test_the_sku_fixes_the_candidates_in_order_of_priority_then_name() -> None:
    found = compiled().accounts["a"].deployments
    assert {name: [c.upstream for c in deployment.candidates] for name, deployment in found.items()} == {
        "Standard": ["japan"],
        "DataZoneStandard": ["korea-a", "korea-b", "japan"],
        "GlobalStandard": ["west", "korea-a", "korea-b", "japan"],
    }
    assert {c.region for c in found["GlobalStandard"].candidates} == {"westeurope", "koreacentral", "japaneast"}


def test_thousands_of_deployments_share_their_candidates() -> None:
    accounts = [Account(f"a{number}", deployments=SKUS) for number in range(3)]
    found = [account.deployments["GlobalStandard"].candidates for account in compiled(*accounts).accounts.values()]
    assert all(one is other for one, other in zip(found[0], found[1], strict=True))
    narrow = Account("narrow", more='residency = ["apac"]', deployments=SKUS)
    masks = [c.mask for c in compiled(accounts[0], narrow).accounts["narrow"].deployments["GlobalStandard"].candidates]
    assert len(masks) == 4


def test_keys_are_found_by_their_hash_alone(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("from-a-file\n")
    by_hash = Account("by-hash", second_key=True)
    text = by_hash.toml(1).partition('key1 = "')[2].partition('"')[0]
    snapshot = compiled(by_hash, Account("other"))
    for key, name in ((by_hash.key, "key1"), (by_hash.key2, "key2")):
        found = snapshot.keys[sha256(key.encode()).digest()]
        assert (found.account.name, found.name) == ("by-hash", name)
    assert len(snapshot.keys) == 3
    assert text.startswith("sha256:")
    assert by_hash.key not in repr(snapshot.accounts)


def test_a_key_of_two_accounts_is_a_mistake() -> None:
    one, other = Account("one"), Account("two")
    text = World(Path(), UPSTREAMS, [one, other]).text()
    digests = [sha256(account.key.encode()).hexdigest() for account in (one, other)]
    files = {"world.toml": text.replace(digests[1], digests[0]).encode(), "packs/base.toml": BASE_PACK.encode()}
    with pytest.raises(WorldInvalid, match="the same key"):
        snapshot_of(files, Config(Path(), {"UPSTREAM_KEY": "k"}))


def test_a_missing_secret_is_named_and_only_named() -> None:
    upstreams = [Upstream("main", "http://x.example", credential="env:NOT_THERE")]
    assert "NOT_THERE" in problem(Account("a"), upstreams=upstreams)


def test_a_secret_that_no_header_can_carry_is_told_without_it() -> None:
    told = problem(Account("a"), UPSTREAM_KEY="two\nlines-of-secret")
    assert "lines-of-secret" not in told
    assert "env:UPSTREAM_KEY" in told


def test_a_key_that_two_accounts_have_from_elsewhere_is_a_mistake_too() -> None:
    one, other = Account("one"), Account("two")
    text = World(Path(), UPSTREAMS, [one, other]).text()
    for number, account in enumerate((one, other)):
        text = text.replace(f"sha256:{sha256(account.key.encode()).hexdigest()}", f"env:KEY_{number}")
    files = {"world.toml": text.encode(), "packs/base.toml": BASE_PACK.encode()}
    with pytest.raises(WorldInvalid, match="have the same key") as raised:
        snapshot_of(files, Config(Path(), {"UPSTREAM_KEY": "k", "KEY_0": "shared-key", "KEY_1": "shared-key"}))
    assert "shared-key" not in str(raised.value)


@pytest.mark.parametrize(("name", "shown"), [("Japan East", b"Japan East"), ("東日本", b"japaneast")])
def test_a_region_is_shown_by_a_name_that_a_header_can_carry(name: str, shown: bytes) -> None:
    world = World(Path(), UPSTREAMS, [Account("a", deployments=SKUS)])
    files = {"world.toml": world.text().replace("Japan East", name).encode(), "packs/base.toml": BASE_PACK.encode()}
    snapshot = snapshot_of(files, Config(Path(), {"UPSTREAM_KEY": "k"}))
    head = snapshot.accounts["a"].deployments["Standard"].candidates[0].region_head
    assert head == b"x-ms-region: %b\r\n" % shown


def test_mistakes_of_packs_are_mistakes_of_the_world() -> None:
    world = World(Path(), UPSTREAMS, [Account("a")])
    files = {"world.toml": world.text().encode(), "packs/base.toml": b'[pack]\nid = "x"\n[[rule]]\nid = "R"\n'}
    with pytest.raises(WorldInvalid) as raised:
        snapshot_of(files, Config(Path(), {"UPSTREAM_KEY": "k"}))
    assert all(found.file == "packs/base.toml" for found in raised.value.problems)


def test_credentials_are_in_heads_and_in_no_repr() -> None:
    snapshot = compiled()
    candidate = snapshot.accounts["a"].deployments["Standard"].candidates[0]
    assert b"the-operators-key" in candidate.head
    assert "the-operators-key" not in repr(snapshot)
    assert "the-operators-key" not in repr(candidate)


@pytest.mark.parametrize(
    ("account", "territory", "permitted", "code"),
    [
        (Account("a"), "JP", {"west", "korea-a", "korea-b", "japan"}, None),
        (Account("a"), "CN", set(), "unsupported_country"),
        (Account("a"), "unknown", set(), "unsupported_country"),
        (Account("a", territory="CN"), "JP", set(), "unsupported_country"),
        (Account("a", channel="cloud", territory="CN"), "CN", {"west", "korea-a", "korea-b", "japan"}, None),
        (Account("a", flag="not-in-europe"), "JP", {"korea-a", "korea-b", "japan"}, None),
        (Account("a", kyc="pending"), "JP", set(), "access_denied"),
        (Account("a", state="suspended"), "JP", set(), "account_suspended"),
        (Account("a", flag="needs-licence"), "JP", set(), "licence_required"),
    ],
)
def test_each_candidate_is_a_decision_of_its_own(
    account: Account, territory: str, permitted: set[str], code: str | None
) -> None:
    account.deployments = SKUS
    snapshot = compiled(account)
    found = snapshot.accounts["a"]
    deployment = found.deployments["GlobalStandard"]
    origin = Origin(territory, "business", attested=False, source="site")
    occasion = Occasion(time.time_ns() // 1_000_000, origin, "chat")
    decisions = judge(snapshot.program, found, deployment, occasion)
    assert {c.upstream for c, d in zip(deployment.candidates, decisions, strict=True) if d.permit} == permitted
    assert judge(snapshot.program, found, deployment, occasion) == decisions
    if code is not None:
        error = refusal(found, decisions)
        assert (error.code.label if code == "unsupported_country" else error.name).startswith(code[:11])


def test_names_and_domains() -> None:
    snapshot = compiled(gateway='data_domain = "models.example.com"\n')
    assert snapshot.data_domain == ".models.example.com"
    assert compiled().data_domain is None


def test_a_decoded_world_has_equal_parts_once() -> None:
    quota = declared.Quota(requests_per_minute=7)
    given = declared.World(
        organizations=tuple(
            declared.Organization(name, name.title(), "JP", "enterprise", limits=quota) for name in ("one", "two")
        ),
        subscriptions=tuple(declared.Subscription(f"s-{name}", name, "harbour") for name in ("one", "two")),
        accounts=tuple(
            declared.Account(
                f"account-{name}",
                f"s-{name}",
                "rg",
                "japaneast",
                "direct",
                "harbour",
                declared.Keys("sha256:" + name),
                limits=quota,
                deployments=(
                    declared.Deployment("chat", "gpt-4o", "1"),
                    declared.Deployment(name, "gpt-4o", "1", capacity=5),
                ),
            )
            for name in ("one", "two")
        ),
    )
    published = Published(Revision(1, 2), given)
    decoded = decode(encode(published))
    assert decoded == published
    assert isinstance(decoded, Published)
    world = decoded.world
    (one, two), (first, second) = world.accounts, world.organizations
    assert one.location is two.location
    assert one.deployments[0] is two.deployments[0]
    assert one.deployments[0] is not one.deployments[1]
    assert one.deployments[0].model is two.deployments[1].model
    assert one.limits is two.limits is first.limits is second.limits
    assert one.subscription is world.subscriptions[0].id
    assert world.subscriptions[1].organization is second.name
