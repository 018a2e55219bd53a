"""What stands between a world and a control plane, worked out without one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from entrepot.cli.export import portable
from entrepot.cli.remote.carry import find_proposal
from entrepot.cli.remote.held import State
from entrepot.cli.remote.plan import STAGES, Plan, plan
from entrepot.cli.remote.widening import digest, organization
from entrepot.errors import Code, Error
from entrepot.management.access.declaring import credential_digest
from entrepot.policy import compile as compile_packs
from entrepot.policy import parse, shipped
from entrepot.resources import model as declared
from entrepot.resources.documents import body_of, documents_of
from entrepot.resources.ids import SETTINGS, access_id
from entrepot.resources.load import load_world
from entrepot.resources.model import World

SECRETS = {"env:ROBOTICS_KEY": "robotics-key", "env:MERIDIAN_KEY": "meridian-key", "env:UP": "up-key"}
ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
WORLD = f"""
[gateway]
territory = "JP"
origin_header = "x-forwarded-for"
trusted_proxies = ["127.0.0.1/32"]
[policy]
packs = ["entrepot:base", "own.toml"]
[[operator]]
name = "harbour"
legal_name = "Harbour Cloud K.K."
territory = "JP"
[[region]]
name = "japaneast"
territory = "JP"
operator = "harbour"
zones = ["apac"]
[[provider]]
name = "openai"
[[upstream]]
name = "jp-1"
provider = "openai"
region = "japaneast"
api = "openai"
base_url = "http://127.0.0.1:1/v1"
credential = "none"
models = {{ "entrepot-tiny@1" = "tiny" }}
[[organization]]
name = "yangtze-robotics"
legal_name = "Yangtze Robotics Co., Ltd."
territory = "CN"
entity_type = "enterprise"
kyc = "approved"
screening = "clear"
eligibility = ["openai@cloud"]
[[organization]]
name = "meridian-labs"
legal_name = "Meridian Labs K.K."
territory = "JP"
entity_type = "enterprise"
[[subscription]]
id = "{ONE}"
organization = "yangtze-robotics"
[[subscription]]
id = "{TWO}"
organization = "meridian-labs"
[[account]]
name = "robotics-ai"
subscription = "{ONE}"
resource_group = "rg-ai"
location = "japaneast"
channel = "cloud"
operator = "harbour"
keys = {{ key1 = "env:ROBOTICS_KEY" }}
residency = ["apac"]
[[account.deployment]]
name = "assistant"
model = "entrepot-tiny"
version = "1"
[[account]]
name = "meridian-direct"
subscription = "{TWO}"
resource_group = "rg-direct"
location = "japaneast"
channel = "direct"
operator = "harbour"
keys = {{ key1 = "env:MERIDIAN_KEY" }}
[[account.deployment]]
name = "assistant"
model = "entrepot-tiny"
version = "1"
sku = "GlobalStandard"
"""
OWN = b"""
[pack]
id = "own"
owner = "x"
source = { title = "terms", retrieved = 2026-11-22 }
[[rule]]
id = "OWN-01"
effect = "forbid"
when = { origin.network = "tor" }
clause = "1"
"""


def whole() -> World:
    return load_world({"world.toml": WORLD.encode(), "own.toml": OWN}, {"base": shipped("entrepot:base").data}).world


def secret(reference: str) -> str:
    if reference not in SECRETS:
        raise Error(Code.NOT_READY, f"the secret `{reference}` is missing")
    return SECRETS[reference]


def held(world: World) -> list[dict[str, Any]]:
    """The rows of a control plane that holds the world."""
    rows: list[dict[str, Any]] = []
    keys = {account.name: account.keys for account in world.accounts}
    credentials = {upstream.name: upstream.credential for upstream in world.upstreams}
    for document in documents_of(world):
        row = {"kind": document.kind, "id": document.id, "name": document.name, "etag": "e1", "body": document.body}
        if document.kind == "account":
            key = keys[document.name].key1
            row["digests"] = {"key1": digest(SECRETS.get(key, key)), "key2": "sha256:" + "0" * 64}
        if document.kind == "upstream" and credentials[document.name] != "none":
            place = f"{document.id.lower()}/credential"
            row["digests"] = {"credential": credential_digest(place, secret(credentials[document.name]))}
        rows.append(msgspec.json.decode(msgspec.json.encode(row)))
    settings = {"originHeader": world.gateway.origin_header, "trustedProxies": list(world.gateway.trusted_proxies)}
    shared = {key: value for key, value in settings.items() if value}
    rows.append({"kind": "settings", "id": SETTINGS, "name": "default", "etag": "e1", "body": {"properties": shared}})
    gateway = {"territory": world.gateway.territory, "listen": "0.0.0.0:8080"}
    name = world.gateway.log_name
    id_ = access_id("gateway", name)
    rows.append({"kind": "gateway", "id": id_, "name": name, "etag": "e1", "body": {"properties": gateway}})
    if world.packs:
        release = compile_packs(parse(world.packs)).release
        packs = [{"name": pack.name, "text": pack.data.decode()} for pack in world.packs]
        body = {"properties": {"state": "inForce", "packs": packs}}
        id_ = access_id("policyRelease", release)
        rows.append({"kind": "policyRelease", "id": id_, "name": release, "etag": "e1", "body": body})
    return rows


def planned(world: World, before: World | None = None, *prune: str) -> Plan:
    return plan(world, State(held(before) if before is not None else []), secret, prune)


def told(found: Plan) -> list[tuple[str, str, str]]:
    return [(step.verb, step.kind, step.name) for step in found.steps]


def test_all_gateways_share_the_store_of_limits_and_one_has_its_access_log() -> None:
    world = whole()
    gateway = msgspec.structs.replace(
        world.gateway, limit_store=declared.LimitStore("env:STORE"), access_log="on", workers=2
    )
    changed = msgspec.structs.replace(world, gateway=gateway)

    def sent(found: Plan) -> dict[str, Any]:
        steps = [step for step in found.steps if step.kind in ("settings", "gateway")]
        return {step.kind: step.requests[0].body["properties"] for step in steps}  # type: ignore[index]

    bodies = sent(planned(changed, world))
    assert bodies["settings"]["limitStore"] == {"url": "env:STORE"}
    assert bodies["gateway"] == {"accessLog": "on", "workers": 2}
    fresh = sent(planned(changed))
    assert (fresh["settings"], fresh["gateway"]["accessLog"]) == (bodies["settings"], "on")
    assert "limitStore" not in fresh["gateway"]  # it would go before what others share


def with_organization(world: World, **changed: Any) -> World:
    first, *rest = world.organizations
    return msgspec.structs.replace(world, organizations=(msgspec.structs.replace(first, **changed), *rest))


def with_account(world: World, **changed: Any) -> World:
    first, *rest = world.accounts
    return msgspec.structs.replace(world, accounts=(msgspec.structs.replace(first, **changed), *rest))


def test_nothing_is_to_do_where_all_is_held() -> None:
    world = whole()
    found = planned(world, world)
    assert found.steps == ()
    assert found.kept == {}
    assert found.unchanged > 10


def test_everything_is_to_do_where_nothing_is_held_and_nothing_waits_for_what_comes_later() -> None:
    found = planned(whole())
    assert not found.problems
    assert {step.verb for step in found.steps} == {"create", "propose"}
    order = [step.stage for steps in found.staged() for step in steps]
    assert order == sorted(order, key=STAGES.index)
    proposed = [proposal.kind for step in found.steps for proposal in step.proposals]
    assert sorted(proposed) == ["eligibility", "policyRelease", "residency"]
    (made,) = [step for step in found.steps if step.kind == "organization" and step.name == "yangtze-robotics"][:1]
    assert "eligibility" not in made.requests[0].body["properties"]
    assert made.requests[0].etag == ""


def test_only_what_changed_is_changed_and_only_what_was_looked_at() -> None:
    world = whole()
    found = planned(with_organization(world, legal_name="Another"), world)
    assert told(found) == [("change", "organization", "yangtze-robotics")]
    (step,) = found.steps
    assert [each.field for each in step.differences] == ["legalName"]
    assert step.requests[0].etag == "e1"


def test_what_a_row_has_beside_the_world_stays() -> None:
    world = whole()
    rows = held(world)
    for row in rows:
        if row["kind"] == "organization":
            row["body"]["properties"]["documents"] = [{"name": "licence", "sha256": "0" * 64}]
            row["body"]["tags"] = {"a": "b"}
    found = plan(with_organization(world, legal_name="Another"), State(rows), secret)
    body = found.steps[0].requests[0].body
    assert body["properties"]["documents"]
    assert body["tags"] == {"a": "b"}


def test_secrets_are_sent_where_they_differ() -> None:
    world = whole()
    upstream = msgspec.structs.replace(world.upstreams[0], credential="env:UP")
    world = msgspec.structs.replace(world, upstreams=(upstream,))
    assert planned(world, world).steps == ()
    found = planned(with_account(world, keys=declared.Keys("sha256:" + "1" * 64)), world)
    (step,) = found.steps
    assert step.requests[-1].path.endswith("/setKeys")
    assert step.requests[-1].body == {"key1": "sha256:" + "1" * 64}
    rows = held(world)
    for row in rows:
        if row["kind"] == "upstream":
            row["digests"] = {"credential": "sha256:another"}
    (step,) = plan(world, State(rows), secret).steps
    assert step.requests[0].body["properties"]["credentialValue"] == "up-key"
    assert "up-key" not in str(step.differences)


def test_a_secret_that_is_missing_here_is_kept_there_or_a_problem() -> None:
    world = whole()
    upstream = msgspec.structs.replace(world.upstreams[0], credential="env:UP")
    world = msgspec.structs.replace(world, upstreams=(upstream,))
    rows = held(world)
    gone = msgspec.structs.replace(world, upstreams=(msgspec.structs.replace(upstream, credential="env:ELSEWHERE"),))
    found = plan(gone, State(rows), secret)
    assert found.steps == ()
    assert "keeps the one that it has" in found.notes[0]
    assert any("env:ELSEWHERE" in each for each in plan(gone, State([]), secret).problems)


def test_accounts_widen_by_proposal_and_narrow_at_once() -> None:
    world = whole()
    found = planned(with_account(world, residency=("JP",)), world)
    assert told(found) == [("propose", "account", "robotics-ai")]
    assert found.steps[0].proposals[0].change == {"residency": ["JP"]}
    found = planned(with_account(world, state="suspended"), world)
    assert found.steps[0].requests[0].path.endswith("/suspend")
    found = planned(world, with_account(world, state="suspended"))
    assert found.steps[0].proposals[0].kind == "reinstatement"
    assert any("cannot move" in each for each in planned(with_account(world, location="elsewhere"), world).problems)


def test_limits_are_written() -> None:
    world = whole()
    limited = with_account(world, limits=declared.Quota(requests_per_minute=6), disable_local_auth=True)
    (step,) = planned(limited, world).steps
    wanted = {"disableLocalAuth": True, "limits": {"requestsPerMinute": 6}}
    assert (step.requests[0].method, step.requests[0].body) == ("PATCH", {"properties": wanted})
    (step,) = planned(world, limited).steps
    assert step.requests[0].body == {"properties": {"disableLocalAuth": None, "limits": None}}
    assert planned(limited, limited).steps == ()


ELIGIBLE = {"eligibility": [{"name": "a"}, {"name": "b", "expires": "2027-01-01T00:00:00Z"}]}


@pytest.mark.parametrize(
    ("before", "after", "kept", "proposed"),
    [
        ({}, ELIGIBLE, [], ["a", "b"]),
        (ELIGIBLE, ELIGIBLE, ["a", "b"], []),
        (ELIGIBLE, {"eligibility": [{"name": "b", "expires": "2026-12-01T00:00:00Z"}]}, ["b"], []),
        (ELIGIBLE, {"eligibility": [{"name": "b"}]}, ["b"], ["b"]),
        (ELIGIBLE, {}, [], []),
    ],
)
def test_eligibilities(before: Any, after: Any, kept: list[str], proposed: list[str]) -> None:
    written, proposals = organization("/o", before, after)
    assert [each["name"] for each in written.get("eligibility", [])] == kept
    assert [each.change["name"] for each in proposals] == proposed


def test_a_later_end_leaves_the_present_one_until_it_is_approved() -> None:
    written, _ = organization("/o", ELIGIBLE, {"eligibility": [{"name": "b"}]})
    assert written["eligibility"] == [{"name": "b", "expires": "2027-01-01T00:00:00Z"}]


def test_a_rejection_is_lifted_by_two() -> None:
    written, proposals = organization("/o", {"kyc": "rejected"}, {"kyc": "approved", "kycExpires": "2027-01-01"})
    assert written == {"kyc": "rejected"}
    assert proposals[0].change == {"kyc": "approved", "kycExpires": "2027-01-01"}
    written, proposals = organization("/o", {"screening": "hit"}, {"screening": "unknown"})
    assert (written, proposals) == ({"screening": "hit"}, ())


def test_what_a_world_does_not_have_is_kept_unless_it_is_told_otherwise() -> None:
    world = whole()
    less = msgspec.structs.replace(
        world, accounts=world.accounts[:1], subscriptions=world.subscriptions[:1], organizations=world.organizations[:1]
    )
    assert planned(less, world).steps == ()
    assert planned(less, world).kept["account"] == ("meridian-direct",)
    found = planned(less, world, "deployment", "account")
    assert told(found) == [
        ("delete", "deployment", "meridian-direct/assistant"),
        ("delete", "account", "meridian-direct"),
    ]
    everything = planned(less, world, "deployment", "account", "resourceGroup", "subscription", "organization")
    staged = [steps[0].kind for steps in everything.staged()]
    assert staged == ["deployment", "account", "resourceGroup", "subscription", "organization"]


def test_what_is_declared_may_be_drawn() -> None:
    world = whole()
    large = declared.Deployment("large", "entrepot-tiny", "1", "Standard", 5_000)
    world = with_account(world, deployments=(*world.accounts[0].deployments, large))
    (step,) = [each for each in planned(world).steps if each.kind == "subscription" and each.name[0] == "1"]
    name = f"{world.accounts[0].location}/OpenAI.Standard.entrepot-tiny"
    assert step.requests[0].body["properties"]["quotas"] == {name: 5_001}


def test_a_proposal_that_waits_is_found() -> None:
    (step,) = [each for each in planned(whole()).steps if each.proposals and each.kind == "organization"]
    proposal = step.proposals[0]
    there = {"kind": "eligibility", "subject": proposal.subject.upper(), "change": {**proposal.change, "grounds": "x"}}
    assert find_proposal(proposal, [{"name": "p1", "properties": there}]) == "p1"
    assert find_proposal(proposal, [{"name": "p1", "properties": there | {"subject": "/else"}}]) is None


def test_the_world_of_a_control_plane_and_what_can_be_carried_of_it() -> None:
    world = whole()
    found = State(held(world)).world(world.gateway.log_name)
    assert {each.name for each in found.accounts} == {each.name for each in world.accounts}
    assert body_of("organization", found.organizations[-1])
    assert found.gateway.territory == world.gateway.territory
    two = tuple(
        msgspec.structs.replace(world.upstreams[0], name=name, credential="secret:x") for name in ("a.b", "a-b")
    )
    carried, variables = portable(msgspec.structs.replace(found, upstreams=two))
    assert variables == {"ENTREPOT_UPSTREAM_A_B": "a.b", "ENTREPOT_UPSTREAM_A_B_2": "a-b"}
    assert [each.credential for each in carried.upstreams] == [f"env:{name}" for name in variables]
    assert carried.packs[0].name == "entrepot:base"
    assert all(pack.name.startswith(("entrepot:", "packs/")) for pack in carried.packs)
