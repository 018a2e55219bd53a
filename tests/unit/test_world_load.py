"""A valid world becomes the structs, and what is spelled otherwise in TOML arrives where it belongs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from world_texts import HASH, SECOND_ACCOUNT, WORLD, changed, load, only

from entrepot.resources import model
from entrepot.resources.candidates import candidate_regions


def ms(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]


def test_the_whole_world_arrives() -> None:
    loaded = load(WORLD)
    world = loaded.world
    assert loaded.warnings == ()
    assert world.gateway.listen == "127.0.0.1:0"
    assert world.gateway.admin_listen == model.Gateway().admin_listen
    assert world.sites == (model.Site("10.20.0.0/16", "JP"),)
    assert world.regions[0] == model.Region("japaneast", "JP", "harbour", ("apac",))
    assert world.upstreams[0].models == {"gpt-4o@2024-11-20": "gpt-4o-prod"}
    assert world.organizations[0].owners == (
        model.Owner("Delta", "CN", 60_000_000),
        model.Owner("Isle", "SG", 20_000_000, "Delta"),
    )
    account = world.accounts[0]
    assert account.keys == model.Keys(HASH)
    assert account.egress == (model.Egress("203.0.113.0/24", "CN"),)
    assert account.deployments == (model.Deployment("gpt-4o", "gpt-4o", "2024-11-20", "GlobalStandard"),)
    assert world.packs == (model.PackSource("entrepot:base", b"base"),)


def test_files_are_read_together_and_their_order_does_not_matter() -> None:
    head, _, tail = WORLD.partition("[[organization]]")
    assert (
        load(head, "[[organization]]" + tail).world == load("[[organization]]" + tail, head).world == load(WORLD).world
    )


def test_two_loads_of_the_same_bytes_are_equal() -> None:
    assert load(WORLD) == load(WORLD)


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("2027-01-31", ms(2027, 1, 31)),
        ("2027-01-31T00:00:00Z", ms(2027, 1, 31)),
        ("2027-01-31T09:00:00.5+09:00", ms(2027, 1, 31) + 500),
    ],
)
def test_instants(written: str, want: int) -> None:
    text = changed('entity_type = "enterprise"', f'entity_type = "enterprise"\nkyc_expires = {written}')
    assert load(text).world.organizations[0].kyc_expires_ms == want


def test_what_is_spelled_otherwise() -> None:
    extra = """
kyc = "approved"
screening = "clear"
registration = { kind = "lei", number = "5493000IBP32UQZ0KL24" }
licence = { number = "L-1", expires = 2030-01-01 }
eligibility = ["openai@cloud", { name = "trial", expires = 2027-01-01 }]
flag = ["pilot"]
"""
    organization = load(
        changed('entity_type = "enterprise"', 'entity_type = "enterprise"' + extra)
    ).world.organizations[0]
    assert organization.licence == model.Licence("L-1", ms(2030, 1, 1))
    assert organization.eligibility == (model.Eligibility("openai@cloud"), model.Eligibility("trial", ms(2027, 1, 1)))
    assert organization.flag == ("pilot",)


@pytest.mark.parametrize(
    ("share", "want"), [("33.333333", 33_333_333), ("0.1", 100_000), ("100", 100_000_000), ('"unknown"', None)]
)
def test_shares_are_exact(share: str, want: int | None) -> None:
    assert load(changed("share = 60.0", f"share = {share}")).world.organizations[0].owners[0].share_micros == want


def test_models_and_prices() -> None:
    text = """
[[model]]
name = "gpt-4o"
version = "2024-11-20"
provider = "openai"
prices = [{ from = 2024-11-20, input_micros = 2_500_000, output_micros = 10_000_000, cached_micros = 1_250_000 }]
"""
    found = load(WORLD + text).world.models[0]
    assert found.prices == (model.Price(ms(2024, 11, 20), 2_500_000, 10_000_000, 1_250_000, "USD"),)


def test_spellings_are_made_one() -> None:
    text = changed('territory = "CN"\nentity', 'territory = "cn"\nentity')
    text = text.replace("https://jp.example/v1", "https://jp.example/v1/").replace(HASH, HASH.replace("0a", "0A"))
    world = load(text.replace("10.20.0.0/16", "2001:DB8:0::/48")).world
    assert world.organizations[0].territory == "CN"
    assert world.upstreams[0].base_url == "https://jp.example/v1"
    assert world.accounts[0].keys.key1 == HASH
    assert world.sites[0].network == "2001:db8::/48"


def test_a_plain_key_is_warned_of_and_hashed() -> None:
    text = changed(HASH, "s3cret-of-the-client")
    problem = only(text)
    assert (problem.level, problem.key) == ("warning", "account[robotics-ai].keys.key1")
    assert "s3cret" not in str(problem)
    digest = hashlib.sha256(b"s3cret-of-the-client").hexdigest()
    assert load(text).world.accounts[0].keys.key1 == f"sha256:{digest}"
    assert "s3cret" not in repr(load(text))


def test_packs_of_the_folder_are_carried_and_are_no_world_files() -> None:
    text = changed('["entrepot:base"]', '["packs/own.toml", "beside.toml", "entrepot:openai-api"]')
    world = load(text, packs__own=b"not = a world", beside=b"[nor]\nthis = 1").world
    assert [(pack.name, pack.data) for pack in world.packs] == [
        ("packs/own.toml", b"not = a world"),
        ("beside.toml", b"[nor]\nthis = 1"),
        ("entrepot:openai-api", b"openai"),
    ]


def test_overlapping_egress_of_two_accounts_is_allowed() -> None:
    text = SECOND_ACCOUNT + 'egress = [{ network = "203.0.113.0/25", territory = "JP" }]\n'
    assert len(load(WORLD, text).world.accounts) == 2


REGIONS = {
    region.name: region
    for region in (
        model.Region("a", "JP", "o", ("x", "y")),
        model.Region("b", "SG", "o", ("y",)),
        model.Region("c", "DE", "o", ("z",)),
        model.Region("d", "FR", "o"),
    )
}


@pytest.mark.parametrize(
    ("sku", "location", "want"),
    [
        ("Standard", "a", "a"),
        ("DataZoneStandard", "a", "ab"),
        ("DataZoneStandard", "c", "c"),
        ("DataZoneStandard", "d", ""),
        ("GlobalStandard", "d", "abcd"),
        ("Standard", "elsewhere", ""),
        ("DataZoneStandard", "elsewhere", ""),
    ],
)
def test_candidate_regions(sku: model.Sku, location: str, want: str) -> None:
    assert candidate_regions(sku, location, REGIONS) == frozenset(want)
