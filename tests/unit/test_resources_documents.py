"""Resources as JSON documents: to the structs of a world and back, with the world format's own rules."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from world_texts import WORLD

from entrepot.management.arm.catalogue import Catalogue, Served
from entrepot.resources import model as declared
from entrepot.resources.checking import check_world
from entrepot.resources.documents import Document, Reading, body_of, documents_of, milliseconds, timestamp
from entrepot.resources.ids import access_id, account_id, deployment_id, parent_account, part, site_name
from entrepot.resources.load import load_world
from entrepot.resources.model import World
from entrepot.resources.problems import WorldInvalid
from worlds import demo_world

NAMES = ("alpha", "beta-2", "Gamma.3", "delta_4")
TERRITORIES = ("JP", "CN", "DE", "UA-43")
INSTANTS = (0, 1_790_000_000_000, 1_790_000_000_123, 253_402_300_799_999, -86_400_000)


def world_of(documents: list[Document], before: World) -> World:
    """What a control plane would make of them; keys and credentials come from `before`."""
    reading = Reading()
    known: dict[str, list[Any]] = {}
    keys = {each.name: each.keys for each in before.accounts}
    secrets = {each.name: each.credential for each in before.upstreams}
    # As it would come out of a database: through JSON.
    documents = [each._replace(body=msgspec.json.decode(msgspec.json.encode(each.body))) for each in documents]
    for each in documents:
        if each.kind == "subscription":
            found: Any = reading.subscription(each)
        elif each.kind == "account":
            inside = [one for one in documents if one.kind == "deployment" and parent_account(one.id) == each.id]
            of = next(one for one in known["subscription"] if one.id == part(each.id, "subscriptions"))
            found = reading.account(each, inside, of, keys[each.name])
        elif each.kind in ("resourceGroup", "deployment"):
            continue
        else:
            found = reading.resource(each)
            if each.kind == "upstream" and found.credential == "secret":
                found = msgspec.structs.replace(found, credential=secrets[found.name])
        assert found is not None, reading.problems()
        known.setdefault(each.kind, []).append(found)
    check_world(reading.sheet, reading.place)
    assert not reading.sheet.errors, reading.problems()
    kinds = ("site", "operator", "region", "provider", "upstream", "model", "organization", "subscription", "account")
    return msgspec.structs.replace(before, **{f"{kind}s": tuple(known.get(kind, ())) for kind in kinds})


def contracted(world: World) -> World:
    """Subscriptions with the contract of their accounts, as `documents_of` has them."""
    of = {account.subscription: account for account in world.accounts}
    return msgspec.structs.replace(
        world,
        subscriptions=tuple(
            msgspec.structs.replace(each, operator=of[each.id].operator, channel=of[each.id].channel)
            if each.id in of
            else each
            for each in world.subscriptions
        ),
    )


def test_the_shipped_world_comes_back() -> None:
    world = demo_world()
    assert world_of(documents_of(world), world) == contracted(world)


def test_a_world_of_files_comes_back() -> None:
    world = load_world({"world.toml": WORLD.encode()}, {"base": b""}).world
    assert world_of(documents_of(world), world) == contracted(world)


@pytest.mark.parametrize("seed", range(60))
def test_any_world_comes_back(seed: int) -> None:
    world = any_world(Random(seed))
    documents = documents_of(world)
    assert len({each.id.lower() for each in documents}) == len(documents)
    assert world_of(documents, world) == contracted(world)


def any_world(random: Random) -> World:
    def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(random.sample(values, random.randint(0, len(values))))

    def maybe(value: Any) -> Any:
        return random.choice((None, value))

    regions = tuple(
        declared.Region(name, random.choice(TERRITORIES), random.choice(NAMES), some(("apac", "eu")), maybe("Ä place"))
        for name in NAMES
    )
    upstreams = tuple(
        declared.Upstream(
            name,
            "openai",
            random.choice(NAMES),
            *random.choice((("openai", "https://up.example/v1"), ("azure", "http://127.0.0.1:9/x"))),
            random.choice(("none", "env:KEY")),
            {"gpt-4o@1": "gpt_4o prod", "Some/Model_x@2": "x"},
            priority=random.randint(0, 3),
            weight=random.choice((1, 100)),
            proxy=maybe(declared.Proxy("http://proxy.example:3128", "SG")),
            timeouts=random.choice((declared.Timeouts(), declared.Timeouts(connect_s=1.5, idle_s=7.0))),
        )
        for name in NAMES
    )
    upstreams = tuple(
        msgspec.structs.replace(each, api_version="2024-10-21") if each.api == "azure" else each for each in upstreams
    )
    subscriptions = tuple(
        declared.Subscription(f"0000000{at}-0000-4000-8000-00000000000a", random.choice(NAMES), display_name=maybe("S"))
        for at in range(4)
    )
    contracts = {each.id: (random.choice(("direct", "cloud")), random.choice(NAMES)) for each in subscriptions}
    return World(
        sites=(
            declared.Site("10.0.0.0/8", random.choice((*TERRITORIES, "unknown")), random.choice(("vpn", "unknown"))),
            declared.Site("2001:db8::/32", "JP"),
        ),
        operators=tuple(declared.Operator(name, f"{name} 有限公司", random.choice(TERRITORIES)) for name in NAMES),
        regions=regions,
        providers=(declared.Provider("openai", maybe("OpenAI")),),
        upstreams=upstreams,
        models=tuple(
            declared.Model(
                name,
                "2024-11-20",
                maybe("openai"),
                maybe(128_000),
                maybe(4_096),
                random.choice((1_000, 7)),
                tuple(
                    declared.Price(at_ms, random.randint(0, 9), 1, maybe(3), random.choice(("USD", "CNY")))
                    for at_ms in some(INSTANTS)
                ),
            )
            for name in ("gpt-4o", "Some/Model_x")
        ),
        organizations=tuple(any_organization(random, name) for name in NAMES),
        subscriptions=subscriptions,
        accounts=tuple(
            declared.Account(
                f"account-{at}",
                subscription,
                random.choice(("rg", "RG_(2)")),
                "alpha",
                *contracts[subscription],
                declared.Keys("sha256:" + "0a" * 32, maybe("sha256:" + "0b" * 32)),
                random.choice(("active", "suspended")),
                some(("JP", "UA-43")),
                some((declared.Egress("192.0.2.0/24", "JP"), declared.Egress("2001:db8::1/128", "CN", "vpn"))),
                some(
                    (
                        declared.Deployment("chat", "gpt-4o", "1", "GlobalStandard", random.randint(1, 99)),
                        declared.Deployment("other.x", "Some/Model_x", "2", "GlobalStandard"),
                    )
                ),
                random.choice((True, False)),
            )
            for at, subscription in enumerate(random.choices([each.id for each in subscriptions], k=5))
        ),
    )


def any_organization(random: Random, name: str) -> declared.Organization:
    def maybe(value: Any) -> Any:
        return random.choice((None, value))

    owners = (
        declared.Owner("A", "CN", random.choice((0, 1, 33_333_333, 100_000_000, 12_345_678))),
        declared.Owner("B", "JP", None),
        declared.Owner("C", "unknown", random.randint(0, 100_000_000), "A"),
    )
    return declared.Organization(
        name,
        f"{name} “Ltd.”",
        random.choice((*TERRITORIES, "unknown")),
        random.choice(("enterprise", "individual", "public_body", "nonprofit")),
        random.choice(("none", "pending", "approved", "rejected")),
        maybe(random.choice(INSTANTS)),
        random.choice(("clear", "hit", "unknown")),
        maybe(declared.Registration("uscc", "91110000600037341L")),
        maybe(declared.Licence("BL-1", maybe(random.choice(INSTANTS)))),
        random.choice(((), (declared.Eligibility("openai@cloud", maybe(INSTANTS[1])), declared.Eligibility("x")))),
        random.choice(((), ("watched", "x"))),
        random.choice(((), owners)),
    )


@pytest.mark.parametrize("at_ms", INSTANTS)
def test_instants_come_back(at_ms: int) -> None:
    assert milliseconds(timestamp(at_ms)) == at_ms


def test_how_instants_may_be_written() -> None:
    for text, at_ms in (
        ("2027-01-31", 1_801_353_600_000),
        ("2027-01-31T00:00:00Z", 1_801_353_600_000),
        ("2027-01-31T09:00:00.000+09:00", 1_801_353_600_000),
        ("2027-01-31t00:00:00.5z", 1_801_353_600_500),
    ):
        assert milliseconds(text) == at_ms
    for wrong in ("", "soon", "2027-02-30", "2027-01-31T00:00:00", "20270131", "2027-W05", 1_801_353_600_000, None):
        assert milliseconds(wrong) is None, wrong


ORGANIZATION = {"legalName": "A", "territory": "JP", "entityType": "enterprise"}


def mistakes(kind: str, name: str, properties: object) -> list[tuple[str, str, str]]:
    reading = Reading()
    assert reading.resource(Document(kind, access_id(kind, name), name, {"properties": properties})) is None
    return [(each.key, each.what, each.fix) for each in reading.problems() if each.level == "error"]


@pytest.mark.parametrize(
    ("kind", "properties", "key", "text"),
    [
        ("organization", {**ORGANIZATION, "legalname": "B"}, "properties.legalname", "did you mean `legalName`?"),
        ("organization", {**ORGANIZATION, "kyc": "yes"}, "properties.kyc", "`approved`"),
        ("organization", {**ORGANIZATION, "kycExpires": 5}, "properties.kycExpires", "RFC 3339"),
        ("organization", {**ORGANIZATION, "owners": [{"name": "A", "shares": 5}]}, "properties.owners[0].shares", "sh"),
        ("organization", {**ORGANIZATION, "owners": {"name": "A"}}, "properties.owners", "an array"),
        ("organization", {**ORGANIZATION, "owners": [7]}, "properties.owners[0]", "an object"),
        ("organization", {**ORGANIZATION, "eligibility": ["x"]}, "properties.eligibility[0]", "an object"),
        ("organization", [], "", "an object"),
        ("region", {"territory": "Japan", "operator": "x"}, "properties.territory", "ISO 3166"),
        ("model", {"contextTokens": "many"}, "properties.contextTokens", "an integer"),
        ("operator", {"legalName": "A\nB", "territory": "JP"}, "properties.legalName", "control character"),
    ],
)
def test_mistakes_name_their_fields(kind: str, properties: object, key: str, text: str) -> None:
    found = mistakes(kind, "gpt@1" if kind == "model" else "some", properties)
    assert found[0][0] == key
    assert text in f"{found[0][1]} {found[0][2]}"


def test_what_is_missing_is_told_of_its_resource() -> None:
    assert {what for _, what, _ in mistakes("organization", "some", {})} == {
        "missing key `legalName`",
        "missing key `territory`",
        "missing key `entityType`",
    }


def test_upstreams_take_no_reference_to_the_host() -> None:
    given = {"provider": "p", "region": "r", "api": "azure", "baseUrl": "https://x.example", "models": {"a_b@1": "x"}}
    for credential in ("env:PATH", "file:/etc/shadow", "sk-plain"):
        found = mistakes("upstream", "up", {**given, "credential": credential, "apiVersion": "1"})
        assert [key for key, _, _ in found] == ["properties.credential"]
        assert credential not in str(found)
    found = mistakes("upstream", "up", {**given, "credential": "none"})
    assert "`apiVersion`" in found[0][1] or "`api_version`" in found[0][1]
    found = mistakes("upstream", "up", {**given, "credential": "none", "apiVersion": "1", "models": {"a_b": "x"}})
    assert found[0][0] == "properties.models.a_b"


def test_names_are_the_resources_own() -> None:
    reading = Reading()
    given = {"properties": {**ORGANIZATION, "name": "other"}}
    found = reading.resource(Document("organization", access_id("organization", "some"), "some", given))
    assert found.name == "some"
    assert mistakes("site", "10.0.0.0-8", {"network": "10.0.0.0/9", "territory": "JP"})[0][0] == "properties.network"
    assert site_name("2001:db8::/32") == "2001:db8::-32"


def test_what_belongs_to_others_is_passed_over() -> None:
    more = {"operator": "x", "documents": [], "kycReview": {"reviewer": "r"}, "provisioningState": "Succeeded"}
    eligibility = [{"name": "openai@cloud", "grounds": "checked", "proposal": "p"}]
    reading = Reading()
    given = {"properties": {**ORGANIZATION, **more, "eligibility": eligibility, "licence": None}, "tags": {"a": "b"}}
    found = reading.resource(Document("organization", access_id("organization", "some"), "some", given))
    assert found.eligibility == (declared.Eligibility("openai@cloud"),)


SUBSCRIPTION = declared.Subscription("00000000-0000-4000-8000-00000000000a", "org", "op", "direct")
ACCOUNT = account_id(SUBSCRIPTION.id, "rg", "acc")
KEYS = declared.Keys("sha256:" + "0a" * 32)


def account_of(body: dict[str, Any], *deployments: dict[str, Any]) -> tuple[declared.Account | None, Reading]:
    reading = Reading()
    inside = [
        Document("deployment", deployment_id(ACCOUNT, f"d{at}"), f"d{at}", each) for at, each in enumerate(deployments)
    ]
    return reading.account(Document("account", ACCOUNT, "acc", body), inside, SUBSCRIPTION, KEYS), reading


def test_a_tenant_writes_nothing_that_the_policy_reads() -> None:
    given = {
        "channel": "cloud",
        "operator": "evil",
        "subscription": "other",
        "keys": {"key1": "mine"},
        "deployment": [{"name": "x", "model": "m", "version": "1"}],
        "name": "other",
        "resourceGroup": "x",
        "customSubDomainName": "acc",
        "anything": {"at": ["all"]},
    }
    account, _ = account_of({"location": "Japan East", "properties": given, "sku": {"name": "S0"}})
    assert account == declared.Account("acc", SUBSCRIPTION.id, "rg", "japaneast", "direct", "op", KEYS)


def test_deployments_as_clients_write_them() -> None:
    model = {"format": "OpenAI", "name": "gpt-4o", "version": "1"}
    account, _ = account_of(
        {"location": "a"},
        {"sku": {"name": "GlobalStandard", "capacity": "10"}, "properties": {"model": model, "raiPolicyName": "x"}},
        {"sku": {"name": "Standard"}, "properties": {"model": model, "deploymentState": "Paused"}},
    )
    assert account is not None
    assert account.deployments == (declared.Deployment("d0", "gpt-4o", "1", "GlobalStandard", 10),)
    _, reading = account_of({"location": "a"}, {"sku": {"name": "S", "capacity": 0}, "properties": {"model": [model]}})
    told = {(each.file, each.key) for each in reading.problems()}
    deployment = deployment_id(ACCOUNT, "d0")
    assert told == {(deployment, "sku.name"), (deployment, "sku.capacity"), (deployment, "")}


def test_accounts_need_a_contract_and_keys() -> None:
    document = Document("account", ACCOUNT, "acc", {"location": "a"})
    for subscription, keys in (
        (None, KEYS),
        (msgspec.structs.replace(SUBSCRIPTION, operator=None), KEYS),
        (SUBSCRIPTION, None),
    ):
        reading = Reading()
        assert reading.account(document, [], subscription, keys) is None
        assert reading.sheet.errors == 1


def test_a_world_whose_accounts_disagree_is_told_so() -> None:
    world = demo_world()
    second = msgspec.structs.replace(world.accounts[0], name="second", channel="direct")
    with pytest.raises(WorldInvalid, match="a subscription of their own"):
        documents_of(msgspec.structs.replace(world, accounts=(*world.accounts, second)))


def test_no_secret_is_in_a_document() -> None:
    world = any_world(Random(1))
    text = msgspec.json.encode([each.body for each in documents_of(world)]).decode()
    assert "sha256:" not in text
    assert "env:" not in text


def test_gateways_take_the_settings_of_the_instance() -> None:
    settings = Document("settings", "s", "default", {"properties": {"originHeader": "X-Real-IP", "warnDays": 5}})
    trusted = {"trustedProxies": ["10.0.0.0/8"], "territory": "JP", "sealingKey": "x", "limits": {"bodyBytes": 2048}}
    reading = Reading()
    found = reading.gateway(settings, Document("gateway", "g", "edge-1", {"properties": trusted}))
    assert found is not None
    assert (found.log_name, found.origin_header, found.territory) == ("edge-1", "x-real-ip", "JP")
    assert found.limits.body_bytes == 2048
    assert not reading.sheet.errors
    again = reading.gateway(settings, Document("gateway", "g2", "edge-2", {"properties": {"listn": "x"}}))
    assert again is None
    assert [each.key for each in reading.problems() if each.level == "error"] == ["properties.listn"]


def test_bodies_leave_defaults_out() -> None:
    assert body_of("operator", declared.Operator("a", "A", "JP")) == {
        "properties": {"legalName": "A", "territory": "JP"}
    }


def test_a_deployment_says_whose_model_it_is_as_the_control_plane_does() -> None:
    world = demo_world()
    of = {model for upstream in world.upstreams for model in upstream.models}
    for provider, told, expected in (("meta", None, "meta"), ("deepseek", None, "DeepSeek"), ("meta", "xai", "xAI")):
        upstreams = tuple(msgspec.structs.replace(each, provider=provider) for each in world.upstreams)
        models = tuple(declared.Model(*model.split("@"), provider=told) for model in sorted(of))
        found = documents_of(msgspec.structs.replace(world, upstreams=upstreams, models=models))
        deployments = [each.body["properties"]["model"] for each in found if each.kind == "deployment"]
        assert deployments
        catalogue = Catalogue(
            {each.name: each for each in world.regions},
            tuple(Served(each.region, each.provider, tuple(each.models)) for each in upstreams),
            {each.name: each.body["properties"] for each in found if each.kind == "model"},
        )
        for model in deployments:
            assert model["format"] == expected
            assert catalogue.find("southeastasia", expected, model["name"], model["version"]) is not None
