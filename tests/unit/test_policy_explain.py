"""Explanations and timelines: what decides, what would allow it lawfully, and when it changes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from entrepot import policy
from entrepot.gateway.admit import refusal
from entrepot.policy.analysis.explain import Question, explain
from entrepot.policy.analysis.targets import Client, find_client
from entrepot.policy.analysis.timeline import timeline
from entrepot.policy.program import Decision
from entrepot.resources.model import (
    Account,
    Deployment,
    Eligibility,
    Gateway,
    Keys,
    Licence,
    Operator,
    Organization,
    Owner,
    PackSource,
    Provider,
    Region,
    Subscription,
    Upstream,
    World,
)

JULY_9 = 1_720_483_200_000
OWN = """
[pack]
id = "own"
source = { title = "own terms", url = "https://operator.example/terms" }
[set.home]
territories = ["DE", "JP", "SG"]
[set.europe]
territories = ["DE"]
[[rule]]
id = "CLOUD"
effect = "forbid"
when = { account.channel = "cloud", org.territory = "CN" }
unless = [{ org.eligibility = "openai@cloud", org.licence = "valid" }]
code = "access_denied"
clause = "§7"
[[rule]]
id = "OWNED-25"
effect = "forbid"
from = 2030-01-01T00:00:00Z
when = { org.owned_25 = "@!home" }
[[rule]]
id = "OWNED-50"
effect = "forbid"
from = 2030-01-01T00:00:00Z
when = { org.owned_50 = "@!home" }
[[rule]]
id = "OWNED-OVER-50"
effect = "forbid"
from = 2030-01-01T00:00:00Z
when = { org.owned_over_50 = "@!home" }
[[rule]]
id = "RESIDENCY"
effect = "forbid"
when = { target.in_residency = false }
"""

WORLD = World(
    gateway=Gateway(territory="JP"),
    operators=(Operator("harbour", "H", "JP"), Operator("dock", "D", "DE")),
    regions=(Region("japaneast", "JP", "harbour", ("apac",)), Region("germany", "DE", "dock", ("eu",))),
    providers=(Provider("openai"),),
    upstreams=(
        Upstream("jp-1", "openai", "japaneast", "openai", "https://jp.example/v1", "none", {"gpt-4o@1": "x"}),
        Upstream("de-1", "openai", "germany", "openai", "https://de.example/v1", "none", {"gpt-4o@1": "x"}),
        Upstream("de-2", "openai", "germany", "openai", "https://de.example/v1", "none", {"other@1": "x"}),
    ),
    organizations=(
        Organization(
            "robotics", "R", "CN", "enterprise", kyc="approved", screening="clear",
            licence=Licence("L", expires_ms=1_800_000_000_000), eligibility=(Eligibility("openai@cloud"),),
        ),
        Organization("person", "P", "CN", "individual", kyc="pending", screening="clear"),
        Organization("gmbh", "G", "DE", "enterprise", kyc="approved", screening="clear"),
    ),
    subscriptions=(Subscription("s1", "robotics"), Subscription("s2", "person"), Subscription("s3", "gmbh")),
    accounts=(
        Account("robotics-ai", "s1", "rg", "japaneast", "cloud", "harbour", Keys("x"),
                deployments=(Deployment("d", "gpt-4o", "1", "GlobalStandard"),)),
        Account("person-ai", "s2", "rg", "japaneast", "cloud", "harbour", Keys("x"),
                deployments=(Deployment("d", "gpt-4o", "1"),)),
        Account("gmbh-ai", "s3", "rg", "japaneast", "direct", "harbour", Keys("x"), residency=("eu",),
                deployments=(Deployment("d", "gpt-4o", "1"), Deployment("wide", "gpt-4o", "1", "GlobalStandard"))),
    ),
)  # fmt: skip

PROGRAM = policy.compile(
    policy.parse(
        [
            policy.shipped("entrepot:base"),
            policy.shipped("entrepot:openai-api"),
            PackSource("own.toml", OWN.encode()),
        ]
    )
)


def ways(client: Client, question: Question) -> list[list[tuple[str, str]]]:
    found = explain(PROGRAM, WORLD, client, question)
    return [[(change.fact, change.to) for change in way] for way in found.would_allow]


def test_before_and_at_the_instant_of_the_rule() -> None:
    client = find_client(WORLD, "gmbh-ai", "wide")
    before = explain(PROGRAM, WORLD, client, Question(JULY_9 - 1, "CN"))
    at = explain(PROGRAM, WORLD, client, Question(JULY_9, "CN"))
    assert (before.decision, at.decision) == ("allow", "refuse")
    assert at.code == "unsupported_territory"
    assert [target.upstream for target in at.targets] == ["de-1", "jp-1"]
    (first, second) = at.targets
    assert [rule.id for rule in first.rules] == ["OPENAI-TERR-01"]
    assert [rule.id for rule in second.rules] == ["OPENAI-TERR-01", "RESIDENCY"]
    assert first.rules[0].source is not None
    assert first.rules[0].clause
    assert before.would_allow == ()


def test_a_way_never_leads_through_another_origin_or_territory() -> None:
    client = find_client(WORLD, "gmbh-ai", "wide")
    for way in ways(client, Question(JULY_9, "CN")):
        assert not {fact for fact, _ in way} & {"origin.territory", "origin.network", "org.territory"}
    assert ways(client, Question(JULY_9, "CN")) == [[("account.channel", "cloud")]]


def test_before_and_after_a_licence_expires() -> None:
    client = find_client(WORLD, "robotics-ai", "d")
    assert explain(PROGRAM, WORLD, client, Question(1_800_000_000_000 - 1, "CN")).decision == "allow"
    after = explain(PROGRAM, WORLD, client, Question(1_800_000_000_000, "CN"))
    assert (after.decision, after.code) == ("refuse", "access_denied")
    assert ways(client, Question(1_800_000_000_000, "CN")) == [[("org.licence", "valid")]]


def test_the_smallest_changes_come_together() -> None:
    client = find_client(WORLD, "person-ai", "d")
    assert ways(client, Question(JULY_9, "CN")) == [
        [("org.eligibility", "openai@cloud"), ("org.kyc", "approved"), ("org.licence", "valid")]
    ]


def test_another_region_is_a_lawful_change() -> None:
    client = find_client(WORLD, "gmbh-ai", "d")
    assert explain(PROGRAM, WORLD, client, Question(JULY_9, "DE")).decision == "refuse"
    assert ways(client, Question(JULY_9, "DE")) == [[("target.region", "germany")]]


@pytest.mark.parametrize(
    ("owners", "rules"),
    [
        ((Owner("A", "CN", 50_000_000), Owner("B", "DE", 50_000_000)), {"OWNED-25", "OWNED-50"}),
        ((Owner("A", "CN", 50_100_000), Owner("B", "DE", 49_900_000)), {"OWNED-25", "OWNED-50", "OWNED-OVER-50"}),
        ((Owner("A", "CN"), Owner("B", "DE", 40_000_000)), {"OWNED-25", "OWNED-50", "OWNED-OVER-50"}),
        ((Owner("A", "CN"), Owner("B", "DE", 60_000_000)), {"OWNED-25"}),
        ((Owner("B", "DE", 100_000_000),), set()),
    ],
)
def test_an_owner_under_the_three_thresholds(owners: tuple[Owner, ...], rules: set[str]) -> None:
    client = find_client(WORLD, "gmbh-ai", "wide")
    client = client._replace(organization=replace(client.organization, owners=owners))
    found = explain(PROGRAM, WORLD, client, Question(1_900_000_000_000, "DE"))
    assert {rule.id for rule in found.targets[0].rules if rule.effect == "forbid"} == rules


def test_a_timeline_names_what_changes() -> None:
    client = find_client(WORLD, "robotics-ai", "d")
    client = client._replace(organization=replace(client.organization, owners=(Owner("A", "CN", 100_000_000),)))
    found = list(timeline(PROGRAM, WORLD, client, Question(0, "CN")))
    assert [stretch.decision for stretch in found] == ["allow", "refuse", "refuse"]
    assert found[0].from_ms is None
    assert found[1].from_ms == found[0].until_ms == 1_800_000_000_000
    assert found[1].because == ("org.licence: valid → expired",)
    assert found[2].because == ("OWNED-25 takes effect", "OWNED-50 takes effect", "OWNED-OVER-50 takes effect")
    assert found[2].until_ms is None
    assert found[0].rules == ("BASE-01",)


PLACES = """
[pack]
id = "places"
[[rule]]
id = "GERMANY"
effect = "forbid"
when = { target.region = "germany" }
[[rule]]
id = "JAPAN"
effect = "forbid"
when = { target.region = "japaneast" }
code = "no_chat"
"""


def test_the_code_is_the_one_that_the_gateway_tells() -> None:
    program = policy.compile(
        policy.parse([policy.shipped("entrepot:base"), PackSource("places.toml", PLACES.encode())])
    )
    client = find_client(WORLD, "gmbh-ai", "wide")
    found = explain(program, WORLD, client, Question(JULY_9, "DE"))
    assert [(target.upstream, target.code) for target in found.targets] == [
        ("de-1", "access_denied"),
        ("jp-1", "no_chat"),
    ]
    decisions = tuple(Decision(permit=False, rules=(), code=code, reason={}) for code in (None, "no_chat"))
    told = refusal(client, decisions)  # type: ignore[arg-type]
    assert found.code == (told.name or told.code.label) == "access_denied"
    assert next(timeline(program, WORLD, client, Question(0, "DE"))).code == "access_denied"


def test_without_a_target_the_code_says_so() -> None:
    client = find_client(WORLD, "gmbh-ai", "d")
    client = client._replace(deployment=Deployment("d", "nothing", "1"))
    found = explain(PROGRAM, WORLD, client, Question(JULY_9, "DE"))
    assert (found.decision, found.code) == ("refuse", "no_target")
    assert next(timeline(PROGRAM, WORLD, client, Question(0, "DE"))).code == "no_target"


def test_what_there_is_not() -> None:
    with pytest.raises(LookupError, match="`gmbh-ai` has no deployment `x`; it has `d`, `wide`"):
        find_client(WORLD, "gmbh-ai", "x")
    with pytest.raises(LookupError, match="there are `gmbh-ai`, `person-ai`, `robotics-ai`"):
        find_client(WORLD, "x", "d")
